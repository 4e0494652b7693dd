"""The engine for tests keeps the engine's contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from vidra_trio.core.report import Failed, Finished, Identified, Line, Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine.base import EngineStatistics, RunSpec
from vidra_trio.engine.scripted import ScriptedEngine, download

if TYPE_CHECKING:
    from vidra_trio.core.report import Report
    from vidra_trio.engine.base import Engine

SPEC = RunSpec("j", "http://x", Path("/d"), Path("/d/.vidra-j"), "%(id)s")
SAYS = Line(Level.INFO, "going on")


async def run(engine: Engine, spec: RunSpec = SPEC) -> list[Report]:
    async with engine.open(spec) as one:
        return [report async for report in one]


async def test_without_a_script_it_is_a_success() -> None:
    """Identified, then finished, then nothing more."""
    engine = ScriptedEngine()
    assert tuple(await run(engine)) == download("j")
    identified, finished = download("j")
    assert isinstance(identified, Identified)
    assert isinstance(finished, Finished)
    assert engine.statistics() == EngineStatistics()


async def test_the_last_report_is_terminal_whatever_the_script_says() -> None:
    """A script that just ends is a worker that died; what follows a terminal report is unheard."""
    forgetful = ScriptedEngine(lambda _: [SAYS])
    first, last = await run(forgetful)
    assert first == SAYS
    assert isinstance(last, Failed)
    assert await run(ScriptedEngine(lambda _: [Finished(), SAYS])) == [Finished()]
    async with forgetful.open(SPEC) as one:
        _ = [report async for report in one]
        with pytest.raises(StopAsyncIteration):
            await anext(one)


@pytest.mark.parametrize("step", [60.0, trio.Event()])
async def test_a_soft_stop_ends_what_waits(step: object, autojump_clock: trio.abc.Clock) -> None:
    """With `Stopped`, after the time that the engine takes; the parts stay until discarded."""
    engine = ScriptedEngine(lambda _: [SAYS, step, Finished()], lets_go_after=2.0)
    started = trio.current_time()
    async with engine.open(SPEC) as one:
        assert await anext(one) == SAYS
        one.stop()
        one.stop()
        assert [report async for report in one] == [Stopped()]
    assert trio.current_time() - started == 2.0
    assert await engine.partial_files(SPEC.work.parent) == ("/d/clip.mp4.part",)
    await engine.discard(SPEC.work)
    assert await engine.partial_files(SPEC.work) == ()


async def test_a_step_takes_its_time_and_an_event_its_own(
    autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    """Numbers are seconds, events are waited for."""
    go = trio.Event()

    async def release() -> None:
        await trio.sleep(3)
        go.set()

    nursery.start_soon(release)
    started = trio.current_time()
    assert await run(ScriptedEngine(lambda _: [1, go, Finished()])) == [Finished()]
    assert trio.current_time() - started == 3.0


async def test_leaving_the_block_takes_as_long_as_the_engine_needs(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Also when cancelled: the block is left when the run is really over; it counts until then."""
    engine = ScriptedEngine(lambda _: [trio.Event()], lets_go_after=1.5)
    started = trio.current_time()
    with trio.move_on_after(1) as scope:
        async with engine.open(SPEC) as one:
            assert engine.statistics() == EngineStatistics(running=1)
            await anext(one)
    assert scope.cancelled_caught
    assert trio.current_time() - started == 2.5
    assert engine.statistics().running == 0
    assert engine.most_running == 1
    assert [run.spec for run in engine.runs] == [SPEC]
