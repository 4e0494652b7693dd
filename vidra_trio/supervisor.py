"""All jobs of one server: who they are, and what may be asked of them.

1. Jobs live in one nursery of the supervisor's, each under its own cancel
   scope; a request that goes away takes no job with it.
2. A command is decided and acts synchronously, is made durable, then answered.
3. A job that is saying its last words is asked when it has said them: so a
   command and the job's own end never write over each other.
4. What earlier lives left on disk is swept once, in the background. Jobs that it
   may touch are known before any job runs; one of them that is started again
   waits for it, and no other job does.
5. Fence: no wire word, no yt-dlp word and no playlist arithmetic in here.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.core import lifecycle
from vidra_trio.core.errors import JobNotFound, ShuttingDown, StorageFailed, TooManyJobs
from vidra_trio.core.events import JobChanged, JobDeleted, OverviewChanged
from vidra_trio.core.job import LogEntry, Snapshot, Summary, bare, next_version
from vidra_trio.core.lifecycle import Cell, Move, Plain
from vidra_trio.core.paths import place
from vidra_trio.core.progress import IDENTIFYING, Progress
from vidra_trio.core.restore import Policy, restore
from vidra_trio.core.states import Command, JobState, Level, Reason
from vidra_trio.runner import SETTLE_DEADLINE, Job, Services, keep_selecting, run_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from datetime import datetime

    from vidra_trio.core.events import Event
    from vidra_trio.core.job import JobSpec
    from vidra_trio.core.paths import PathRules
    from vidra_trio.engine.base import Engine
    from vidra_trio.storage.jobs import JobStore

MAX_UNSETTLED: Final = 10_000
"""Jobs that wait or run. A bug in a client must not fill memory; no user queues as many by hand."""

SWEEP_BATCH: Final = 100
"""Jobs looked at in one go while a start gathers folders: some milliseconds of the loop's time."""

_NO_ANSWER: Final = f"no answer from the disk within {SETTLE_DEADLINE:g} s"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command came to: the job's state right after it, or its removal."""

    job_id: str
    state: JobState
    removed: bool = False


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """How many jobs there are, and how the slots are used."""

    summary: Summary
    slots: int
    slots_used: int


@asynccontextmanager
async def open_supervisor(
    *,
    engine: Engine,
    store: JobStore,
    publish: Callable[[Event], None],
    rules: PathRules,
    now: Callable[[], datetime],
    max_concurrent: int,
    retries: int = 0,
    policy: Policy = Policy.RESUME,
) -> AsyncIterator[Supervisor]:
    """Restore the stored jobs and supervise for the length of the block.

    Leaving it stops every run and waits until each job has settled and is
    saved; a job that was alive is stored as waiting for a slot.
    """
    slots = trio.CapacityLimiter(max_concurrent)
    services = Services(engine, store, publish, slots, rules, now, Counter(), retries)
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(services, nursery, policy)
        nursery.start_soon(supervisor._sweep)
        nursery.start_soon(supervisor._go_on)
        try:
            yield supervisor
        finally:
            supervisor.closing = True
            nursery.cancel_scope.cancel("shutdown")


