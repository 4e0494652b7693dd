"""The words of the lifecycle, as types.

A state, an event, a command is one of these from the moment it is parsed until
it is dumped. The wire's spelling of a state lives in `wire.words`.
"""

from __future__ import annotations

import enum


class JobState(enum.Enum):
    """Where a job stands. `core.lifecycle` holds every legal move."""

    QUEUED = "queued"
    STARTING = "starting"
    SELECTING = "selecting"  # waits for the user's playlist selection; the wire says `starting`
    RUNNING = "running"
    RETRYING = "retrying"  # on the wire only: clients show it, no transition leads to it
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"

    def __str__(self) -> str:
        return self.value


class JobEvent(enum.Enum):
    """What happens to a job by itself; what users ask for is a `Command`."""

    BEGIN = "begin"  # a slot is free, the engine is asked to run
    IDENTIFIED = "identified"  # the engine knows what the URL is
    NEEDS_SELECTION = "needs_selection"
    FINISHED = "finished"
    FINISHED_WITH_ERRORS = "finished_with_errors"
    BROKE = "broke"
    STOPPED = "stopped"  # the engine let go; why is in the state

    def __str__(self) -> str:
        return self.value


class Command(enum.Enum):
    """What a client may ask of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    DELETE = "delete"
    SELECT = "select"
    RETRY_ENTRIES = "retry_entries"
    DELETE_ENTRIES = "delete_entries"

    def __str__(self) -> str:
        return self.value


class JobKind(enum.Enum):
    """What a job's URL turned out to be."""

    UNKNOWN = "unknown"
    VIDEO = "video"
    PLAYLIST = "playlist"


class Reason(enum.Enum):
    """Why an `update` is sent (the wire's `reason`)."""

    CREATED = "created"
    STARTED = "started"
    UPDATED = "updated"
    PREVIEW_READY = "preview_ready"
    RESUMED = "resumed"
    RETRY = "retry"
    PAUSING = "pausing"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    RESTORED = "restored"
    DELETED = "deleted"
    INITIAL_SYNC = "initial_sync"


class Level(enum.Enum):
    """How loud a line of a job's log is."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
