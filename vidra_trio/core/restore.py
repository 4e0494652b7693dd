"""What a stored job becomes when the server starts.

A crash is a late shutdown: whatever was alive is fed STOPPED. What that leaves
in the queue goes on (`resume`), waits for its user (`hold`) or has failed
(`fail`). A job that was at work in two crashes in a row may be their cause, and
does not go on by itself.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vidra_trio.core import lifecycle
from vidra_trio.core.progress import ended
from vidra_trio.core.states import JobEvent, JobState, Level

if TYPE_CHECKING:
    from datetime import datetime

    from vidra_trio.core.job import Snapshot

INTERRUPTED: Final = "interrupted"
CRASHED_AGAIN: Final = "crashed_again"

MAX_CRASHES: Final = 2
"""Crashes in a row with the job at work after which it is parked."""

_MESSAGES: Final = {
    INTERRUPTED: "the server was stopped while this job was active",
    CRASHED_AGAIN: "the server crashed twice while this job was at work",
}


class Policy(enum.Enum):
    """What becomes of jobs that a stop found in the queue or at work."""

    RESUME = "resume"
    HOLD = "hold"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Restored:
    """A job as it starts this life, and the line that its log gets."""

    snapshot: Snapshot
    level: Level
    message: str


def restore(stored: Snapshot, now: datetime, policy: Policy = Policy.RESUME) -> Restored:
    """Return `stored` as it starts: settled, waiting for a selection, or in the queue."""
    state = stored.state
    if state in lifecycle.ALIVE:
        state = lifecycle.advance(state, JobEvent.STOPPED)
    if state is JobState.QUEUED:
        return _interrupted(stored, now, policy)
    snapshot = dataclasses.replace(stored, state=state)
    if state is JobState.SELECTING:
        snapshot = dataclasses.replace(snapshot, error=None, error_code=None, finished_at=None)
    elif state is not stored.state:
        snapshot = dataclasses.replace(snapshot, progress=ended(stored.progress, state.value))
    if state in lifecycle.TERMINAL and stored.finished_at is None:
        snapshot = dataclasses.replace(snapshot, finished_at=now)
    return Restored(snapshot, Level.INFO, f"restored as {state}")


def _interrupted(stored: Snapshot, now: datetime, policy: Policy) -> Restored:
    """Put a job that had not come to its end back into the queue, or aside."""
    # At a stop in order, what was at work is stored as in the queue.
    crashes = stored.crashes + (stored.state is not JobState.QUEUED)
    stored = dataclasses.replace(stored, crashes=crashes)
    if policy is Policy.HOLD:
        return _aside(stored, JobState.PAUSED)
    if policy is Policy.FAIL:
        return _failed(stored, now, INTERRUPTED)
    if crashes >= MAX_CRASHES:
        return _failed(stored, now, CRASHED_AGAIN)
    return _aside(stored, JobState.QUEUED)


def _aside(stored: Snapshot, state: JobState) -> Restored:
    snapshot = dataclasses.replace(
        stored,
        state=state,
        error=None,
        error_code=None,
        finished_at=None,
        progress=ended(stored.progress, state.value),
    )
    return Restored(snapshot, Level.INFO, f"restored as {state}")


def _failed(stored: Snapshot, now: datetime, code: str) -> Restored:
    snapshot = dataclasses.replace(
        stored,
        state=JobState.FAILED,
        error=stored.error or _MESSAGES[code],
        error_code=stored.error_code or code,
        finished_at=stored.finished_at or now,
        progress=ended(stored.progress, JobState.FAILED.value),
    )
    return Restored(snapshot, Level.WARNING, _MESSAGES[code])