class Supervisor:
    """Owns the jobs table; made by `open_supervisor`."""

    def __init__(self, services: Services, nursery: trio.Nursery, policy: Policy) -> None:
        self.closing = False
        self._services = services
        self._nursery = nursery
        self._jobs: dict[str, Job] = {}
        self._swept = trio.Event()
        self._restore(policy)
        self._alive = [
            (job, keep_selecting if job.state is JobState.SELECTING else self._run)
            for job in self._jobs.values()
            if job.state in lifecycle.ALIVE
        ]
        for job, _ in self._alive:
            job.prepare()
        self._done_with = frozenset(
            job_id
            for job_id, job in self._jobs.items()
            if job.state in lifecycle.SETTLED - lifecycle.RESUMABLE
        )

    def get(self, job_id: str) -> Snapshot:
        """Return the job's current snapshot.

        Raises:
            JobNotFound: there is none of this id.
        """
        return self._find(job_id).snapshot

    def jobs(self) -> list[Snapshot]:
        """Return all jobs, oldest first."""
        return sorted((job.snapshot for job in self._jobs.values()), key=lambda s: s.created_at)

    async def logs(self, job_id: str) -> tuple[LogEntry, ...]:
        """Return the job's log, oldest line first.

        Raises:
            JobNotFound: there is none of this id.
        """
        return await self._find(job_id).read_log()

    def summary(self) -> Summary:
        """Return how many jobs there are by state; costs nothing."""
        return self._services.summary()

    def statistics(self) -> SupervisorStatistics:
        """Return a frozen picture of the queue."""
        slots = self._services.slots
        return SupervisorStatistics(
            self.summary(), int(slots.total_tokens), int(slots.borrowed_tokens)
        )

    async def create(self, spec: JobSpec) -> Snapshot:
        """Start a job and return its first snapshot.

        The job is on disk and visible to `jobs` before this returns. If the
        caller is cancelled before that, no trace of the job remains; after it,
        the job belongs to the supervisor and outlives the caller.

        Raises:
            ShuttingDown: the server no longer takes work.
            TooManyJobs: `MAX_UNSETTLED` jobs wait or run already.
            StorageFailed: the first write failed; nothing was started.
            VidraError: the options name no place that is allowed.
        """
        self._admit()
        now = self._services.now()
        snapshot = Snapshot(
            job_id=str(uuid.uuid4()),
            spec=spec,
            state=JobState.QUEUED,
            created_at=now,
            progress=_waiting(),
            metadata=spec.metadata,
            preview=spec.metadata.get("preview"),
            destination=place(spec.options, self._services.rules).directory,
            options_version=next_version(int(now.timestamp() * 1000), None),
        )
        job = Job(snapshot, self._services)
        created: Snapshot = await self._nursery.start(self._run_new, job)
        return created

    async def apply(self, job_id: str, command: Command) -> Answer:
        """Do what `command` means in the job's state, make it durable, and say what came of it.

        The command acts at once and for good: neither a caller that goes away
        nor a disk that fails undoes it.

        Raises:
            JobNotFound: there is no such job.
            CommandRefused: the state's cell says so.
            ShuttingDown: the command would start a run, and no more are started.
            StorageFailed: it acted, but was not stored.
        """
        find = self._find_steady if command is Command.DELETE else self._find_ready
        job = await find(job_id)
        cell = lifecycle.decide(job.state, command)
        if cell is Plain.NOOP:
            return Answer(job_id, job.state)
        if cell == Move(JobState.QUEUED) and command is not Command.SELECT:
            self._admit()
        with trio.CancelScope(shield=True):  # bounded: each wait in there is
            answer = await self._act(job, command, cell)
        return answer

    async def wait_settled(self, job_id: str) -> Snapshot:
        """Wait until the job will not move by itself and its end is stored and told.

        Raises:
            JobNotFound: there is no such job, or it was removed meanwhile.
            ShuttingDown: the server stopped its run, and starts no more.
        """
        job = await self._find_steady(job_id)
        while job.state in lifecycle.ALIVE:
            if job.idle.is_set():
                raise ShuttingDown
            await job.idle.wait()
        return self.get(job_id)

    # -- commands

    async def _act(self, job: Job, command: Command, cell: Cell) -> Answer:
        if not isinstance(cell, Move):
            return await self._remove(job)
        match command:
            case Command.CANCEL:
                await self._cancel(job, cell.to)
            case Command.PAUSE:
                await self._pause(job, cell.to)
            case Command.RESUME:
                await self._start_again(job, Reason.RESUMED)
            case Command.RETRY:
                await self._start_again(job, Reason.RETRY)
            case _:
                raise NotImplementedError(f"{command} has no playlist to act on")
        return Answer(job.snapshot.job_id, cell.to)

    async def _cancel(self, job: Job, to: JobState) -> None:
        job.move(to)
        if to is JobState.CANCELLING:
            job.write(Level.INFO, "cancel asked")
            job.tell(Reason.CANCELLING)
            job.scope.cancel("cancel")
            return await _in_time(job.save)
        with job.busy():
            await job.discard()
            job.change(finished_at=self._services.now(), error=None, error_code=None)
            job.write(Level.INFO, "job cancelled")
            job.tell(Reason.CANCELLED)
            await _in_time(job.save)
            job.drop_log()

    async def _pause(self, job: Job, to: JobState) -> None:
        job.move(to)
        job.write(Level.INFO, "pause asked")
        job.tell(Reason.PAUSING)
        if job.run is not None:
            job.run.stop()
        await _in_time(job.save)

    async def _start_again(self, job: Job, reason: Reason) -> None:
        """Queue a settled job: to continue from its parts, or (a retry) from nothing.

        A retry forgets which files the job made, but deletes none of them.
        """
        afresh = reason is Reason.RETRY
        job.move(JobState.QUEUED)
        job.snapshot = bare(job.snapshot, progress=_waiting(), started_at=None)
        if afresh:
            job.change(finished_items=(), generated_files=(), main_file=None)
        job.write(Level.INFO, reason.value)
        job.tell(reason)
        job.prepare()
        self._nursery.start_soon(partial(self._run, job, afresh=afresh), name=repr(job))
        await _in_time(job.save)

    async def _remove(self, job: Job) -> Answer:
        """Forget the job, and remove what it left besides finished files."""
        job_id = job.snapshot.job_id
        while not job.idle.is_set():  # it waits for a selection; or somebody else removes it
            job.scope.cancel("removed")
            await job.idle.wait()
        if self._jobs.get(job_id) is job:
            with job.busy():
                await job.discard()
                await self._drop(job)
        return Answer(job_id, job.state, removed=True)

    async def _drop(self, job: Job) -> None:
        now, job_id = self._services.now(), job.snapshot.job_id
        del self._jobs[job_id]
        self._services.tally[job.state] -= 1
        self._services.publish(JobDeleted(job_id, job.state, now))
        self._services.publish(OverviewChanged(self.summary(), now))
        await _in_time(partial(self._services.store.remove, job_id))

    # -- tasks

    async def _run_new(
        self, job: Job, *, task_status: trio.TaskStatus[Snapshot] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Store, show and start a job; before `started` nothing of it exists."""
        job.write(Level.INFO, "job created")
        try:
            await _in_time(job.save)
            # A caller may have gone in the very step in which the write ended: `started`
            # would return as if it were still there, and leave a job without a task.
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self._services.store.forget(job.snapshot.job_id)
            raise
        self._jobs[job.snapshot.job_id] = job
        self._services.tally[job.state] += 1
        job.prepare()
        job.tell(Reason.CREATED)
        task_status.started(job.snapshot)
        await self._run(job)

    async def _run(self, job: Job, *, afresh: bool = False) -> None:
        after = self._swept if job.snapshot.job_id in self._done_with else None
        try:
            await run_job(job, afresh=afresh, after=after)
        finally:
            # Whatever ended it: a cancel is not half a cancel because the server stops too.
            if job.state is JobState.CANCELLED and job.snapshot.leaves_nothing:
                with trio.CancelScope(shield=True):  # bounded: its wait is
                    await self._drop_quietly(job)

    async def _drop_quietly(self, job: Job) -> None:
        """Remove a job that was cancelled before anything was found (the contract's rule)."""
        try:
            await self._drop(job)
        except StorageFailed as error:
            _log.error("job %s: %s", job.snapshot.job_id, error)

    async def _sweep(self) -> None:
        """Remove the work directories that no job will continue from; log what goes wrong."""
        keep = _Kept(self._jobs, self._done_with)
        try:
            gone = await self._services.engine.sweep(await self._folders(), keep)
        except Exception as error:  # noqa: BLE001 - leftovers are no reason to end a server
            _log.warning("old work directories stay: %r", error)
        else:
            if gone:
                _log.info("removed %d old work directories", len(gone))
        finally:
            self._swept.set()

    async def _folders(self) -> tuple[Path, ...]:
        """Return where jobs may have left something: every folder that one went to, or may go."""
        rules = self._services.rules
        folders = {Path(folder) for folder in (rules.download_dir, *rules.roots)}
        for number, job in enumerate(list(self._jobs.values())):
            kept = job.snapshot.destination or job.folder
            if kept is not None:
                folders.add(Path(kept))
            if number % SWEEP_BATCH == 0:
                await trio.lowlevel.checkpoint()
        return tuple(sorted(folders))

    # -- the table

    def _find(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound(job_id) from None

    async def _find_steady(self, job_id: str) -> Job:
        """Return the job once it is not between its end and its last word."""
        job = self._find(job_id)
        while job.state not in lifecycle.ALIVE and not job.idle.is_set():
            await job.idle.wait()
            job = self._find(job_id)
        return job

    async def _find_ready(self, job_id: str) -> Job:
        """Return the job once it is steady, and its log at hand.

        Raises:
            StorageFailed: its log is not, within `SETTLE_DEADLINE`.
        """
        job = await self._find_steady(job_id)
        while job.log is None:
            await _in_time(job.load_log)
            job = await self._find_steady(job_id)
        return job

    def _admit(self) -> None:
        if self.closing:
            raise ShuttingDown
        if sum(self._services.tally[state] for state in lifecycle.ALIVE) >= MAX_UNSETTLED:
            raise TooManyJobs(MAX_UNSETTLED)

    def _restore(self, policy: Policy) -> None:
        """Show every stored job as it starts this life; what that changed is noted and stored."""
        now = self._services.now()
        for stored in self._services.store.restored:
            again = restore(stored.snapshot, now, policy)
            job = Job(again.snapshot, self._services, stored.logs)
            self._jobs[again.snapshot.job_id] = job
            self._services.tally[job.state] += 1
            if again.snapshot != stored.snapshot:
                if job.log is not None:
                    job.write(again.level, again.message)
                self._services.store.save_soon(job.snapshot, job.log)
            self._services.publish(JobChanged(job.snapshot, Reason.RESTORED, now))

    async def _go_on(self) -> None:
        """Start what is in the queue again, in the order in which it came."""
        with trio.CancelScope(shield=True):  # bounded: each of them ends, if only by a stop
            alive, self._alive = self._alive, []
            for job, task in alive:
                self._nursery.start_soon(task, job, name=repr(job))
                await trio.lowlevel.checkpoint()  # tasks that start together start in any order


class _Kept:
    """The ids whose work directories stay; it grows with the jobs that come meanwhile.

    Asked from the thread that sweeps: a look-up in a dict is one step there.
    """

    def __init__(self, jobs: Mapping[str, Job], done_with: frozenset[str]) -> None:
        self._jobs = jobs
        self._done_with = done_with

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs and job_id not in self._done_with


async def _in_time(write: Callable[[], Awaitable[None]]) -> None:
    """Make a change durable.

    Raises:
        StorageFailed: it is not, or not within `SETTLE_DEADLINE`.
    """
    with trio.move_on_after(SETTLE_DEADLINE):
        return await write()
    raise StorageFailed(_NO_ANSWER)


def _waiting() -> Progress:
    """What a job shows while it waits for a slot."""
    return Progress(
        status="queued",
        stage=IDENTIFYING,
        stage_name=IDENTIFYING,
        stage_percent=0.0,
        percent=0.0,
    )
