"""The lifecycle of a job, as two tables.

1. `COMMANDS` says what each command does in each state: a move, a no-op that
   is answered all the same, a refusal, or the job's removal.
2. `EVENTS` says where the engine's and the runner's news lead.
3. Nobody else assigns a state, and no set of states is listed anywhere:
   ALIVE, TERMINAL and the rest below are read off the tables.
4. STOPPED says only that the engine let go; why is in the state. So one event
   ends a pause, a cancel, a shutdown and (fed at boot) a crash.
5. Once CANCELLING, no news leads anywhere but CANCELLED: cancel wins.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vidra_trio.core.errors import CommandRefused, DeleteRefused, IllegalTransition
from vidra_trio.core.states import Command, JobEvent, JobState

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Move:
    """The command is accepted and the job goes to `to` (perhaps where it is)."""

    to: JobState


class Plain(enum.Enum):
    """Cells that move nothing."""

    NOOP = "noop"  # answered 200 with the unchanged state
    REFUSED = "refused"  # answered 409
    REMOVE = "remove"  # the job ceases to exist


Cell = Move | Plain

S, E, C = JobState, JobEvent, Command
_NOOP, _REFUSED, _REMOVE = Plain.NOOP, Plain.REFUSED, Plain.REMOVE


def _row(
    cancel: Cell, pause: Cell, resume: Cell, retry: Cell, delete: Cell,
    select: Cell, retry_entries: Cell, delete_entries: Cell,
) -> Mapping[Command, Cell]:  # fmt: skip
    cells = (cancel, pause, resume, retry, delete, select, retry_entries, delete_entries)
    return dict(zip(Command, cells, strict=True))


_STARTING = _row(
    Move(S.CANCELLING), Move(S.PAUSING), _REFUSED, _REFUSED, _REFUSED,
    _NOOP, _REFUSED, _NOOP,
)  # fmt: skip

# Columns: cancel, pause, resume, retry, delete, select, retry entries, delete entries.
COMMANDS: Final[Mapping[JobState, Mapping[Command, Cell]]] = {
    S.QUEUED: _row(
        Move(S.CANCELLING), _NOOP, _REFUSED, _NOOP, _REFUSED,
        Move(S.QUEUED), _NOOP, _NOOP,
    ),
    S.STARTING: _STARTING,
    S.SELECTING: _row(
        _REMOVE, Move(S.PAUSING), _REFUSED, _REFUSED, _REFUSED,
        Move(S.STARTING), _REFUSED, _NOOP,
    ),
    S.RUNNING: _row(
        Move(S.CANCELLING), Move(S.PAUSING), _REFUSED, _NOOP, _REFUSED,
        _NOOP, _NOOP, _NOOP,
    ),
    S.RETRYING: _STARTING,
    S.PAUSING: _row(
        Move(S.CANCELLING), _NOOP, _REFUSED, _REFUSED, _REFUSED,
        _NOOP, _REFUSED, _NOOP,
    ),
    S.PAUSED: _row(
        Move(S.CANCELLED), _NOOP, Move(S.QUEUED), Move(S.QUEUED), _REFUSED,
        Move(S.PAUSED), _REFUSED, _NOOP,
    ),
    S.CANCELLING: _row(
        Move(S.CANCELLING), _NOOP, _REFUSED, _REFUSED, _REFUSED,
        _NOOP, _REFUSED, _NOOP,
    ),
    S.CANCELLED: _row(
        _NOOP, _REFUSED, _REFUSED, Move(S.QUEUED), _REMOVE,
        _REFUSED, Move(S.QUEUED), Move(S.CANCELLED),
    ),
    S.FAILED: _row(
        Move(S.CANCELLED), _REFUSED, Move(S.QUEUED), Move(S.QUEUED), _REMOVE,
        _REFUSED, Move(S.QUEUED), Move(S.FAILED),
    ),
    S.COMPLETED: _row(
        _NOOP, _REFUSED, _REFUSED, Move(S.QUEUED), _REMOVE,
        _REFUSED, Move(S.QUEUED), Move(S.COMPLETED),
    ),
    S.COMPLETED_WITH_ERRORS: _row(
        _NOOP, _NOOP, _REFUSED, Move(S.QUEUED), _REMOVE,
        _REFUSED, Move(S.QUEUED), Move(S.COMPLETED_WITH_ERRORS),
    ),
}  # fmt: skip

EVENTS: Final[Mapping[JobState, Mapping[JobEvent, JobState]]] = {
    S.QUEUED:     {E.BEGIN: S.STARTING, E.BROKE: S.FAILED, E.STOPPED: S.QUEUED},
    S.STARTING:   {E.IDENTIFIED: S.RUNNING, E.NEEDS_SELECTION: S.SELECTING,
                   E.FINISHED: S.COMPLETED,  # there already: nothing was asked of the site
                   E.FINISHED_WITH_ERRORS: S.COMPLETED_WITH_ERRORS,
                   E.BROKE: S.FAILED, E.STOPPED: S.QUEUED},
    S.SELECTING:  {E.BROKE: S.FAILED, E.STOPPED: S.SELECTING},
    S.RUNNING:    {E.IDENTIFIED: S.RUNNING, E.FINISHED: S.COMPLETED,
                   E.FINISHED_WITH_ERRORS: S.COMPLETED_WITH_ERRORS,
                   E.BROKE: S.FAILED, E.STOPPED: S.QUEUED},
    S.RETRYING:   {E.STOPPED: S.QUEUED},
    S.PAUSING:    {E.IDENTIFIED: S.PAUSING, E.FINISHED: S.COMPLETED,
                   E.FINISHED_WITH_ERRORS: S.COMPLETED_WITH_ERRORS,
                   E.BROKE: S.FAILED, E.STOPPED: S.PAUSED},
    S.CANCELLING: {E.IDENTIFIED: S.CANCELLING, E.FINISHED: S.CANCELLED,
                   E.FINISHED_WITH_ERRORS: S.CANCELLED,
                   E.BROKE: S.CANCELLED, E.STOPPED: S.CANCELLED},
    S.PAUSED: {}, S.CANCELLED: {}, S.FAILED: {}, S.COMPLETED: {}, S.COMPLETED_WITH_ERRORS: {},
}  # fmt: skip

ALIVE: Final = frozenset(state for state, row in EVENTS.items() if E.STOPPED in row)
"""States in which a job has a run (or waits for one): something will still happen to it."""

SETTLED: Final = frozenset(JobState) - ALIVE
"""States that a job does not leave by itself."""

TERMINAL: Final = frozenset(s for s, row in COMMANDS.items() if row[C.DELETE] is _REMOVE)
"""What the wire calls terminal: settled, and not merely paused."""

RESUMABLE: Final = frozenset(s for s, row in COMMANDS.items() if isinstance(row[C.RESUME], Move))
"""Settled states that a job may leave for where it stopped: its parts are kept."""

ACTIVE: Final = ALIVE - {S.QUEUED}
"""What the overview counts as active."""


def decide(state: JobState, command: Command) -> Cell:
    """Look up what `command` does to a job that is `state`.

    Raises:
        CommandRefused: the cell says so (DeleteRefused for a delete).
    """
    cell = COMMANDS[state][command]
    if cell is _REFUSED:
        raise (DeleteRefused if command is C.DELETE else CommandRefused)(state, command)
    return cell


def advance(state: JobState, event: JobEvent) -> JobState:
    """Return the state that `event` leads to.

    Raises:
        IllegalTransition: the table has no such cell, which is a defect of the caller.
    """
    try:
        return EVENTS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
