"""The jobs table and its commands, with fakes for the disk and the engine."""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import EPOCH, RULES, SPEC, FakeStore, House, Stored, open_house
from vidra_trio import supervisor as supervisor_module
from vidra_trio.core import lifecycle
from vidra_trio.core.errors import (
    CommandRefused,
    DeleteRefused,
    JobNotFound,
    ShuttingDown,
    StorageFailed,
    TooManyJobs,
)
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot
from vidra_trio.core.report import Failed, Identified
from vidra_trio.core.restore import Policy
from vidra_trio.core.states import Command, JobKind, JobState, Level
from vidra_trio.engine.scripted import ScriptedEngine, download
from vidra_trio.supervisor import Answer

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from pathlib import Path

S, C = JobState, Command
VIDEO = Identified(JobKind.VIDEO, {"title": "T"})


def endless() -> ScriptedEngine:
    """Return an engine whose runs go on until they are stopped."""
    return ScriptedEngine(lambda _: (VIDEO, trio.Event()))


def stored(state: JobState, job_id: str = "old", **fields: Any) -> Stored:  # noqa: ANN401
    """Return a job as an earlier life left it."""
    line = LogEntry(EPOCH, Level.INFO, "from an earlier life")
    return Stored(Snapshot(job_id, SPEC, state, EPOCH, **fields), (line,))


async def test_a_job_is_on_disk_and_listed_before_create_returns() -> None:
    """What create returned survives a crash right after it."""
    store = FakeStore()
    async with open_house(endless(), store) as house:
        job = await house.supervisor.create(SPEC)
        assert store.history == [(job.job_id, "queued")]
        assert [j.job_id for j in house.supervisor.jobs()] == [job.job_id]
        assert house.supervisor.get(job.job_id).options_version is not None


async def test_a_create_that_cannot_be_stored_starts_nothing() -> None:
    """The caller gets the storage error itself, and no job exists."""
    store = FakeStore()
    store.broken = True
    async with open_house(store=store) as house:
        with pytest.raises(StorageFailed):
            await house.supervisor.create(SPEC)
        assert house.supervisor.jobs() == []
        assert len(store.forgotten) == 1
    assert house.recorder.updates() == []
    assert house.engine.runs == []


async def test_a_caller_that_goes_away_leaves_no_trace(autojump_clock: MockClock) -> None:
    """Cancelled while the first write is under way: no job, no event, nothing on disk."""
    store = FakeStore(delay=5)
    async with open_house(store=store) as house:
        with trio.move_on_after(1):
            await house.supervisor.create(SPEC)
        assert house.supervisor.jobs() == []
        assert house.supervisor.summary().total == 0
    assert store.saved == {}
    assert house.recorder.updates() == []


