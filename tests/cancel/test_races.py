"""Two things at once: commands, a job's own end, a shutdown. One owner, one outcome.

Over the real engines. Who comes first is left to chance (Trio shuffles what is ready, and
a real download takes as long as it takes); what is insisted on holds for every order: each
state follows from the one before, a cancel that was accepted wins, the files agree with
the end, and nothing is left.
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cancel.cell import Cell, play
from tests.cancel.house import House, open_house
from tests.cancel.phases import PHASES, Phase, file_of
from tests.support.engines import ENGINES, wait_until
from tests.support.origin import digest
from vidra_trio.client import Client, ClientError, RemoteJob
from vidra_trio.core import lifecycle
from vidra_trio.core.errors import CommandRefused, JobNotFound
from vidra_trio.core.lifecycle import COMMANDS, EVENTS, Move, Plain
from vidra_trio.core.states import Command, JobState
from vidra_trio.wire.words import parse_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.loops import Loop
    from vidra_trio.supervisor import Supervisor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what is left is counted in /proc"),
]

S, C = JobState, Command

(SLOW,) = (phase for phase in PHASES if phase.name == "direct, slow")
SMALL = Phase("small", file_of(30_000), lambda scene: True, identified=True)

LEADS_TO = {(state, to) for state, row in EVENTS.items() for to in row.values()} | {
    (state, cell.to)
    for state, row in COMMANDS.items()
    for cell in row.values()
    if isinstance(cell, Move)
}
"""Every move of the two tables."""

Pair = tuple[Command, Command]
PAIRS = [
    (S.RUNNING, (C.CANCEL, C.CANCEL)),
    (S.RUNNING, (C.CANCEL, C.PAUSE)),
    (S.RUNNING, (C.CANCEL, C.DELETE)),
    (S.RUNNING, (C.PAUSE, C.PAUSE)),
    (S.RUNNING, (C.PAUSE, C.RESUME)),
    (S.RUNNING, (C.PAUSE, C.RETRY)),
    (S.PAUSED, (C.CANCEL, C.CANCEL)),
    (S.PAUSED, (C.CANCEL, C.DELETE)),
    (S.PAUSED, (C.RESUME, C.CANCEL)),
    (S.PAUSED, (C.RESUME, C.PAUSE)),
    (S.PAUSED, (C.RESUME, C.RESUME)),
    (S.PAUSED, (C.RETRY, C.CANCEL)),
    (S.PAUSED, (C.RETRY, C.RESUME)),
]

OFTEN, COSTLY = 15, 5
"""Races with a job's end; COSTLY ones, if each takes a worker along."""


