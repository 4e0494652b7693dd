"""A job as values: what was asked, and how it stands.

Nothing here changes in place. The runner that owns a job replaces its current
`Snapshot`; whoever was handed an older one keeps a consistent picture.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import lifecycle
from vidra_trio.core.progress import Progress
from vidra_trio.core.states import JobKind, JobState, Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id may be, wherever it comes from: it becomes a file name."""

LOG_LINES: Final = 200
"""Ring size per job; the old backend's number, and what the client keeps too."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the client asked, parsed. `options` are stored and echoed as they came."""

    urls: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    creator: str | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of a job's log."""

    timestamp: datetime
    level: Level
    message: str
    playlist_index: int | None = None
    playlist_entry_id: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The frozen public view of one job.

    `metadata` and `preview` are in wire form. `extra` holds
    members of the state file that we do not know; they are written back.
    """

    job_id: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    kind: JobKind = JobKind.UNKNOWN
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    error_code: str | None = None
    has_error_logs: bool = False
    progress: Progress = field(default_factory=Progress)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Any] | None = None
    destination: str | None = None  # where its files go, whatever the settings say later
    finished_items: tuple[int, ...] = ()  # indices into spec.urls that are on disk already
    generated_files: tuple[str, ...] = ()
    partial_files: tuple[str, ...] = ()
    main_file: str | None = None
    crashes: int = 0  # in a row, with this job at work
    options_version: int | None = None
    logs_version: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Something will still happen to this job by itself."""
        return self.state in lifecycle.ALIVE

    @property
    def terminal(self) -> bool:
        """At its end: completed, failed or cancelled."""
        return self.state in lifecycle.TERMINAL

    @property
    def leaves_nothing(self) -> bool:
        """Nothing was found or written yet: a cancel removes such a job altogether."""
        return self.preview is None and not (
            self.generated_files
            or self.partial_files
            or self.main_file
            or self.progress.filename
            or self.progress.tmpfilename
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """How many jobs there are, by state: the body of every `overview`."""

    counts: Mapping[JobState, int]

    @classmethod
    def of(cls, jobs: Iterable[Snapshot]) -> Summary:
        """Count `jobs`."""
        return cls(Counter(job.state for job in jobs))

    @property
    def total(self) -> int:
        """All jobs."""
        return sum(self.counts.values())

    @property
    def active(self) -> int:
        """Jobs with a run, the waiting ones not counted."""
        return sum(n for state, n in self.counts.items() if state in lifecycle.ACTIVE)

    @property
    def queued(self) -> int:
        """Jobs that wait for a slot."""
        return self.counts.get(JobState.QUEUED, 0)


def next_version(now_ms: int, last: int | None) -> int:
    """Return a version that exceeds every earlier one, even if the clock jumps back."""
    return now_ms if last is None else max(now_ms, last + 1)


def bare(snapshot: Snapshot, **changes: Any) -> Snapshot:  # noqa: ANN401 - mirrors dataclasses.replace
    """Return `snapshot` as a fresh run finds it: no progress, no error, no end."""
    return dataclasses.replace(
        snapshot,
        **{
            "progress": Progress(),
            "error": None,
            "error_code": None,
            "has_error_logs": False,
            "finished_at": None,
            "crashes": 0,
            **changes,
        },
    )