async def test_a_caller_that_goes_in_the_step_of_the_last_write_leaves_no_trace() -> None:
    """Cancelled in the very instant in which the write ended: still no job."""
    caller = trio.CancelScope()

    class Instant(FakeStore):
        async def save(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
            await super().save(snapshot, logs)
            caller.cancel()

    async with open_house(store=Instant()) as house:
        with caller:
            await house.supervisor.create(SPEC)
        assert caller.cancelled_caught
        assert house.supervisor.jobs() == []
        assert house.store.saved == {}
    assert house.engine.runs == []


async def test_a_create_on_a_disk_that_never_answers_is_refused(
    autojump_clock: MockClock,
) -> None:
    """A create does not hang with its disk."""
    async with open_house(store=FakeStore(delay=1000)) as house:
        with pytest.raises(StorageFailed):
            await house.supervisor.create(SPEC)
        assert house.supervisor.jobs() == []


async def test_waiting_for_a_job_that_the_shutdown_stopped_is_refused() -> None:
    """A stopped job waits for a slot that nobody gives: waiting for it says so."""
    async with open_house(endless()) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
    with pytest.raises(ShuttingDown):
        await house.supervisor.wait_settled(job.job_id)


async def test_a_job_outlives_its_caller(autojump_clock: MockClock) -> None:
    """After create returned, the caller's own scope means nothing to the job."""
    async with open_house(ScriptedEngine(lambda _: (VIDEO, 10.0, *download()[1:]))) as house:
        with trio.CancelScope() as caller:
            job = await house.supervisor.create(SPEC)
            caller.cancel()
            await trio.lowlevel.checkpoint()
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED


async def test_at_most_the_limit_runs_and_the_rest_is_queued(autojump_clock: MockClock) -> None:
    """Twenty jobs, three slots: never more than three at work, and all complete."""
    engine = ScriptedEngine(lambda spec: (VIDEO, 1.0, *download(spec.job_id)[1:]))
    async with open_house(engine, max_concurrent=3) as house:
        jobs = [await house.supervisor.create(SPEC) for _ in range(20)]
        await wait_all_tasks_blocked()
        assert house.supervisor.summary().queued == 17
        stats = house.supervisor.statistics()
        assert (stats.slots, stats.slots_used, stats.summary.active) == (3, 3, 3)
        for job in jobs:
            assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED
    assert engine.most_running == 3


async def test_a_queued_job_can_be_cancelled() -> None:
    """Waiting for a slot is no reason to be deaf."""
    async with open_house(endless(), max_concurrent=1) as house:
        await house.supervisor.create(SPEC)
        waiting = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        assert (await house.supervisor.apply(waiting.job_id, C.CANCEL)).state is S.CANCELLING
        with pytest.raises(JobNotFound):
            await house.supervisor.wait_settled(waiting.job_id)
        assert len(house.engine.runs) == 1
        assert house.supervisor.summary().total == 1


async def test_jobs_are_listed_oldest_first() -> None:
    """Restored jobs keep their place by age."""
    young = Snapshot("young", SPEC, S.COMPLETED, EPOCH + datetime.timedelta(days=1))
    store = FakeStore([Stored(young), stored(S.COMPLETED)])
    async with open_house(store=store) as house:
        assert [job.job_id for job in house.supervisor.jobs()] == ["old", "young"]


@pytest.mark.parametrize("state", sorted(lifecycle.ALIVE - {S.SELECTING}, key=str), ids=str)
async def test_a_restart_shows_interrupted_jobs(state: JobState) -> None:
    """Every stored job is there again, settled, with a note in its log, and nothing runs."""
    store = FakeStore([stored(state)])
    async with open_house(store=store, policy=Policy.FAIL) as house:
        job = house.supervisor.get("old")
        assert job.state in lifecycle.SETTLED
        lines = [line.message for line in await house.supervisor.logs("old")]
        assert (len(lines), lines[0]) == (2, "from an earlier life")
        assert store.soon == ["old"]
        assert house.supervisor.summary().total == 1
    assert house.recorder.updates() == [f"{job.state}/restored"]
    assert house.engine.runs == []


async def test_a_restart_leaves_settled_jobs_as_they_are() -> None:
    """Nothing is written for a job that nothing happened to."""
    store = FakeStore([stored(S.COMPLETED, finished_at=EPOCH)])
    async with open_house(store=store) as house:
        assert len(await house.supervisor.logs("old")) == 1
        assert store.soon == []
    assert house.recorder.updates() == ["completed/restored"]


async def test_a_restart_goes_on(autojump_clock: MockClock) -> None:
    """What was in the queue or at work does its turn by itself, the oldest first."""
    waiting = Snapshot("waiting", SPEC, S.QUEUED, EPOCH + datetime.timedelta(days=1))
    store = FakeStore([stored(S.RUNNING), Stored(waiting)])
    engine = ScriptedEngine(lambda spec: (VIDEO, 1.0, *download(spec.job_id)[1:]))
    async with open_house(engine, store, max_concurrent=1) as house:
        assert house.supervisor.summary().queued == 2
        for name in ("old", "waiting"):
            assert (await house.supervisor.wait_settled(name)).state is S.COMPLETED
    assert [run.spec.job_id for run in engine.runs] == ["old", "waiting"]
    assert house.recorder.updates()[:2] == ["queued/restored", "queued/restored"]


async def test_a_job_at_work_in_two_crashes_is_parked() -> None:
    """The count is on disk before the engine has the job, and gone with an end in order."""
    store = FakeStore([stored(S.RUNNING)])
    async with open_house(endless(), store) as house:
        await wait_all_tasks_blocked()
        crashed = store.saved["old"]
        assert (crashed.state, crashed.crashes) == (S.STARTING, 1)
    assert (store.saved["old"].state, store.saved["old"].crashes) == (S.QUEUED, 0)
    async with open_house(endless(), FakeStore([Stored(crashed)])) as house:
        job = house.supervisor.get("old")
        assert (job.state, job.error_code) == (S.FAILED, "crashed_again")
        await house.supervisor.apply("old", C.RESUME)
        await wait_all_tasks_blocked()
        assert house.supervisor.get("old").crashes == 0


async def test_a_log_is_left_to_the_store_when_the_job_is_stored(
    autojump_clock: MockClock,
) -> None:
    """With its end; whoever asks gets it from there, and who writes to it has it again."""
    store = FakeStore()
    async with open_house(store=store) as house:
        job = await house.supervisor.create(SPEC)
        await house.supervisor.wait_settled(job.job_id)
        held = house.supervisor._find(job.job_id)
        await held.idle.wait()
        assert held.log is None
        with pytest.raises(RuntimeError, match="not loaded"):
            held.write(Level.INFO, "lost")
        before = await house.supervisor.logs(job.job_id)
        assert before[0].message == "job created"
        await house.supervisor.apply(job.job_id, C.RETRY)
        await house.supervisor.wait_settled(job.job_id)
        await held.idle.wait()
        after = await house.supervisor.logs(job.job_id)
        assert after[: len(before)] == before
        assert len(after) > len(before)


async def test_a_log_that_could_not_be_stored_is_kept(autojump_clock: MockClock) -> None:
    """Only here is it then."""
    store = FakeStore()
    async with open_house(ScriptedEngine(lambda _: (VIDEO, 1.0, *download()[1:])), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.broken = True
        await house.supervisor.wait_settled(job.job_id)
        held = house.supervisor._find(job.job_id)
        await held.idle.wait()
        assert held.log
        assert await house.supervisor.logs(job.job_id) == held.log


async def test_two_commands_at_once_share_a_log(autojump_clock: MockClock) -> None:
    """One of them may leave it to the store while the other one is about to write to it."""
    failed = stored(S.FAILED, preview={"title": "known"})
    store = FakeStore([Stored(failed.snapshot, None)])
    store.logs["old"] = failed.logs or ()
    async with open_house(store=store) as house:

        async def ask(command: Command) -> None:
            with contextlib.suppress(CommandRefused):
                await house.supervisor.apply("old", command)

        async with trio.open_nursery() as nursery:
            for command in (C.CANCEL, C.RETRY, C.CANCEL, C.RETRY):
                nursery.start_soon(ask, command)
        await house.supervisor.wait_settled("old")
        lines = [line.message for line in await house.supervisor.logs("old")]
        assert lines[0] == "from an earlier life"


@pytest.mark.parametrize("command", [C.PAUSE, C.CANCEL])
async def test_a_job_that_waits_for_a_selection_waits_again(command: Command) -> None:
    """Without a slot and without a run; it can be paused, and a cancel removes it."""
    store = FakeStore([stored(S.SELECTING)])
    async with open_house(store=store, max_concurrent=1) as house:
        await wait_all_tasks_blocked()
        assert house.supervisor.get("old").state is S.SELECTING
        assert house.supervisor.statistics().slots_used == 0
        answer = await house.supervisor.apply("old", command)
        if command is C.PAUSE:
            assert (await house.supervisor.wait_settled("old")).state is S.PAUSED
        else:
            assert answer.removed
            assert house.supervisor.jobs() == []
            assert "old" not in store.saved
    assert house.engine.runs == []


async def test_two_cancels_of_a_job_that_waits_for_a_selection() -> None:
    """Both are told that it is gone; and it is gone once."""
    async with open_house(store=FakeStore([stored(S.SELECTING)])) as house:
        await wait_all_tasks_blocked()
        answers: list[Answer] = []

        async def cancel() -> None:
            answers.append(await house.supervisor.apply("old", C.CANCEL))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            nursery.start_soon(cancel)
        assert [answer.removed for answer in answers] == [True, True]
        assert house.supervisor.summary().total == 0
    assert house.recorder.updates().count("deleted") == 1


async def test_a_pause_before_the_wait_for_a_selection_begins() -> None:
    """Asked right at the start, while the tasks of a long queue are still being made."""
    waiting = [stored(S.SELECTING, f"s{number}") for number in range(5)]
    async with open_house(store=FakeStore(waiting)) as house:
        await house.supervisor.apply("s4", C.PAUSE)
        with trio.fail_after(5):
            assert (await house.supervisor.wait_settled("s4")).state is S.PAUSED
        assert house.supervisor.get("s4").error is None
    assert house.engine.runs == []


async def test_a_log_that_cannot_be_had_is_a_507(autojump_clock: MockClock) -> None:
    """A command on a settled job does not wait for ever; a delete needs no log."""

    class Hanging(FakeStore):
        async def log(self, job_id: str) -> tuple[LogEntry, ...]:
            await trio.sleep_forever()
            raise AssertionError

    store = Hanging([Stored(stored(S.FAILED).snapshot, None)])
    async with open_house(store=store) as house:
        with pytest.raises(StorageFailed):
            await house.supervisor.apply("old", C.CANCEL)
        assert (await house.supervisor.apply("old", C.DELETE)).removed


async def test_a_disk_that_hangs_does_not_keep_a_job_from_its_work(
    autojump_clock: MockClock,
) -> None:
    """That it begins is stored if that works in time."""
    store = FakeStore()
    async with open_house(endless(), store) as house:
        job = await house.supervisor.create(SPEC)
        store.delay = 3600
        await trio.sleep(10)
        assert house.supervisor.get(job.job_id).state is S.RUNNING
        store.delay = 0


async def test_a_log_read_late_is_not_taken_for_the_newest() -> None:
    """Somebody wrote to it and left it to the store meanwhile."""
    gate = trio.Event()

    class Slow(FakeStore):
        async def log(self, job_id: str) -> tuple[LogEntry, ...]:
            found = await super().log(job_id)
            if not gate.is_set():
                await gate.wait()
            return found

    failed = stored(S.FAILED, preview={"title": "known"})
    store = Slow([Stored(failed.snapshot, None)])
    store.logs["old"] = failed.logs or ()
    async with open_house(store=store) as house:
        held = house.supervisor._find("old")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(held.load_log)
            await wait_all_tasks_blocked()
            held.change(logs_version=99)
            gate.set()
        assert held.log is None
        await held.load_log()
        assert held.log


async def test_a_stop_leaves_who_waits_for_a_selection_waiting() -> None:
    """It is asked again in the next life."""
    store = FakeStore([stored(S.SELECTING)])
    async with open_house(store=store) as house:
        await wait_all_tasks_blocked()
        before = house.supervisor.get("old")
        lines = await house.supervisor.logs("old")
    assert store.saved["old"] == before
    assert store.logs["old"] == lines


async def test_a_shutdown_stores_running_jobs_as_waiting() -> None:
    """Leaving the block stops the run, keeps its parts and saves the job as queued."""
    store = FakeStore()
    async with open_house(endless(), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        assert house.supervisor.get(job.job_id).state is S.RUNNING
    assert store.saved[job.job_id].state is S.QUEUED
    assert house.engine.discarded == []


async def test_nothing_starts_during_a_shutdown() -> None:
    """Creating or resuming after the end began is refused, not forgotten."""
    async with open_house(store=FakeStore([stored(S.PAUSED)])) as house:
        house.supervisor.closing = True
        with pytest.raises(ShuttingDown):
            await house.supervisor.create(SPEC)
        with pytest.raises(ShuttingDown):
            await house.supervisor.apply("old", C.RESUME)


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's endless loop of creates meets a limit with a code."""
    monkeypatch.setattr(supervisor_module, "MAX_UNSETTLED", 2)
    async with open_house(endless()) as house:
        await house.supervisor.create(SPEC)
        await house.supervisor.create(SPEC)
        with pytest.raises(TooManyJobs):
            await house.supervisor.create(SPEC)


async def test_an_unknown_job_is_not_found() -> None:
    """Every way of asking for a job that is not there says so."""
    async with open_house() as house:
        with pytest.raises(JobNotFound):
            house.supervisor.get("nope")
        with pytest.raises(JobNotFound):
            await house.supervisor.logs("nope")
        with pytest.raises(JobNotFound):
            await house.supervisor.apply("nope", C.CANCEL)
        with pytest.raises(JobNotFound):
            await house.supervisor.wait_settled("nope")


async def test_delete_removes_a_finished_job_everywhere() -> None:
    """Its record and its parts go; everybody is told."""
    async with open_house() as house:
        job = await house.supervisor.create(SPEC)
        await house.supervisor.wait_settled(job.job_id)
        answer = await house.supervisor.apply(job.job_id, C.DELETE)
        assert answer == Answer(job.job_id, S.COMPLETED, removed=True)
        with pytest.raises(JobNotFound):
            house.supervisor.get(job.job_id)
    assert house.store.saved == {}
    assert house.recorder.updates()[-1] == "deleted"
    assert house.supervisor.summary().counts == {}


async def test_delete_of_an_active_job_is_refused() -> None:
    """A running job is cancelled first, then deleted."""
    async with open_house(endless()) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        with pytest.raises(DeleteRefused):
            await house.supervisor.apply(job.job_id, C.DELETE)


async def test_no_ops_answer_the_unchanged_state() -> None:
    """Cancelling a completed job, or retrying a running one, changes and stores nothing."""
    async with open_house() as house:
        job = await house.supervisor.create(SPEC)
        await house.supervisor.wait_settled(job.job_id)
        before = list(house.store.history)
        assert (await house.supervisor.apply(job.job_id, C.CANCEL)).state is S.COMPLETED
        with pytest.raises(CommandRefused):
            await house.supervisor.apply(job.job_id, C.PAUSE)
        assert house.store.history == before


@pytest.mark.parametrize("state", [S.PAUSED, S.FAILED], ids=str)
async def test_cancelling_a_settled_job_takes_effect_at_once(state: JobState) -> None:
    """A paused or failed job has no run: its parts go and it is cancelled when answered."""
    store = FakeStore([stored(state)])
    async with open_house(store=store) as house:
        assert (await house.supervisor.apply("old", C.CANCEL)).state is S.CANCELLED
        assert store.saved["old"].state is S.CANCELLED
        assert len(house.engine.discarded) == 1
    assert house.recorder.updates()[-1] == "cancelled/cancelled"


async def test_cancelling_twice_repeats_itself() -> None:
    """A second cancel of a job that is being cancelled is accepted and harmless."""
    engine = ScriptedEngine(lambda _: (VIDEO, trio.Event()), lets_go_after=0)
    async with open_house(engine) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(house.supervisor.apply, job.job_id, C.CANCEL)
        end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.CANCELLED
    assert house.recorder.updates().count("cancelled/cancelled") == 1


async def test_a_cancel_acts_even_when_the_disk_is_full() -> None:
    """The work stops; the answer says that it could not be stored."""
    store = FakeStore()
    async with open_house(endless(), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.broken = True
        with pytest.raises(StorageFailed):
            await house.supervisor.apply(job.job_id, C.CANCEL)
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.CANCELLED


async def test_a_disk_that_never_answers_is_a_storage_failure(autojump_clock: MockClock) -> None:
    """A command does not hang with its disk."""
    store = FakeStore([stored(S.PAUSED)])
    async with open_house(store=store) as house:
        store.delay = 1000
        with pytest.raises(StorageFailed):
            await house.supervisor.apply("old", C.CANCEL)


async def test_a_command_outlives_its_caller(autojump_clock: MockClock) -> None:
    """A caller that goes away in the middle of a cancel undoes nothing."""
    store = FakeStore([stored(S.PAUSED)])
    async with open_house(store=store) as house:
        store.delay = 1
        with trio.move_on_after(0.5):
            await house.supervisor.apply("old", C.CANCEL)
        assert house.supervisor.get("old").state is S.CANCELLED
        assert store.saved["old"].state is S.CANCELLED


async def race(house: House, *commands: tuple[str, Command]) -> list[object]:
    """Give each command before the one before it is answered; return each one's answer or error."""
    outcomes: list[object] = [None] * len(commands)

    async def ask(index: int, job_id: str, command: Command) -> None:
        try:
            outcomes[index] = await house.supervisor.apply(job_id, command)
        except (CommandRefused, JobNotFound) as refused:
            outcomes[index] = refused

    async with trio.open_nursery() as nursery:
        for index, (job_id, command) in enumerate(commands):
            nursery.start_soon(ask, index, job_id, command)
            await trio.lowlevel.checkpoint()  # each one acts before the next is given
    return outcomes


async def test_two_retries_start_one_run(autojump_clock: MockClock) -> None:
    """Of two retries one starts the job, the other finds it queued."""
    engine = ScriptedEngine(lambda _: (VIDEO, 5.0, *download()[1:]))
    store = FakeStore([stored(S.FAILED)], delay=1)
    async with open_house(engine, store) as house:
        outcomes = await race(house, ("old", C.RETRY), ("old", C.RETRY))
        assert all(isinstance(answer, Answer) for answer in outcomes)
        await house.supervisor.wait_settled("old")
    assert len(engine.runs) == 1


async def test_a_retry_waits_for_the_cancel_before_it(autojump_clock: MockClock) -> None:
    """A cancel's cleaning up and the next run's work directory never meet."""
    store = FakeStore([stored(S.PAUSED)], delay=1)
    async with open_house(store=store) as house:
        await race(house, ("old", C.CANCEL), ("old", C.RETRY))
        assert (await house.supervisor.wait_settled("old")).state is S.COMPLETED
    updates = house.recorder.updates()
    assert updates.index("cancelled/cancelled") < updates.index("queued/retry")


async def test_deleting_twice_finds_nothing_the_second_time(autojump_clock: MockClock) -> None:
    """One delete removes the job, the other is told that there is none."""
    store = FakeStore([stored(S.COMPLETED)], delay=1)
    async with open_house(store=store) as house:
        first, second = await race(house, ("old", C.DELETE), ("old", C.DELETE))
    assert isinstance(first, Answer)
    assert isinstance(second, JobNotFound)


async def test_a_delete_right_at_the_end_waits_for_the_last_word(
    autojump_clock: MockClock,
) -> None:
    """A job that just finished is deleted after its end is stored, and stays deleted."""
    store, over = FakeStore(), trio.Event()
    engine = ScriptedEngine(lambda _: (VIDEO, over, *download()[1:]))
    async with open_house(engine, store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.delay = 1
        over.set()
        await wait_all_tasks_blocked()
        assert house.supervisor.get(job.job_id).state is S.COMPLETED
        answer = await house.supervisor.apply(job.job_id, C.DELETE)
        assert answer.removed
    assert store.saved == {}
    assert house.recorder.updates()[-2:] == ["completed/completed", "deleted"]


async def test_a_job_removed_by_its_own_cancel_survives_a_full_disk() -> None:
    """When the removal cannot be stored the server goes on, and the log says so."""
    store = FakeStore()
    async with open_house(ScriptedEngine(lambda _: (trio.Event(),)), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.broken = True
        with pytest.raises(StorageFailed):
            await house.supervisor.apply(job.job_id, C.CANCEL)
        with pytest.raises(JobNotFound):
            await house.supervisor.wait_settled(job.job_id)


async def test_waiting_for_a_job_that_starts_again_waits_for_the_later_end(
    autojump_clock: MockClock,
) -> None:
    """`wait_settled` returns a settled snapshot, not one between two runs."""
    scripts = iter([(Failed("x", "no"),), (VIDEO, 3.0, *download()[1:])])
    async with open_house(ScriptedEngine(lambda _: next(scripts))) as house:
        job = await house.supervisor.create(JobSpec(("http://h/a",)))
        await house.supervisor.wait_settled(job.job_id)
        await house.supervisor.apply(job.job_id, C.RESUME)
        with trio.fail_after(10):
            end = await house.supervisor.wait_settled(job.job_id)
    assert end.state is S.COMPLETED


async def test_playlist_commands_are_not_here_yet() -> None:
    """A cell that needs playlist data is a defect to reach, not a silent success."""
    async with open_house(store=FakeStore([stored(S.FAILED)])) as house:
        with pytest.raises(NotImplementedError):
            await house.supervisor.apply("old", C.DELETE_ENTRIES)


async def test_commands_on_many_jobs_do_not_wait_for_each_other(
    autojump_clock: MockClock,
) -> None:
    """A slow disk delays each answer once, not once per other job."""
    store = FakeStore([stored(S.PAUSED, f"j{n}") for n in range(10)], delay=1)
    async with open_house(store=store) as house:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for n in range(10):
                nursery.start_soon(partial(house.supervisor.apply, f"j{n}", C.CANCEL))
        assert trio.current_time() - began == pytest.approx(1)


async def test_a_cancel_during_the_shutdown_s_last_write_wins(autojump_clock: MockClock) -> None:
    """A job that goes back to the queue because the server stops can still be cancelled."""
    store = FakeStore()
    async with trio.open_nursery() as nursery, open_house(endless(), store) as house:
        job = await house.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        store.delay = 2

        async def cancel_late() -> None:
            await trio.sleep(1)
            assert house.supervisor.get(job.job_id).state is S.QUEUED
            answer = await house.supervisor.apply(job.job_id, C.CANCEL)
            assert answer.state is S.CANCELLING

        nursery.start_soon(cancel_late)
    assert house.recorder.updates()[-2:] == ["cancelling/cancelling", "cancelled/cancelled"]
    assert store.saved[job.job_id].state is S.CANCELLED
    assert len(house.engine.discarded) == 1


async def test_a_shutdown_takes_nothing_from_a_cancel(autojump_clock: MockClock) -> None:
    """A job that is cancelled with nothing found goes, even if the server stops meanwhile."""
    store = FakeStore()
    async with open_house(ScriptedEngine(lambda _: [trio.Event()], lets_go_after=1), store) as h:
        job = await h.supervisor.create(SPEC)
        await wait_all_tasks_blocked()
        await h.supervisor.apply(job.job_id, C.CANCEL)
    assert h.recorder.updates()[-2:] == ["cancelled/cancelled", "deleted"]
    assert store.saved == {}


@pytest.mark.parametrize("state", [S.PAUSED, S.FAILED], ids=str)
async def test_a_cancel_on_a_disk_that_hangs_is_told_and_stored(
    state: JobState, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Parts that cannot be removed in time do not leave a cancel half done."""

    class Stuck(ScriptedEngine):
        async def discard(self, work: Path) -> None:
            await trio.sleep(1000)

    store = FakeStore([stored(state)])
    async with open_house(Stuck(), store) as house:
        assert (await house.supervisor.apply("old", C.CANCEL)).state is S.CANCELLED
        assert store.saved["old"].state is S.CANCELLED
        assert (await house.supervisor.apply("old", C.DELETE)).removed
    assert house.recorder.updates()[-2:] == ["cancelled/cancelled", "deleted"]
    assert "is not gone yet" in caplog.text


async def test_a_broken_disk_does_not_stop_a_delete(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever removing the parts raises: the job goes, and the server's log says what stays."""

    class Broken(ScriptedEngine):
        async def discard(self, work: Path) -> None:
            raise RuntimeError("a defect")

    async with open_house(Broken(), FakeStore([stored(S.FAILED)])) as house:
        assert (await house.supervisor.apply("old", C.DELETE)).removed
    assert "a defect" in caplog.text


# -- what earlier lives left


class SlowSweep(ScriptedEngine):
    """An engine whose janitor waits for `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remember what was asked, then wait."""
        await super().sweep(folders, keep)
        await self.go.wait()
        return ("gone",)


async def test_what_nobody_will_continue_from_is_swept_once() -> None:
    """In every folder that a job went to or may go to; parts of resumable jobs are kept."""
    rules = replace(RULES, roots=("/media", "/only/here"))
    elsewhere = JobSpec(("http://h/a",), {"paths": {"home": "/etc"}})
    jobs = [
        Stored(Snapshot("paused", SPEC, S.PAUSED, EPOCH, destination="/media/films")),
        Stored(Snapshot("failed", SPEC, S.FAILED, EPOCH, destination="/gone")),
        Stored(Snapshot("crashed", SPEC, S.RUNNING, EPOCH)),
        Stored(Snapshot("pausing", SPEC, S.PAUSING, EPOCH)),
        Stored(Snapshot("nowhere", elsewhere, S.FAILED, EPOCH)),
        Stored(Snapshot("cancelled", SPEC, S.CANCELLED, EPOCH)),
        Stored(Snapshot("cancelling", SPEC, S.CANCELLING, EPOCH)),
        Stored(Snapshot("completed", SPEC, S.COMPLETED, EPOCH)),
    ]
    async with open_house(store=FakeStore(jobs), rules=rules) as house:
        await wait_all_tasks_blocked()
        ((folders, keep),) = house.engine.swept
        assert sorted(map(str, folders)) == [
            "/downloads", "/gone", "/media", "/media/films", "/only/here",
        ]  # fmt: skip
        kept = {one.snapshot.job_id for one in jobs if one.snapshot.job_id in keep}
        assert kept == {"paused", "failed", "crashed", "pausing", "nowhere"}
        assert "unknown" not in keep


async def test_a_job_that_comes_while_it_is_swept_is_safe() -> None:
    """What is kept is asked when it matters, not when the sweep began; nothing waits for it."""
    engine = SlowSweep()
    async with open_house(engine, FakeStore([stored(S.PAUSED)])) as house:
        await wait_all_tasks_blocked()
        ((_, keep),) = engine.swept
        job = await house.supervisor.create(SPEC)
        assert job.job_id in keep
        assert (await house.supervisor.wait_settled(job.job_id)).state is S.COMPLETED
        await house.supervisor.apply("old", C.RESUME)
        assert (await house.supervisor.wait_settled("old")).state is S.COMPLETED
        assert "old" in keep


async def test_a_job_that_may_be_swept_starts_again_afterwards() -> None:
    """A retry and the sweep never meet in one directory; meanwhile the job can be cancelled."""
    engine = SlowSweep()
    known = Snapshot("old", SPEC, S.CANCELLED, EPOCH, preview={"title": "T"})
    async with open_house(engine, FakeStore([Stored(known)])) as house:
        await house.supervisor.apply("old", C.RETRY)
        await wait_all_tasks_blocked()
        assert (house.supervisor.get("old").state, engine.runs) == (S.QUEUED, [])
        await house.supervisor.apply("old", C.CANCEL)
        assert (await house.supervisor.wait_settled("old")).state is S.CANCELLED
        await house.supervisor.apply("old", C.RETRY)
        engine.go.set()
        assert (await house.supervisor.wait_settled("old")).state is S.COMPLETED


async def test_a_sweep_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Leftovers are no reason to end a server, nor to keep a job from starting."""

    class Broken(ScriptedEngine):
        async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
            raise PermissionError("not yours")

    async with open_house(Broken(), FakeStore([stored(S.CANCELLED)])) as house:
        await house.supervisor.apply("old", C.RETRY)
        assert (await house.supervisor.wait_settled("old")).state is S.COMPLETED
    assert "not yours" in caplog.text


async def test_a_shutdown_does_not_wait_for_the_sweep() -> None:
    """What is left is for the next start."""
    engine = SlowSweep()
    with trio.fail_after(5):
        async with open_house(engine):
            await wait_all_tasks_blocked()


async def test_a_retry_waits_for_the_old_parts_to_go(autojump_clock: MockClock) -> None:
    """However long a disk takes: a run never starts in a directory that is being removed."""

    class Slow(ScriptedEngine):
        async def discard(self, work: Path) -> None:
            await trio.sleep(100)
            await super().discard(work)

    engine = Slow()
    async with open_house(engine, FakeStore([stored(S.FAILED)])) as house:
        await house.supervisor.apply("old", C.RETRY)
        await trio.sleep(99)
        assert (house.supervisor.get("old").state, engine.runs) == (S.QUEUED, [])
        await trio.sleep(2)
        assert len(engine.runs) == 1
