"""Cancel wins: every command, in every phase, under both engines, and nothing left behind.

The rows are in `phases.py`. The columns are the functions below; each says what its
command promises. What a cell consists of, and what it insists on, is in `house.py`.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import TYPE_CHECKING

import pytest
import trio

from tests.cancel.cell import Cell, play
from tests.cancel.house import House, open_house, run_of
from tests.cancel.phases import PHASES, Phase
from tests.cancel.views import RunView
from tests.support.engines import ENGINES, wait_until
from vidra_trio.core.states import Command, JobState
from vidra_trio.watch import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.support.loops import Loop
    from vidra_trio.engine.base import RunSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="what is left is counted in /proc"),
]


async def cancel(cell: Cell) -> None:
    """The run ends; nothing of it is kept. A job of which nothing was found is gone, too."""
    async with cell.in_phase() as client:
        cell.asks()
        assert (await client.cancel(cell.job)).state is JobState.CANCELLING
        await cell.hears(*cell.cancelled)
        await cell.free_slot()
        assert cell.left() == []
        await cell.lets_go()
        assert await cell.state(client) is (JobState.CANCELLED if cell.phase.identified else None)
        assert cell.story == [*cell.story_so_far, "cancelling", *cell.cancelled]


async def pause(cell: Cell) -> None:
    """The run ends, its parts stay, and a resume goes on from them to the exact file."""
    async with cell.in_phase() as client:
        cell.asks()
        answer = await client.pause(cell.job)
        if cell.phase.waits:  # there is nothing to pause yet
            assert answer.state is JobState.QUEUED
            await cell.free_slot()
            told = [*cell.story_so_far, "started"]
        else:
            assert answer.state is JobState.PAUSING
            await cell.hears("paused")
            cell.keeps_its_parts()
            await cell.lets_go()
            assert cell.story == [*cell.story_so_far, "pausing", "paused"]
            told = [*cell.story, "resumed", "started"]
            cell.scene.mend()
            assert (await client.resume(cell.job)).state is JobState.RUNNING
        await wait_until(lambda: cell.story[-1] == "completed")
        assert cell.story == [*told, "preview_ready", "updated", "completed"]
        await cell.is_whole()
        cell.has_continued()


async def delete_after_cancel(cell: Cell) -> None:
    """Refused while the job is alive, which changes nothing; then it is forgotten for good."""
    async with cell.in_phase() as client:
        with pytest.raises(RequestRefused) as refused:
            await client.delete(cell.job)
        assert refused.value.status == 409
        assert cell.story == cell.story_so_far
        cell.asks()
        await client.cancel(cell.job)
        await cell.hears(*cell.cancelled)
        if cell.phase.identified:
            assert (await client.delete(cell.job)).gone
            await cell.hears("cancelled", "deleted")
        with pytest.raises(RequestRefused) as refused:
            await client.delete(cell.job)
        assert refused.value.status == 404
        await cell.free_slot()
        assert cell.left() == []
        await cell.lets_go()
        assert cell.files_of_the_job() == []


async def shutdown(cell: Cell) -> None:
    """The server is gone in time, subscribers are told 1001; the next one can resume the job."""
    async with trio.open_nursery() as nursery:
        async with cell.serving():
            await cell.enter_phase(await nursery.start(cell.subscribe))
            cell.asks()
        cell.has_really_ended()
    assert cell.closed_with == 1001
    assert cell.story == cell.story_so_far
    await cell.lets_go()
    async with cell.connected() as client:
        assert await cell.state(client) is JobState.FAILED
        cell.keeps_its_parts()
        await cell.forget_others(client)
        cell.scene.mend()
        assert (await client.resume(cell.job)).state is JobState.RUNNING
        await wait_until(lambda: cell.story[-1:] == ["completed"])
        await cell.is_whole()
        cell.has_continued()


async def client_gone(cell: Cell) -> None:
    """Nobody is asked, and the job goes on to its end: it belongs to the server."""
    async with cell.serving() as server:
        async with trio.open_nursery() as nursery:
            await cell.enter_phase(await nursery.start(cell.subscribe))
            state = server.supervisor.get(cell.job).state
            nursery.cancel_scope.cancel()
        assert server.supervisor.get(cell.job).state is state
        await cell.free_slot()
        if cell.phase.goes_on:
            cell.scene.mend()
            job = await server.supervisor.wait_settled(cell.job)
            assert job.state is JobState.COMPLETED, job.error
            await cell.is_whole()
        else:
            assert cell.phase.reached(cell.scene)
            await server.supervisor.apply(cell.job, Command.CANCEL)


async def caller_gone(cell: Cell) -> None:
    """Who cancels the task that runs an item gets it back when the item has really stopped."""
    spec = run_of(cell.url, cell.downloads, cell.phase.params(cell.scene))
    seen = RunView()
    cell.scene.view = seen

    async def run(spec: RunSpec) -> None:
        async with cell.house.engine.open(spec) as reports:
            async for report in reports:
                seen.reports.append(report)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, spec)
        await cell.scene.reach(cell.phase)
        cell.asks()
        nursery.cancel_scope.cancel()
    cell.has_really_ended()
    await cell.lets_go()
    await cell.house.engine.discard(cell.downloads / ".vidra-j")
    assert cell.left() == []


COMMANDS = (cancel, pause, delete_after_cancel, shutdown, client_gone, caller_gone)
CELLS = [
    (command, phase)
    for command, phase in product(COMMANDS, PHASES)
    if not (command is caller_gone and phase.waits)  # jobs wait outside of the engine
]


@pytest.fixture(scope="module", params=ENGINES)
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop[House]]:
    """Keep one engine warm for all cells under it."""
    with open_house(request.param, tmp_path_factory.mktemp("house")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("command", "phase"), CELLS, ids=lambda one: getattr(one, "__name__", str(one))
)
def test_a_command_in_a_phase(
    house: Loop[House],
    command: Callable[[Cell], Awaitable[None]],
    phase: Phase,
    tmp_path: Path,
) -> None:
    """It comes to its one legal end, in order and in time, and nothing is left."""
    house.run(play, house.opened, phase, command, tmp_path)
