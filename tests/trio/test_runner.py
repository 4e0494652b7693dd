"""One job's way from the queue to its end, with a scripted engine and a mock clock."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import EPOCH, RULES, SPEC, FakeStore, House, Stored, open_house
from vidra_trio.core.errors import JobNotFound, OptionNotAllowed
from vidra_trio.core.events import InfoChanged
from vidra_trio.core.job import JobSpec, Snapshot
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stage, Stopped, Tick
from vidra_trio.core.states import Command, JobKind, JobState, Level
from vidra_trio.engine.scripted import ScriptedEngine, download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.scripted import ScriptedRun

S = JobState
VIDEO = Identified(JobKind.VIDEO, {"title": "T", "webpage_url": "http://w"}, total_bytes=100)
TWO = JobSpec(("http://h/a", "http://h/b"))


async def test_a_download_tells_its_story_in_order() -> None:
    """Created, started, identified, running, completed: each once, in this order."""
    script = (VIDEO, Tick("a", 50, 100), Stage("download", finished=True, key="a"), *download()[1:])
    async with open_house(ScriptedEngine(lambda _: script)) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert house.recorder.updates() == [
        "queued/created", "starting/started", "starting/preview_ready", "running/updated",
        "completed/completed",
    ]  # fmt: skip
    assert house.recorder.progress()[0] == 0.0
    assert house.recorder.progress()[-1] == 100.0
    assert (end.main_file, end.generated_files) == ("/downloads/clip.mp4", ("/downloads/clip.mp4",))
    assert end.preview == {"title": "T", "webpage_url": "http://w"}
    assert end.metadata == {"title": "T", "webpage_url": "http://w"}
    assert end.started_at is not None
    assert end.finished_at is not None
    assert house.store.saved[job.job_id] == end
    assert sum(isinstance(event, InfoChanged) for event in house.recorder.events) == 1


async def test_the_terminal_update_is_the_last_word() -> None:
    """Nothing about a job is published after its terminal update but the counts."""
    async with open_house(ScriptedEngine(lambda _: (VIDEO, Tick("a", 1, 2), *download()[1:]))) as h:
        job = await h.supervisor.create(SPEC)
        await h.supervisor.wait_settled(job.job_id)
    kinds = [type(event).__name__ for event in h.recorder.events]
    assert kinds[-2:] == ["JobChanged", "OverviewChanged"]
    assert kinds[-3] == "Logged"


async def test_the_engine_gets_a_private_directory_beside_the_destination() -> None:
    """A run's work directory lies on the destination's volume and carries the job's id."""
    spec = JobSpec(("http://h/a",), {"paths": {"home": "/media/films"}, "force_overwrites": False})
    async with open_house() as house:
        job = await house.supervisor.create(spec)
        await house.supervisor.wait_settled(job.job_id)
    (run,) = house.engine.runs
    assert run.spec.destination == Path("/media/films")
    assert run.spec.work == Path(f"/media/films/.vidra-{job.job_id}/0")
    assert run.spec.overwrite is False
    assert house.engine.discarded == [run.spec.work.parent]


async def test_an_engine_s_failure_is_the_job_s_error() -> None:
    """A failed job carries the real cause, its code, and an error line in its log."""
    script = (Line(Level.WARNING, "slow"), Failed("http_404", "HTTP Error 404: Not Found"))
    async with open_house(ScriptedEngine(lambda _: script)) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
        log = await house.supervisor.logs(job.job_id)
    assert (end.state, end.error, end.error_code) == (
        S.FAILED, "HTTP Error 404: Not Found", "http_404",
    )  # fmt: skip
    assert [entry.message for entry in log if entry.level is Level.ERROR] == [end.error]
    assert house.recorder.updates()[-1] == "failed/failed"


async def test_an_error_that_the_engine_logged_is_not_logged_twice() -> None:
    """The engine's own error line and the failure it ends in are one line."""
    script = (Line(Level.ERROR, "no"), Line(Level.ERROR, "no more"), Failed("x", "no"))
    async with open_house(ScriptedEngine(lambda _: script)) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
        log = await house.supervisor.logs(job.job_id)
    assert end.has_error_logs
    assert [e.message for e in log if e.level is Level.ERROR] == ["no", "no more"]
    assert house.recorder.updates().count("starting/updated") == 1