@pytest.fixture(scope="module", params=ENGINES)
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop[House]]:
    """Keep one engine warm for all races under it."""
    with open_house(request.param, tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.mark.parametrize(("state", "pair"), PAIRS, ids=lambda one: _words(one))
def test_two_commands_at_once(
    house: Loop[House], state: JobState, pair: Pair, tmp_path: Path
) -> None:
    """The outcome is that of one after the other, whichever was the first."""
    house.run(play, house.opened, SLOW, partial(two_at_once, state, pair), tmp_path)


@pytest.mark.parametrize("command", [C.CANCEL, C.PAUSE, C.RETRY, C.DELETE], ids=str)
def test_a_command_in_the_moment_of_the_end(
    house: Loop[House], command: Command, tmp_path: Path
) -> None:
    """It finds a job on its way or one that is done, and never anything between the two."""
    house.run(play, house.opened, SMALL, partial(at_the_end, command, 0.0), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("command", [C.CANCEL, C.PAUSE, C.RETRY, C.DELETE], ids=str)
def test_many_commands_in_the_moment_of_the_end(
    house: Loop[House], command: Command, tmp_path: Path
) -> None:
    """The same, at finer intervals."""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        house.run(play, house.opened, SMALL, partial(at_the_end, command, number / 20), folder)


@pytest.mark.parametrize("seconds", [0.0, 0.005])
@pytest.mark.parametrize(
    ("state", "word"),
    [
        (S.RUNNING, "cancel"),
        (S.RUNNING, "pause"),
        (S.PAUSED, "cancel"),
        (S.PAUSED, "resume"),
        (S.PAUSED, "retry"),
    ],
    ids=str,
)
def test_a_command_and_a_shutdown(
    house: Loop[House], state: JobState, word: str, seconds: float, tmp_path: Path
) -> None:
    """What was answered holds after a restart; what was not has happened, or has not."""
    house.run(play, house.opened, SLOW, partial(beside_a_shutdown, state, word, seconds), tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_commands(house: Loop[House], seed: int, tmp_path: Path) -> None:
    """Whatever is asked and however fast: a legal story, and in the end nothing is left."""
    house.run(play, house.opened, SLOW, partial(storm, seed), tmp_path)


# -- what happens


async def two_at_once(state: JobState, pair: Pair, cell: Cell) -> None:
    async with cell.in_phase():
        supervisor = cell.server.supervisor
        await bring_to(state, cell)
        async with trio.open_nursery() as nursery:
            for command in pair:
                nursery.start_soon(obey, supervisor, cell.job, command)
        cell.scene.mend()
        end = await settled(cell)
        assert end in {outcome(state, pair), outcome(state, pair[::-1])}
        assert_legal(cell, end)
        await clear(cell)


async def at_the_end(command: Command, shift: float, cell: Cell) -> None:
    costly = cell.house.kind == "process" and command in (C.CANCEL, C.PAUSE)
    often = COSTLY if costly else OFTEN
    async with cell.connected() as client:
        supervisor = cell.server.supervisor
        began = trio.current_time()
        await create(cell, client)
        await settled(cell)
        took = trio.current_time() - began
        await clear(cell)
        for number in range(often):
            await cell.house.quiet()
            await create(cell, client)
            await trio.sleep(1.3 * took * (number + shift) / often)  # not waited for: aimed at
            await obey(supervisor, cell.job, command)
            assert_legal(cell, await settled(cell))
            await clear(cell)


async def beside_a_shutdown(state: JobState, word: str, seconds: float, cell: Cell) -> None:
    answers: list[RemoteJob] = []

    async def ask(client: Client) -> None:
        with suppress(ClientError):  # the server was gone already
            answers.append(await getattr(client, word)(cell.job))

    async with trio.open_nursery() as nursery, cell.serving():
        client = await nursery.start(cell.subscribe)
        await cell.enter_phase(client)
        await bring_to(state, cell)
        nursery.start_soon(ask, client)
        await trio.sleep(seconds)
    accepted = bool(answers)
    async with cell.connected() as client:
        found = await cell.state(client)
        match word:
            case "cancel":
                assert found is S.CANCELLED or not accepted
            case "pause":
                assert found is S.PAUSED or not accepted
            case _:
                assert found is S.FAILED or not accepted
        cell.scene.mend()
        if found in (S.PAUSED, S.FAILED):
            await obey(cell.server.supervisor, cell.job, C.RESUME)
        else:
            assert found is S.CANCELLED
        assert_files_agree(cell, (await cell.server.supervisor.wait_settled(cell.job)).state)
        await clear(cell)


async def storm(seed: int, cell: Cell) -> None:
    chance = random.Random(seed)
    commands = (C.CANCEL, C.PAUSE, C.RESUME, C.RESUME, C.RETRY, C.RETRY)
    async with cell.in_phase():
        supervisor = cell.server.supervisor

        async def later(seconds: float, command: Command) -> None:
            await trio.sleep(seconds)
            await obey(supervisor, cell.job, command)

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(later, 2 * chance.random(), chance.choice(commands))
        cell.scene.mend()
        assert_legal(cell, await settled(cell))
        await clear(cell)


async def create(cell: Cell, client: Client) -> None:
    cell.job = (await client.create(cell.url)).job_id


async def bring_to(state: JobState, cell: Cell) -> None:
    """Bring a running job to the state that a race begins in."""
    if state is S.PAUSED:
        await cell.server.supervisor.apply(cell.job, C.PAUSE)
        assert (await cell.server.supervisor.wait_settled(cell.job)).state is state


async def obey(supervisor: Supervisor, job: str, command: Command) -> None:
    """Give a command; a refusal is an answer, too."""
    with suppress(CommandRefused, JobNotFound):
        await supervisor.apply(job, command)


async def settled(cell: Cell) -> JobState | None:
    """Wait for the job's end, and until the subscriber was told of it; None: it is gone."""
    try:
        end = (await cell.server.supervisor.wait_settled(cell.job)).state
    except JobNotFound:
        end = None
    last = "deleted" if end is None else end.value
    await wait_until(lambda: cell.statuses[-1:] == [last])
    return end


async def clear(cell: Cell) -> None:
    """Take away what a job may rightly leave: its file, or its parts."""
    await obey(cell.server.supervisor, cell.job, C.CANCEL)
    for name in cell.left():
        (cell.downloads / name).unlink()


# -- what is insisted on


def outcome(state: JobState | None, commands: Sequence[Command]) -> JobState | None:
    """Return where commands lead, one after the other, if nothing else is in the way."""
    for command in commands:
        cell = Plain.REFUSED if state is None else COMMANDS[state][command]
        if isinstance(cell, Move):
            state = cell.to
        elif cell is Plain.REMOVE:
            state = None
    ends = {
        S.CANCELLING: S.CANCELLED,
        S.PAUSING: S.PAUSED,
        S.QUEUED: S.COMPLETED,
        S.RUNNING: S.COMPLETED,
    }
    return None if state is None else ends.get(state, state)


def assert_legal(cell: Cell, end: JobState | None) -> None:
    """Insist on a story in which each state follows from the one before, once."""
    told = [parse_status(word) for word in cell.statuses if word != "deleted"]
    assert told[0] is S.QUEUED
    for before, after in pairwise(told):
        assert before is not None
        assert after is not None
        again = before is after and before in lifecycle.ALIVE
        assert again or (before, after) in LEADS_TO, cell.story
    assert cell.statuses.count("deleted") == (end is None), cell.story
    assert_files_agree(cell, told[-1] if end is None else end)


def assert_files_agree(cell: Cell, end: JobState | None) -> None:
    """Insist that what is at the destination is what the job's end promises.

    A cancel that comes while the file is being put in its place comes too late for the
    file: it stays, whole, and the job lists it.
    """
    files = [name for name in cell.left() if not name.startswith(".vidra-")]
    work = [name for name in cell.left() if name.startswith(".vidra-")]
    match end:
        case S.COMPLETED:
            assert [digest(cell.downloads / name) for name in files] == [cell.scene.digest]
            assert work == []
        case S.CANCELLED:
            assert all(digest(cell.downloads / name) == cell.scene.digest for name in files)
            assert files == listed_files(cell)
            assert work == []
        case S.PAUSED:
            assert files == []
        case _:
            pytest.fail(f"{end}: {cell.story}")


def listed_files(cell: Cell) -> list[str]:
    """Return the names of the files that the job says it made; none if it is gone."""
    with suppress(JobNotFound):
        return [Path(one).name for one in cell.server.supervisor.get(cell.job).generated_files]
    return []


def _words(one: JobState | Pair) -> str:
    return "+".join(map(str, one)) if isinstance(one, tuple) else str(one)
