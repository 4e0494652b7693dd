"""What a stored job becomes when the server starts.

A crash is a late shutdown: whatever was alive is fed STOPPED, and what that
leaves waiting for a slot is parked as failed, because its run is gone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vidra_trio.core import lifecycle
from vidra_trio.core.progress import ended
from vidra_trio.core.states import JobEvent, JobState, Level

if TYPE_CHECKING:
    from datetime import datetime

    from vidra_trio.core.job import Snapshot

INTERRUPTED: Final = "interrupted"
_MESSAGE: Final = "the server was stopped while this job was active"


@dataclass(frozen=True, slots=True)
class Restored:
    """A job as it starts this life, and the line that its log gets."""

    snapshot: Snapshot
    level: Level
    message: str


def restore(stored: Snapshot, now: datetime) -> Restored:
    """Settle `stored`: no job is alive right after a start."""
    state = stored.state
    if state in lifecycle.ALIVE:
        state = lifecycle.advance(state, JobEvent.STOPPED)
    if state in (JobState.QUEUED, JobState.SELECTING):
        return _parked(stored, now)
    snapshot = dataclasses.replace(stored, state=state)
    if state is not stored.state:
        snapshot = dataclasses.replace(snapshot, progress=ended(stored.progress, state.value))
    if state in lifecycle.TERMINAL and stored.finished_at is None:
        snapshot = dataclasses.replace(snapshot, finished_at=now)
    return Restored(snapshot, Level.INFO, f"restored as {state}")


def _parked(stored: Snapshot, now: datetime) -> Restored:
    snapshot = dataclasses.replace(
        stored,
        state=JobState.FAILED,
        error=stored.error or _MESSAGE,
        error_code=stored.error_code or INTERRUPTED,
        finished_at=stored.finished_at or now,
        progress=ended(stored.progress, JobState.FAILED.value),
    )
    return Restored(snapshot, Level.WARNING, _MESSAGE)
