"""The two tables, cell by cell."""

from __future__ import annotations

from itertools import product

import pytest

from vidra_trio.core import lifecycle
from vidra_trio.core.errors import CommandRefused, DeleteRefused, IllegalTransition
from vidra_trio.core.lifecycle import COMMANDS, EVENTS, Move, Plain, advance, decide
from vidra_trio.core.states import Command, JobEvent, JobState

S, E, C = JobState, JobEvent, Command

# The contract's table, written a second time by hand: one line a state, one word a
# command (cancel pause resume retry delete select entry-retry entry-delete).
# "=" a no-op answered 200, "-" refused, "x" removed, "." accepted where it is,
# a state's name: a move.
CONTRACT = """
queued                 cancelling  =        -       =       -  queued     =       =
starting               cancelling  pausing  -       -       -  =          -       =
selecting              x           pausing  -       -       -  starting   -       =
running                cancelling  pausing  -       =       -  =          =       =
retrying               cancelling  pausing  -       -       -  =          -       =
pausing                cancelling  =        -       -       -  =          -       =
paused                 cancelled   =        queued  queued  -  paused     -       =
cancelling             cancelling  =        -       -       -  =          -       =
cancelled              =           -        -       queued  x  -          queued  .
failed                 cancelled   -        queued  queued  x  -          queued  .
completed              =           -        -       queued  x  -          queued  .
completed_with_errors  =           =        -       queued  x  -          queued  .
"""


def _expected() -> dict[tuple[JobState, Command], object]:
    plain = {"=": Plain.NOOP, "-": Plain.REFUSED, "x": Plain.REMOVE}
    return {
        (JobState(state), command): plain.get(word)
        or Move(JobState(state if word == "." else word))
        for state, *words in (line.split() for line in CONTRACT.strip().splitlines())
        for command, word in zip(Command, words, strict=True)
    }


@pytest.mark.parametrize(("state", "command"), list(product(JobState, Command)))
def test_each_command_does_what_the_contract_says(state: JobState, command: Command) -> None:
    """Every cell of the command table is the contract's."""
    assert COMMANDS[state][command] == _expected()[state, command]


@pytest.mark.parametrize(("state", "command"), list(product(JobState, Command)))
def test_a_refused_command_raises_and_all_others_are_looked_up(
    state: JobState, command: Command
) -> None:
    """`decide` raises exactly for the refusing cells, with the facts and the right code."""
    cell = COMMANDS[state][command]
    if cell is not Plain.REFUSED:
        assert decide(state, command) == cell
        return
    with pytest.raises(CommandRefused) as refused:
        decide(state, command)
    assert (refused.value.state, refused.value.command) == (state, command)
    assert isinstance(refused.value, DeleteRefused) == (command is C.DELETE)


@pytest.mark.parametrize(("state", "event"), list(product(JobState, JobEvent)))
def test_an_event_moves_or_is_a_defect(state: JobState, event: JobEvent) -> None:
    """`advance` follows the table and refuses everything else loudly."""
    if event in EVENTS[state]:
        assert advance(state, event) is EVENTS[state][event]
        return
    with pytest.raises(IllegalTransition) as illegal:
        advance(state, event)
    assert (illegal.value.state, illegal.value.event) == (state, event)


def test_the_derived_sets_are_the_contract_s() -> None:
    """What the wire calls terminal and active follows from the tables."""
    assert lifecycle.TERMINAL == {S.COMPLETED, S.COMPLETED_WITH_ERRORS, S.FAILED, S.CANCELLED}
    assert lifecycle.SETTLED == lifecycle.TERMINAL | {S.PAUSED}
    active = {S.RUNNING, S.CANCELLING, S.PAUSING, S.STARTING, S.RETRYING, S.SELECTING}
    assert lifecycle.ACTIVE == active


def test_cancel_wins() -> None:
    """Whatever else happens to a job that is being cancelled, it ends cancelled."""
    for state in EVENTS[S.CANCELLING].values():
        assert state in (S.CANCELLING, S.CANCELLED)


def test_every_state_but_the_wire_s_own_word_is_reachable() -> None:
    """No row of the tables is dead, except RETRYING, which only clients use."""
    seen, fresh = {S.QUEUED}, {S.QUEUED}
    while fresh:
        moves = {cell.to for s in fresh for cell in COMMANDS[s].values() if isinstance(cell, Move)}
        events = {to for s in fresh for to in EVENTS[s].values()}
        fresh = (moves | events) - seen
        seen |= fresh
    assert seen == set(JobState) - {S.RETRYING}


def test_every_alive_job_can_be_stopped_to_an_end() -> None:
    """From each alive state a cancel, then the engine letting go, ends in `cancelled`."""
    for state in lifecycle.ALIVE - {S.SELECTING}:
        cell = decide(state, C.CANCEL)
        assert isinstance(cell, Move)
        assert advance(cell.to, E.STOPPED) is S.CANCELLED


def test_words_read_as_words() -> None:
    """States, events and commands print as what they are called."""
    assert f"{S.RUNNING} {E.BEGIN} {C.RETRY_ENTRIES}" == "running begin retry_entries"