async def test_a_success_with_an_error_line_is_completed_with_errors() -> None:
    """An error in the log of a job that has its files is told, not hidden."""
    script = (VIDEO, Line(Level.ERROR, "thumbnail lost"), *download()[1:])
    async with open_house(ScriptedEngine(lambda _: script)) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.COMPLETED_WITH_ERRORS
    assert end.progress.state == "completed_with_errors"
    assert end.error is None


async def test_several_urls_are_all_downloaded() -> None:
    """Each URL is one run; the job's percentage covers all, its files are everybody's."""
    async with open_house(ScriptedEngine(lambda spec: download(spec.url[-1]))) as house:
        job = await house.supervisor.create(TWO)
        end = await house.supervisor.wait_settled(job.job_id)
    assert [run.spec.url for run in house.engine.runs] == ["http://h/a", "http://h/b"]
    assert end.generated_files == ("/downloads/a.mp4", "/downloads/b.mp4")
    assert end.main_file == "/downloads/a.mp4"
    assert end.finished_items == (0, 1)
    assert 50.0 in house.recorder.progress()


async def test_one_bad_url_of_two_ends_with_errors() -> None:
    """What could be had is kept, and the job says that something is missing."""

    def script(spec: RunSpec) -> tuple[object, ...]:
        return (Failed("http_404", "gone"),) if spec.url.endswith("a") else download("b")

    async with open_house(ScriptedEngine(script)) as house:
        job = await house.supervisor.create(TWO)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.finished_items) == (S.COMPLETED_WITH_ERRORS, (1,))


async def test_a_skipped_url_does_not_make_up_for_a_bad_one() -> None:
    """Nothing was downloaded: the job has failed, and says why."""
    ends = {"http://h/a": Finished(), "http://h/b": Failed("http_404", "gone")}
    async with open_house(ScriptedEngine(lambda spec: (VIDEO, ends[spec.url]))) as house:
        job = await house.supervisor.create(TWO)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error, end.error_code) == (S.FAILED, "gone", "http_404")


async def test_all_urls_bad_is_failed_with_the_first_cause() -> None:
    """The first failure is the job's error."""
    async with open_house(ScriptedEngine(lambda spec: (Failed("c", f"no {spec.url}"),))) as house:
        job = await house.supervisor.create(TWO)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error) == (S.FAILED, "no http://h/a")


async def test_a_cancelled_job_is_cancelling_until_its_engine_has_let_go(
    autojump_clock: MockClock,
) -> None:
    """`cancelled` is said when nothing of the run is left, not before."""
    engine = ScriptedEngine(lambda _: (VIDEO, 1000.0), lets_go_after=2)
    async with open_house(engine) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        asked = trio.current_time()
        answer = await house.supervisor.apply(job.job_id, Command.CANCEL)
        assert answer.state is S.CANCELLING
        end = await house.supervisor.wait_settled(job.job_id)
        assert trio.current_time() - asked == pytest.approx(2)
    assert end.state is S.CANCELLED
    assert house.recorder.updates()[-2:] == ["cancelling/cancelling", "cancelled/cancelled"]
    assert house.engine.discarded == [house.engine.runs[0].spec.work.parent]


async def test_a_job_cancelled_before_anything_was_found_disappears() -> None:
    """Nothing was found, nothing was written: the job goes, in two updates."""
    async with open_house(ScriptedEngine(lambda _: (trio.Event(),))) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.CANCEL)
        with pytest.raises(JobNotFound):
            await house.supervisor.wait_settled(job.job_id)
    assert house.recorder.updates()[-2:] == ["cancelled/cancelled", "deleted"]
    assert house.store.saved == {}
    assert house.supervisor.summary().total == 0


async def test_pause_is_soft_and_keeps_the_parts() -> None:
    """A pause asks the run to stop, and what it left is noted and kept."""
    async with open_house(ScriptedEngine(lambda _: (VIDEO, trio.Event()))) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        assert (await house.supervisor.apply(job.job_id, Command.PAUSE)).state is S.PAUSING
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, len(end.partial_files)) == (S.PAUSED, 1)
    assert end.finished_at is not None
    assert house.engine.discarded == []
    assert house.recorder.updates()[-2:] == ["pausing/pausing", "paused/paused"]


