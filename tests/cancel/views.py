"""A run as a phase looks at it, whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vidra_trio.core.report import Identified, Line, Tick

if TYPE_CHECKING:
    from vidra_trio.core.report import Report
    from vidra_trio.supervisor import Supervisor


@dataclass
class JobView:
    """A run seen through its job."""

    supervisor: Supervisor
    job_id: str

    @property
    def identified(self) -> bool:
        return self.supervisor.get(self.job_id).preview is not None

    @property
    def downloaded(self) -> int:
        return self.supervisor.get(self.job_id).progress.downloaded_bytes or 0

    @property
    def lines(self) -> list[str]:
        return [entry.message for entry in self.supervisor._find(self.job_id).log or ()]


@dataclass
class RunView:
    """A run seen through its reports."""

    reports: list[Report] = field(default_factory=list)

    @property
    def identified(self) -> bool:
        return any(isinstance(one, Identified) for one in self.reports)

    @property
    def downloaded(self) -> int:
        return max(
            (one.downloaded_bytes for one in self.reports if isinstance(one, Tick)), default=0
        )

    @property
    def lines(self) -> list[str]:
        return [one.message for one in self.reports if isinstance(one, Line)]
