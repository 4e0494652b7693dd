"""An item that the network broke is tried again, and nobody is told of a failure meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import SPEC, FakeStore, open_house
from vidra_trio.core.events import JobChanged, ProgressChanged
from vidra_trio.core.job import JobSpec
from vidra_trio.core.report import Failed, Identified, Line, Stage, Tick, Waiting
from vidra_trio.core.states import Command, JobKind, JobState, Level
from vidra_trio.engine.scripted import ScriptedEngine, download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from tests.support.fakes import Recorder
    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.scripted import ScriptedRun

S = JobState
VIDEO = Identified(JobKind.VIDEO, {"title": "T"})
DONE = download()[-1]
GONE = Failed("http_404", "gone")
BROKEN = Failed("network_error", "the line went dead", retryable=True)


class Deaf(ScriptedEngine):
    """An engine whose runs do not hear a soft stop."""

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
        """Follow the script for `spec`, whatever is asked."""
        async with super().open(spec) as run:
            run.stop = lambda: None  # type: ignore[method-assign]  # that is what deaf means
            yield run


def trying(*scripts: Iterable[object]) -> ScriptedEngine:
    """Return an engine that follows one script after the other."""
    ahead = iter(scripts)
    return ScriptedEngine(lambda _: next(ahead))


def lines(recorder: Recorder) -> list[str]:
    """Return what the log says of tries."""
    return [line for line in recorder.logged() if line.startswith("trying")]


async def test_a_broken_try_is_repeated_until_one_succeeds(autojump_clock: MockClock) -> None:
    """After 1, 2 and 4 seconds; the job never leaves `running`, and completes without errors."""
    broken = (VIDEO, Line(Level.ERROR, "the line went dead"), BROKEN)
    engine = trying(broken, broken, broken, download())
    async with open_house(engine, retries=3) as house:
        began = trio.current_time()
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
        assert trio.current_time() - began == pytest.approx(7)
    assert (end.state, end.error, end.has_error_logs) == (S.COMPLETED, None, False)
    assert lines(house.recorder) == [
        "trying again in 1 s (1 of 3): the line went dead",
        "trying again in 2 s (2 of 3): the line went dead",
        "trying again in 4 s (3 of 3): the line went dead",
    ]
    told = [word.partition("/")[0] for word in house.recorder.updates()]
    assert set(told) == {"queued", "starting", "running", "completed"}
    assert house.recorder.updates().count("starting/started") == 1


async def test_the_last_try_says_why_the_job_failed(autojump_clock: MockClock) -> None:
    """Its code and its words, in one error line."""
    causes = [Failed("timeout", f"time-out {n}", retryable=True) for n in (1, 2, 3)]
    async with open_house(trying(*([cause] for cause in causes)), retries=2) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
        log = await house.supervisor.logs(job.job_id)
    assert (end.state, end.error, end.error_code) == (S.FAILED, "time-out 3", "timeout")
    assert [entry.message for entry in log if entry.level is Level.ERROR] == ["time-out 3"]
    assert house.recorder.updates().count("failed/failed") == 1


async def test_without_retries_the_first_failure_is_the_end() -> None:
    """The default: a server does not try again by itself."""
    async with open_house(ScriptedEngine(lambda _: [BROKEN])) as house:
        job = await house.supervisor.create(SPEC)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.FAILED
    assert len(house.engine.runs) == 1


@pytest.mark.parametrize(
    "end",
    [Failed("http_404", "gone"), Failed("http_error", "418"), Failed("engine_died", "x", True)],
    ids=lambda end: end.code,
)
async def test_what_another_try_cannot_mend_is_not_tried(end: Failed) -> None:
    """An answer that stays the same, and a fault of our own, fail the job at once."""
    async with open_house(ScriptedEngine(lambda _: [end]), retries=5) as house:
        job = await house.supervisor.create(SPEC)
        assert (await house.supervisor.wait_settled(job.job_id)).error_code == end.code
    assert len(house.engine.runs) == 1


async def test_each_url_has_tries_of_its_own(autojump_clock: MockClock) -> None:
    """A URL that used them all takes none from the next."""
    engine = trying([BROKEN], [BROKEN], [BROKEN], download())
    async with open_house(engine, retries=1) as house:
        job = await house.supervisor.create(JobSpec(("http://h/a", "http://h/b")))
        end = await house.supervisor.wait_settled(job.job_id)
    assert [run.spec.url[-1] for run in engine.runs] == ["a", "a", "b", "b"]
    assert (end.state, end.finished_items) == (S.COMPLETED_WITH_ERRORS, (1,))


async def test_the_parts_stay_between_two_tries(autojump_clock: MockClock) -> None:
    """The next try finds what the broken one left: the same directory, never discarded."""
    async with open_house(trying([VIDEO, BROKEN], download()), retries=1) as house:
        job = await house.supervisor.create(SPEC)
        await trio.sleep(0.5)
        assert house.engine.discarded == []
        await house.supervisor.wait_settled(job.job_id)
    first, second = house.engine.runs
    assert first.spec == second.spec


async def test_a_waiting_job_shows_why_it_stands(autojump_clock: MockClock) -> None:
    """It keeps how far it is, has no speed, and says when it goes on."""
    tick = Tick("a", 50, 100, speed=10.0, eta=5.0)
    async with open_house(trying([VIDEO, tick, BROKEN], download()), retries=1) as house:
        job = await house.supervisor.create(SPEC)
        await trio.sleep(0.5)
        now = house.supervisor.get(job.job_id)
        assert (now.state, now.error, now.progress.percent) == (S.RUNNING, None, 50.0)
        assert (now.progress.speed, now.progress.eta) == (None, None)
        assert now.progress.message == "trying again in 1 s (1 of 1)"
        shown = [e for e in house.recorder.events if isinstance(e, ProgressChanged)]
        assert shown[-1].job.progress == now.progress
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.progress.percent == 100.0


async def test_an_error_line_of_a_broken_try_is_taken_back(autojump_clock: MockClock) -> None:
    """Who was told of errors is told that there are none."""
    says = Line(Level.ERROR, "no")
    async with open_house(trying([VIDEO, says, BROKEN], download()), retries=1) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    told = [e.job.has_error_logs for e in house.recorder.events if isinstance(e, JobChanged)]
    assert [after for before, after in pairwise(told) if before is not after] == [True, False]
    assert end.state is S.COMPLETED


async def test_a_pause_ends_the_wait_at_once(autojump_clock: MockClock) -> None:
    """The job is paused with its parts, without another try, and a resume goes on."""
    engine = trying([VIDEO, BROKEN], [VIDEO, BROKEN], [VIDEO, BROKEN], download())
    async with open_house(engine, retries=9) as house:
        job = await house.supervisor.create(SPEC)
        await trio.sleep(5)  # in the third wait: 1 + 2 + 4
        asked = trio.current_time()
        assert (await house.supervisor.apply(job.job_id, Command.PAUSE)).state is S.PAUSING
        end = await house.supervisor.wait_settled(job.job_id)
        assert trio.current_time() == asked
        assert (end.state, end.error) == (S.PAUSED, None)
        assert (len(engine.runs), engine.discarded) == (3, [])
        await house.supervisor.apply(job.job_id, Command.RESUME)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED
    assert house.recorder.updates().count("paused/paused") == 1


async def test_a_cancel_ends_the_wait_at_once(autojump_clock: MockClock) -> None:
    """Nothing is tried again, and the parts go."""
    async with open_house(ScriptedEngine(lambda _: [VIDEO, BROKEN]), retries=9) as house:
        job = await house.supervisor.create(SPEC)
        await trio.sleep(5)
        asked = trio.current_time()
        await house.supervisor.apply(job.job_id, Command.CANCEL)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.CANCELLED
        assert trio.current_time() == asked
    assert len(house.engine.runs) == 3
    assert len(house.engine.discarded) == 1


async def test_a_shutdown_ends_the_wait_at_once(autojump_clock: MockClock) -> None:
    """The job is stored as waiting, with its parts."""
    store = FakeStore()
    async with open_house(ScriptedEngine(lambda _: [VIDEO, BROKEN]), store, retries=9) as house:
        job = await house.supervisor.create(SPEC)
        await trio.sleep(5)
        asked = trio.current_time()
    assert trio.current_time() == asked
    assert store.saved[job.job_id].state is S.QUEUED
    assert house.engine.discarded == []


async def test_a_pause_that_a_broken_try_comes_before_is_a_pause(
    autojump_clock: MockClock,
) -> None:
    """A run that breaks instead of stopping: what a resume may mend does not fail the job."""
    gate = trio.Event()
    async with open_house(Deaf(lambda _: [VIDEO, gate, BROKEN])) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        gate.set()
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error, end.has_error_logs) == (S.PAUSED, None, False)
    assert "the line went dead" in house.recorder.logged()


async def test_a_pause_that_a_failure_for_good_comes_before_is_failed() -> None:
    """There is nothing to resume: the job says so now, not at the next resume."""
    gate = trio.Event()
    async with open_house(Deaf(lambda _: [VIDEO, gate, GONE])) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        gate.set()
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error_code) == (S.FAILED, "http_404")
    assert house.recorder.updates()[-2:] == ["pausing/pausing", "failed/failed"]


async def test_a_pause_before_the_next_url_is_a_pause() -> None:
    """What failed for good is in the log; what was not tried yet is, after a resume."""
    gate = trio.Event()
    ahead: Iterator[list[object]] = iter([[VIDEO, gate, GONE], [DONE], [DONE]])
    async with open_house(Deaf(lambda _: next(ahead))) as house:
        job = await house.supervisor.create(JobSpec(("http://h/a", "http://h/b")))
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        gate.set()
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.PAUSED
        assert len(house.engine.runs) == 1
        await house.supervisor.apply(job.job_id, Command.RESUME)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED
    assert [run.spec.url[-1] for run in house.engine.runs] == ["a", "a", "b"]


async def test_a_run_that_waits_on_purpose_changes_nothing() -> None:
    """Its silence is the engine's business, not the clients'."""
    async with open_house(
        trying([VIDEO, Waiting(30.0), Stage("download"), *download()[1:]])
    ) as house:
        job = await house.supervisor.create(SPEC)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED
    assert house.recorder.updates()[-2:] == ["running/updated", "completed/completed"]