async def test_pause_then_resume_runs_only_what_is_missing() -> None:
    """A finished URL is not downloaded again by a resume."""
    gate = trio.Event()

    def script(spec: RunSpec) -> tuple[object, ...]:
        return download("a") if spec.url.endswith("a") else (VIDEO, gate, *download("b")[1:])

    async with open_house(ScriptedEngine(script)) as house:
        job = await house.supervisor.create(TWO)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        await house.supervisor.wait_settled(job.job_id)
        gate.set()
        assert (await house.supervisor.apply(job.job_id, Command.RESUME)).state is S.QUEUED
        end = await house.supervisor.wait_settled(job.job_id)
    assert [run.spec.url[-1] for run in house.engine.runs] == ["a", "b", "b"]
    assert end.state is S.COMPLETED
    assert "queued/resumed" in house.recorder.updates()


async def test_a_pause_before_the_engine_runs_is_not_lost() -> None:
    """Asked between two URLs, or before the first run is open, the job still pauses."""
    house_now: list[House] = []

    class PausedWhileOpening(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            (house,) = house_now
            await house.supervisor.apply(spec.job_id, Command.PAUSE)
            async with super().open(spec) as run:
                yield run

    async with open_house(PausedWhileOpening(lambda _: (VIDEO, trio.Event()))) as house:
        house_now.append(house)
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.PAUSED


async def test_a_file_that_arrives_while_pausing_completes_the_job() -> None:
    """A pause that comes too late is no loss: the job is complete."""
    asked = trio.Event()

    class TooLate(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with super().open(spec) as run:
                run.stop = asked.set  # type: ignore[method-assign]  # deaf to a soft stop
                yield run

    async with open_house(TooLate(lambda _: (VIDEO, asked, *download()[1:]))) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.COMPLETED


async def test_a_failed_job_keeps_parts_worth_continuing() -> None:
    """A failure with parts on disk can be resumed; without any the directory goes."""

    class LeavesParts(ScriptedEngine):
        async def partial_files(self, work: Path) -> tuple[str, ...]:
            return (str(work / "a.part"),)

    async with open_house(LeavesParts(lambda _: (Failed("timeout", "t"),))) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert len(end.partial_files) == 1
    assert house.engine.discarded == []


async def test_retry_starts_from_nothing_and_keeps_finished_files() -> None:
    """A retry discards parts before it runs, and forgets the old files without deleting them."""
    async with open_house() as house:
        job = await house.supervisor.create(SPEC)
        await house.supervisor.wait_settled(job.job_id)
        assert (await house.supervisor.apply(job.job_id, Command.RETRY)).state is S.QUEUED
        assert house.supervisor.get(job.job_id).generated_files == ()
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.COMPLETED
    assert len(house.engine.runs) == 2
    assert house.recorder.updates().count("queued/retry") == 1


async def test_a_job_whose_place_is_no_longer_allowed_fails_with_the_reason() -> None:
    """Options that pass no more (the rules changed) fail the job, not the server."""
    rules = replace(RULES, roots=("/only/here",))
    spec = JobSpec(("http://h/a",), {"paths": {"home": "/elsewhere"}})
    old = Stored(Snapshot("old", spec, S.FAILED, EPOCH))
    async with open_house(store=FakeStore([old]), rules=rules) as house:
        await house.supervisor.apply("old", Command.RESUME)
        end = await house.supervisor.wait_settled("old")
        with pytest.raises(OptionNotAllowed):
            await house.supervisor.create(spec)
    assert (end.state, end.error_code) == (S.FAILED, "option_not_allowed")
    assert house.engine.runs == []


async def test_a_defect_fails_its_job_and_no_other() -> None:
    """An engine that breaks its contract costs one job; its siblings go on."""

    class Broken(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            if spec.url.endswith("a"):
                raise RuntimeError("secret internals")
            async with super().open(spec) as run:
                yield run

    async with open_house(Broken()) as house:
        bad = await house.supervisor.create(JobSpec(("http://h/a",)))
        good = await house.supervisor.create(JobSpec(("http://h/b",)))
        end = await house.supervisor.wait_settled(bad.job_id)
        assert (await house.supervisor.wait_settled(good.job_id)).state is S.COMPLETED
    assert (end.state, end.error_code) == (S.FAILED, "internal_error")
    assert "secret" not in (end.error or "")


async def test_a_run_that_ends_without_a_terminal_report_is_a_defect() -> None:
    """An engine that just stops talking fails the job."""

    class Silent(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with super().open(spec) as run:
                run._ended = True
                yield run

    async with open_house(Silent()) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.error_code == "internal_error"


async def test_a_directory_that_cannot_be_removed_does_not_stop_the_end() -> None:
    """Cleaning up is best effort; the job settles all the same."""

    class Stubborn(ScriptedEngine):
        async def discard(self, work: Path) -> None:
            raise PermissionError("not yours")

    async with open_house(Stubborn()) as house:
        job = await house.supervisor.create(SPEC)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED


async def test_a_full_disk_does_not_lose_the_end_of_a_job() -> None:
    """When the last save fails the job is settled and told nevertheless."""
    store = FakeStore()
    gate = trio.Event()
    async with open_house(ScriptedEngine(lambda _: (VIDEO, gate, *download()[1:])), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.broken = True
        gate.set()
        await house.supervisor.wait_settled(job.job_id)
    assert house.recorder.updates()[-1] == "completed/completed"


async def test_a_spontaneous_stop_fails_the_job() -> None:
    """An engine that reports `stopped` although nobody asked leaves no job waiting for ever."""
    async with open_house(ScriptedEngine(lambda _: (VIDEO, Stopped()))) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error_code) == (S.FAILED, "engine_died")


async def test_more_than_one_identified_url_keeps_the_first_preview() -> None:
    """The job is called after its first URL."""

    def script(spec: RunSpec) -> tuple[object, ...]:
        name = spec.url[-1]
        return (Identified(JobKind.VIDEO, {"title": name}), Finished((f"/d/{name}",), f"/d/{name}"))

    async with open_house(ScriptedEngine(script)) as house:
        job = await house.supervisor.create(TWO)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.preview == {"title": "a"}


async def test_a_url_that_is_there_already_completes_without_being_identified() -> None:
    """What the archive knows is not asked of the site again: a success all the same."""
    async with open_house(ScriptedEngine(lambda _: (Finished(),))) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error) == (S.COMPLETED, None)


async def test_resuming_a_job_with_nothing_left_to_do_completes_it() -> None:
    """A stored job whose URLs are all on disk ends at once, whatever its status said."""
    old = Stored(Snapshot("old", SPEC, S.PAUSED, EPOCH, finished_items=(0,)))
    async with open_house(store=FakeStore([old])) as house:
        await house.supervisor.apply("old", Command.RESUME)
        assert (await house.supervisor.wait_settled("old")).state is S.COMPLETED
    assert house.engine.runs == []


async def test_a_defect_while_tidying_up_fails_the_job_and_no_other() -> None:
    """Even the last words are inside the boundary: the job gets its end."""

    class Broken(ScriptedEngine):
        async def partial_files(self, work: Path) -> tuple[str, ...]:
            raise RuntimeError("broken")

    async with open_house(Broken(lambda _: (VIDEO, trio.Event()))) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        end = await house.supervisor.wait_settled(job.job_id)
        assert end.error_code == "internal_error"
        other = await house.supervisor.create(SPEC)
        await house.supervisor.apply(other.job_id, Command.CANCEL)


async def test_a_defect_after_the_success_leaves_the_success() -> None:
    """An engine that breaks on its way out does not take the file away."""

    class BreaksAtTheEnd(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with super().open(spec) as run:
                yield run
            raise RuntimeError("late")

    async with open_house(BreaksAtTheEnd()) as house:
        job = await house.supervisor.create(SPEC)
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.error) == (S.COMPLETED, None)


async def test_a_cancel_during_the_last_words_removes_the_parts(
    autojump_clock: MockClock,
) -> None:
    """A pause that is turned into a cancel while it looks for parts keeps none."""

    class Slow(ScriptedEngine):
        async def partial_files(self, work: Path) -> tuple[str, ...]:
            await trio.sleep(1)
            return await super().partial_files(work)

    async with open_house(Slow(lambda _: (VIDEO, trio.Event()))) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.PAUSE)
        await trio.sleep(0.5)
        assert (await house.supervisor.apply(job.job_id, Command.CANCEL)).state is S.CANCELLING
        end = await house.supervisor.wait_settled(job.job_id)
    assert (end.state, end.partial_files) == (S.CANCELLED, ())
    assert len(house.engine.discarded) == 1


async def test_a_job_stays_where_it_began() -> None:
    """A later change of the default folder does not part a job from its parts."""
    old = Stored(Snapshot("old", SPEC, S.PAUSED, EPOCH, destination="/films"))
    gone = Stored(Snapshot("gone", SPEC, S.PAUSED, EPOCH, destination="/etc"))
    async with open_house(store=FakeStore([old, gone])) as house:
        for job_id in ("old", "gone"):
            await house.supervisor.apply(job_id, Command.RESUME)
            await house.supervisor.wait_settled(job_id)
    assert [str(run.spec.destination) for run in house.engine.runs] == ["/films", "/downloads"]


async def test_a_secret_of_the_options_is_in_no_line_and_no_error() -> None:
    """Whatever an engine says, a password or a cookie is masked before it is kept."""
    spec = JobSpec(("http://h/a",), {"password": "hunter2", "add_headers": {"Cookie": "sid=77"}})
    script = (Line(Level.INFO, "login with hunter2"), Failed("x", "refused sid=77 hunter2"))
    async with open_house(ScriptedEngine(lambda _: script)) as house:
        job = await house.supervisor.create(spec)
        end = await house.supervisor.wait_settled(job.job_id)
        text = " ".join([entry.message for entry in await house.supervisor.logs(job.job_id)])
    assert "hunter2" not in f"{text} {end.error}"
    assert "sid=77" not in f"{text} {end.error}"
    assert "login with" in text


async def test_each_run_says_why_it_failed() -> None:
    """The same cause a second time is a line of its own: the user asked again."""
    async with open_house(ScriptedEngine(lambda _: (Failed("x", "no"),))) as house:
        job = await house.supervisor.create(SPEC)
        await house.supervisor.wait_settled(job.job_id)
        await house.supervisor.apply(job.job_id, Command.RESUME)
        await house.supervisor.wait_settled(job.job_id)
        log = await house.supervisor.logs(job.job_id)
    assert [entry.message for entry in log if entry.level is Level.ERROR] == ["no", "no"]


async def test_a_defect_that_meets_a_shutdown_ends_no_server() -> None:
    """Raised in one group with the cancellation, it fails its job and goes no further."""

    class BreaksInTheNursery(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with trio.open_nursery() as nursery, super().open(spec) as run:
                nursery.start_soon(self._break)
                yield run

        async def _break(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise RuntimeError("broken")

    store = FakeStore()
    async with open_house(BreaksInTheNursery(lambda _: (VIDEO, trio.Event())), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
    assert store.saved[job.job_id].error_code == "internal_error"
    assert house.recorder.updates()[-1] == "failed/failed"


@pytest.mark.parametrize(
    "end", [Failed("timeout", "cut off", retryable=True), Failed("x", "no"), Stopped()]
)
async def test_a_cancel_makes_no_error_of_what_it_brings_about(end: Failed | Stopped) -> None:
    """A run that breaks because it was cancelled ends a cancelled job, without an error line."""
    asked = trio.Event()

    class BreaksOnCancel(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with super().open(spec) as run:
                yield run
                with trio.CancelScope(shield=True):
                    await asked.wait()

    async with open_house(BreaksOnCancel(lambda _: (VIDEO, end)), retries=1) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await house.supervisor.apply(job.job_id, Command.CANCEL)
        asked.set()
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.CANCELLED
        log = await house.supervisor.logs(job.job_id)
    assert not [entry for entry in log if entry.level is Level.ERROR]


async def test_a_cancelled_job_opens_no_other_run() -> None:
    """A cancel that hits a run in its shielded end keeps the next URL from being asked for."""
    ending, go = trio.Event(), trio.Event()

    class SlowEnd(ScriptedEngine):
        @asynccontextmanager
        async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
            async with super().open(spec) as run:
                yield run
            ending.set()
            with trio.CancelScope(shield=True):
                await go.wait()

    async with open_house(SlowEnd()) as house:
        job = await house.supervisor.create(TWO)
        await ending.wait()
        await house.supervisor.apply(job.job_id, Command.CANCEL)
        go.set()
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.CANCELLED
    assert len(house.engine.runs) == 1
