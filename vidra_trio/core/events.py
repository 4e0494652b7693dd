"""What happened to jobs: the facts that are published in rooms.

1. An event names its rooms and carries values only; `wire.payloads` spells it.
2. `merge_key` is None for a fact that must arrive (lifecycle, log lines). For a
   state of something it is that thing: a newer event of the same key may replace
   an older one that a slow reader has not got yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable
    from datetime import datetime

    from vidra_trio.core.job import LogEntry, Snapshot, Summary
    from vidra_trio.core.states import JobState, Reason

Room = str
OVERVIEW: Final[Room] = "overview"


def job_room(job_id: str) -> Room:
    """Return the room of one job."""
    return f"job:{job_id}"


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A job's state, or what is known of it, changed (`update`)."""

    job: Snapshot
    reason: Reason
    at: datetime

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Everybody, and those who watch this job."""
        return (OVERVIEW, job_room(self.job.job_id))

    @property
    def merge_key(self) -> Hashable | None:
        """Never merged: each reason is a fact of its own."""
        return None


@dataclass(frozen=True, slots=True)
class JobDeleted:
    """A job ceased to exist (`update`, reason `deleted`)."""

    job_id: str
    previous: JobState
    at: datetime

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Everybody, and those who watch this job."""
        return (OVERVIEW, job_room(self.job_id))

    @property
    def merge_key(self) -> Hashable | None:
        """Never merged."""
        return None


@dataclass(frozen=True, slots=True)
class OverviewChanged:
    """The counts changed (`overview`)."""

    summary: Summary
    at: datetime

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Everybody."""
        return (OVERVIEW,)

    @property
    def merge_key(self) -> Hashable | None:
        """The newest counts say it all."""
        return "overview"


@dataclass(frozen=True, slots=True)
class ProgressChanged:
    """A job moved on (`progress`)."""

    job: Snapshot
    at: datetime

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Those who watch this job."""
        return (job_room(self.job.job_id),)

    @property
    def merge_key(self) -> Hashable | None:
        """One per job: each event is the whole state of its progress."""
        return ("progress", self.job.job_id)


@dataclass(frozen=True, slots=True)
class Logged:
    """A line was added to a job's log (`log`)."""

    job_id: str
    entry: LogEntry

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Those who watch this job."""
        return (job_room(self.job_id),)

    @property
    def merge_key(self) -> Hashable | None:
        """Never merged: clients append lines."""
        return None


@dataclass(frozen=True, slots=True)
class InfoChanged:
    """What a job's URL is became known (`global_info`)."""

    job: Snapshot
    at: datetime

    @property
    def rooms(self) -> tuple[Room, ...]:
        """Those who watch this job."""
        return (job_room(self.job.job_id),)

    @property
    def merge_key(self) -> Hashable | None:
        """Never merged: it precedes the first progress."""
        return None


Event = JobChanged | JobDeleted | OverviewChanged | ProgressChanged | Logged | InfoChanged
