"""One job, from the queue to its end.

1. A job has one owner at a time: the task in `run_job` while it is alive, the
   supervisor's commands while it is settled. Both change it synchronously.
2. The state remembers why a run ends. The engine only says that it let go, and
   the table turns that into paused, cancelled or queued.
3. A success is decided the moment the engine reports it, without a checkpoint
   in between: a cancel that comes later finds a completed job.
4. Every other end is told after the work directory was dealt with, so that who
   reads `cancelled` finds nothing left.
5. Settled states are written before they are told; who asks meanwhile may read
   a completed job an instant before it is durable. `idle` is set after all that.
6. Whatever goes wrong in here, the job gets its end: nothing leaves `run_job` but
   a cancellation from outside.
7. A try that the network broke is no end while tries are left: its parts stay,
   nobody is told of a failure, and the job keeps its slot while it waits, as it
   would for a slow site.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import trio

from vidra_trio.core import lifecycle, progress, retry
from vidra_trio.core.errors import StorageFailed, VidraError
from vidra_trio.core.events import InfoChanged, JobChanged, Logged, OverviewChanged, ProgressChanged
from vidra_trio.core.job import LOG_LINES, LogEntry, Snapshot, Summary, next_version
from vidra_trio.core.options import overwrites, secret_values, ytdlp_params
from vidra_trio.core.paths import WORK_PREFIX, PathRules, Placement, place
from vidra_trio.core.redact import redact
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stage, Stopped, Tick
from vidra_trio.core.states import JobEvent, JobState, Level, Reason
from vidra_trio.core.zones import refusal
from vidra_trio.engine.base import RunSpec

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from datetime import datetime

    from vidra_trio.core.events import Event
    from vidra_trio.core.report import Report, Terminal
    from vidra_trio.engine.base import Engine
    from vidra_trio.storage.jobs import JobStore

SETTLE_DEADLINE: Final = 4.0
"""Seconds for a job's last words (remove parts, save) once its engine let go.
Below the 5 s in which a server stops."""

SHORTEST_SECRET: Final = 4
"""Masking a shorter one would spell it out by where the gaps are."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What jobs need from the house. `tally` counts jobs by state; `Job` keeps it true.

    `retries` is how often an item is tried again when the network broke it.
    """

    engine: Engine
    store: JobStore
    publish: Callable[[Event], None]
    slots: trio.CapacityLimiter
    rules: PathRules
    now: Callable[[], datetime]
    tally: Counter[JobState]
    retries: int = 0

    def summary(self) -> Summary:
        """Return how many jobs there are by state; costs nothing."""
        return Summary({state: n for state, n in self.tally.items() if n})


class Stoppable(Protocol):
    """What a job is doing right now, as far as a pause is concerned."""

    def stop(self) -> None:
        """Ask for a soft stop. Never blocks; harmless after the end or twice."""


class Job:
    """The identity behind a job id: its current snapshot, its log, its run."""

    def __init__(
        self, snapshot: Snapshot, services: Services, log: Iterable[LogEntry] | None = ()
    ) -> None:
        self.snapshot = snapshot
        self.services = services
        self.scope = trio.CancelScope()
        self.run: Stoppable | None = None
        self.idle = trio.Event()
        self.idle.set()
        self._log = _ring(log)  # None: only the store has it

    def __repr__(self) -> str:
        return f"<Job {self.snapshot.job_id} {self.snapshot.state}>"

    def prepare(self) -> None:
        """Make ready for a run, which may be cancelled from now on, even before it begins."""
        self.scope = trio.CancelScope()
        self.idle = trio.Event()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep other commands waiting while one that moved a settled job does its I/O."""
        self.idle = trio.Event()
        try:
            yield
        finally:
            self.idle.set()

    @property
    def state(self) -> JobState:
        """Where the job stands."""
        return self.snapshot.state

    @property
    def log(self) -> tuple[LogEntry, ...] | None:
        """The newest lines, oldest first; None when only the store has them."""
        return None if self._log is None else tuple(self._log)

    async def read_log(self) -> tuple[LogEntry, ...]:
        """Return the newest lines, oldest first, wherever they are."""
        here = self.log
        return await self.services.store.log(self.snapshot.job_id) if here is None else here

    async def load_log(self) -> None:
        """Have the log at hand, as everybody must who writes to it."""
        version = self.snapshot.logs_version
        lines = await self.read_log()
        if self._log is None and self.snapshot.logs_version == version:
            self._log = _ring(lines)

    def drop_log(self) -> None:
        """Leave the log, which is stored, to the store."""
        self._log = None

    @property
    def folder(self) -> str | None:
        """Where the job's files go; None if no place is allowed."""
        try:
            return self.placement().directory
        except VidraError:
            return None

    @property
    def work(self) -> Path | None:
        """The job's private directory on the destination's volume; None if no place is allowed."""
        folder = self.folder
        return None if folder is None else self.work_in(folder)

    def work_in(self, folder: str) -> Path:
        """Return the private directory beside the files that go to `folder`."""
        return Path(folder) / f"{WORK_PREFIX}{self.snapshot.job_id}"

    def placement(self) -> Placement:
        """Return where the job's files go: where it began, as long as that is allowed.

        Raises:
            VidraError: its options no longer pass (the server's rules changed since).
        """
        kept, rules = self.snapshot.destination, self.services.rules
        placement = place(self.snapshot.spec.options, rules)
        if kept is None or refusal(kept, rules) is not None:
            return placement
        return dataclasses.replace(placement, directory=kept)

    def change(self, **fields: Any) -> None:  # noqa: ANN401 - members of Snapshot
        """Replace members of the snapshot; never the state."""
        self.snapshot = dataclasses.replace(self.snapshot, **fields)

    def move(self, to: JobState) -> None:
        """Set the state that a table gave for a command."""
        self.services.tally[self.state] -= 1
        self.services.tally[to] += 1
        self.change(state=to)

    def advance(self, event: JobEvent) -> None:
        """Set the state that the table gives for `event`."""
        self.move(lifecycle.advance(self.state, event))

    def write(self, level: Level, message: str) -> None:
        """Add a line to the log and tell those who watch."""
        now = self.services.now()
        entry = LogEntry(now, level, message)
        if self._log is None:
            raise RuntimeError(f"the log of {self!r} was not loaded")
        self._log.append(entry)
        version = next_version(int(now.timestamp() * 1000), self.snapshot.logs_version)
        self.change(logs_version=version)
        self.services.publish(Logged(self.snapshot.job_id, entry))

    def tell(self, reason: Reason) -> None:
        """Publish the job as it is now, and the counts."""
        now = self.services.now()
        self.services.publish(JobChanged(self.snapshot, reason, now))
        self.services.publish(OverviewChanged(self.services.summary(), now))

    def tell_progress(self) -> None:
        """Publish how far the job is."""
        self.services.publish(ProgressChanged(self.snapshot, self.services.now()))

    async def discard(self, *, within: float = SETTLE_DEADLINE) -> None:
        """Remove the work directory; one that cannot be, in time, is left and logged.

        Cancelled, it may have removed some of it.
        """
        work = self.work
        if work is None:
            return
        try:
            with trio.move_on_after(within) as limit:
                await self.services.engine.discard(work)
        except Exception as error:  # noqa: BLE001 - leftovers must not keep a job from its end
            _log.warning("job %s: its work directory stays: %r", self.snapshot.job_id, error)
            return
        if limit.cancelled_caught:
            _log.warning("job %s: its work directory is not gone yet", self.snapshot.job_id)
        else:
            self.change(partial_files=())

    async def save(self) -> None:
        """Make the job durable as it is now.

        Raises:
            StorageFailed: it is not.
        """
        await self.services.store.save(self.snapshot, self.log)


async def run_job(job: Job, *, afresh: bool = False, after: trio.Event | None = None) -> None:
    """Take a prepared `job` from the queue to a settled state; returns when all of it is told.

    Nothing is touched before `after`. `afresh` drops the parts of an earlier run
    first. Cancelling `job.scope` ends the run the hard way; what that means is in
    the job's state. Cancelled from outside (a shutdown) it settles the job too,
    each wait for the disk within `SETTLE_DEADLINE`, and passes the cancellation on.
    """

    async def run() -> JobEvent:
        if after is not None:
            await after.wait()
        if afresh:
            # However long it takes: a run must not start in what is being removed.
            await job.discard(within=math.inf)
        async with job.services.slots:
            await trio.lowlevel.checkpoint_if_cancelled()
            return await _run_items(job)

    await _to_its_end(job, run)


async def keep_selecting(job: Job) -> None:
    """Keep a prepared `job` that waits for its user's selection, until it is asked to stop.

    Ends as `run_job` does.
    """

    async def wait() -> JobEvent:
        job.run = rest = _Rest()
        if job.state is JobState.SELECTING:  # nobody has asked for anything yet
            await rest.stopped.wait()
        return JobEvent.STOPPED

    await _to_its_end(job, wait)


async def _to_its_end(job: Job, work: Callable[[], Awaitable[JobEvent]]) -> None:
    event = JobEvent.STOPPED
    try:
        with job.scope:
            event = await work()
    except* Exception as defects:  # noqa: BLE001 - a job fails, its siblings do not
        # Starred: a defect may come in one group with the cancellation that it met.
        event = _defect(job, defects)
    finally:
        job.run = None
        try:
            await _last_words(job, event)
        finally:
            job.idle.set()


async def _last_words(job: Job, event: JobEvent) -> None:
    """Tidy up, settle, save, tell; all of it even when cancelled, each wait bounded."""
    state, stored = None, False
    # Twice, when a cancel hits a job that waits for a slot again, because the server stops.
    while state is not job.state:
        event = await _tidy(job, event)
        if job.state in lifecycle.ALIVE:
            _settle(job, event)
        state, event = job.state, JobEvent.STOPPED
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_DEADLINE):
            stored = await _save_quietly(job)
    job.tell(_REASONS[state])
    if stored and state in lifecycle.SETTLED:
        job.drop_log()


async def _run_items(job: Job) -> JobEvent:
    """Run every URL that is not on disk yet, one after the other."""
    job.advance(JobEvent.BEGIN)
    job.change(
        started_at=job.services.now(),
        progress=progress.identifying(job.snapshot.progress, "starting"),
    )
    job.write(Level.INFO, "started")
    job.tell(Reason.STARTED)
    job.tell_progress()
    with trio.move_on_after(SETTLE_DEADLINE):
        await _save_quietly(job)  # should it bring the server down, the next life must know
    first_failure: Failed | None = None
    for index, url in enumerate(job.snapshot.spec.urls):
        if index in job.snapshot.finished_items:
            continue
        if job.state is JobState.PAUSING:
            return JobEvent.STOPPED
        end = await _run_item(job, index, url)
        if isinstance(end, Stopped):
            return JobEvent.STOPPED
        if isinstance(end, Failed):
            first_failure = first_failure or end
    return _outcome(job, first_failure)


def _outcome(job: Job, failure: Failed | None) -> JobEvent:
    """What all items together came to, when none is left to run."""
    if failure is not None and not job.snapshot.generated_files:
        return _failed(job, failure)  # what was skipped is no success to weigh against it
    clean = failure is None and not job.snapshot.has_error_logs
    return JobEvent.FINISHED if clean else JobEvent.FINISHED_WITH_ERRORS


async def _run_item(job: Job, index: int, url: str) -> Terminal:
    """Run one URL, again while the network breaks it and tries are left.

    `Stopped` comes back only when that was asked.
    """
    number = 0
    while True:
        number += 1
        item, flagged = _Item(job, index), job.snapshot.has_error_logs
        end = _considered(job, await _try_item(job, item, url))
        if number > job.services.retries or not retry.passing(end):
            break
        if job.snapshot.has_error_logs is not flagged:  # what the broken try said counts no more
            job.change(has_error_logs=flagged)
            job.tell(Reason.UPDATED)
        if await _stopped_resting(job, number, end):
            return Stopped()
    if isinstance(end, Failed):
        item.explain(end)
    return end


async def _try_item(job: Job, item: _Item, url: str) -> Terminal:
    """Run one URL through the engine, once; nothing of it is left when this returns."""
    try:
        spec = _plan(job, item.index, url)
    except VidraError as error:
        return Failed(error.code, str(error))
    # The run before it may have ended in a shield: a cancelled job opens no other.
    await trio.lowlevel.checkpoint_if_cancelled()
    async with job.services.engine.open(spec) as run:
        job.run = run
        if job.state is JobState.PAUSING:
            run.stop()
        async for report in run:
            end = item.take(report, spec.destination)
            if end is not None:
                return end
    raise AssertionError("an engine ended a run without a terminal report")


def _considered(job: Job, end: Terminal) -> Terminal:
    """Return what `end` means in the light of what was asked of the job meanwhile."""
    pausing, cancelling = (job.state is s for s in (JobState.PAUSING, JobState.CANCELLING))
    if isinstance(end, Stopped) and not (pausing or cancelling):
        return Failed("engine_died", "the engine stopped without being asked")
    if isinstance(end, Failed) and (cancelling or (pausing and end.retryable)):
        # The stop may have brought it about; and what a resume may mend is no end.
        job.write(Level.WARNING, end.message)
        return Stopped()
    return end


async def _stopped_resting(job: Job, number: int, end: Failed) -> bool:
    """Wait before the next try; at once over, and true, when a pause is asked."""
    seconds = retry.pause(number)
    again = f"trying again in {seconds:g} s ({number} of {job.services.retries})"
    job.write(Level.WARNING, f"{again}: {end.message}")
    standing = dataclasses.replace(job.snapshot.progress, speed=None, eta=None, message=again)
    job.change(progress=standing)
    job.tell_progress()
    job.run = rest = _Rest()
    with trio.move_on_after(seconds):
        await rest.stopped.wait()
    return rest.stopped.is_set()


class _Rest:
    """What a job does between two tries: nothing, until it is stopped."""

    def __init__(self) -> None:
        self.stopped = trio.Event()

    def stop(self) -> None:
        """End the wait."""
        self.stopped.set()


def _plan(job: Job, index: int, url: str) -> RunSpec:
    """Return the run of one URL.

    Raises:
        VidraError: its options no longer pass (the server's rules changed since).
    """
    options, rules = job.snapshot.spec.options, job.services.rules
    placement = job.placement()
    return RunSpec(
        job_id=job.snapshot.job_id,
        url=url,
        destination=Path(placement.directory),
        work=job.work_in(placement.directory) / str(index),
        template=placement.template,
        params=ytdlp_params(options, rules),
        overwrite=overwrites(options),
        roots=tuple(map(Path, rules.roots)),
        rules=rules,
    )


class _Item:
    """Takes one item's reports into its job."""

    def __init__(self, job: Job, index: int) -> None:
        self.index = index
        self._job = job
        self._progress = progress.identifying(job.snapshot.progress, "starting")
        values = secret_values(job.snapshot.spec.options)
        self._secrets = [value for value in values if len(value) >= SHORTEST_SECRET]
        self._errors: set[str] = set()

    def take(self, report: Report, destination: Path) -> Terminal | None:
        """Apply `report`; returns it when it is the last one."""
        match report:
            case Tick():
                # Named where the user will find it, not in the work directory.
                tick = msgspec.structs.replace(report, key=str(destination / report.key))
                self._show(progress.apply_tick(self._progress, tick))
            case Stage():
                self._show(progress.apply_stage(self._progress, report))
            case Line():
                self._line(report)
            case Identified():
                self._identified(report)
            case Finished():
                self._finished(report)
                return report
            case Failed():
                message = redact(report.message, self._secrets)
                return msgspec.structs.replace(report, message=message)
            case Stopped():
                return report
            case _:
                pass  # Waiting: its silence is the engine's business
        return None

    def explain(self, end: Failed) -> None:
        """Log why the item failed, unless the engine's own lines have said so."""
        if end.message not in self._errors:
            self._job.write(Level.ERROR, end.message)

    def _show(self, new: progress.Progress) -> None:
        self._progress = new
        count = len(self._job.snapshot.spec.urls)
        shown = progress.of_several(new, self.index, count)
        if shown != self._job.snapshot.progress:
            self._job.change(progress=shown)
            self._job.tell_progress()

    def _line(self, line: Line) -> None:
        job, message = self._job, redact(line.message, self._secrets)
        job.write(line.level, message)
        if line.level is not Level.ERROR:
            return
        self._errors.add(message)
        if not job.snapshot.has_error_logs:
            job.change(has_error_logs=True)
            job.tell(Reason.UPDATED)

    def _identified(self, found: Identified) -> None:
        job = self._job
        if job.snapshot.preview is None or self.index == 0:
            job.change(kind=found.kind, **_described(job.snapshot, found))
            job.tell(Reason.PREVIEW_READY)
            job.services.publish(InfoChanged(job.snapshot, job.services.now()))
        job.advance(JobEvent.IDENTIFIED)
        job.tell(Reason.UPDATED)
        fresh = progress.identifying(job.snapshot.progress, "running")
        self._show(progress.expect(fresh, found.total_bytes))

    def _finished(self, end: Finished) -> None:
        job, old = self._job, self._job.snapshot
        job.change(
            finished_items=(*old.finished_items, self.index),
            generated_files=tuple(sorted({*old.generated_files, *end.files})),
            main_file=old.main_file or end.main,
            partial_files=(),
        )
        job.write(Level.INFO, f"finished: {end.main or old.spec.urls[self.index]}")
        if len(job.snapshot.finished_items) == len(old.spec.urls):
            _settle(job, _outcome(job, None))


def _described(old: Snapshot, found: Identified) -> dict[str, Any]:
    """Return the snapshot members that say what the item is: the site's word beats the client's."""
    preview = {**(old.preview or {}), **found.preview}
    known = ("title", "description", "thumbnail_url", "webpage_url", "original_url")
    described = {key: preview[key] for key in known if key in preview}
    return {"preview": preview, "metadata": {**old.metadata, **described}}


def _defect(job: Job, defect: Exception) -> JobEvent:
    """Log what should not have happened; it fails the job, unless that has its end already."""
    _log.error("job %s broke", job.snapshot.job_id, exc_info=defect)
    return _failed(job, Failed("internal_error", "an internal error; see the server's log"))


def _failed(job: Job, why: Failed) -> JobEvent:
    if job.state in lifecycle.ALIVE:
        job.change(error=why.message, error_code=why.code)
    return JobEvent.BROKE


def _settle(job: Job, event: JobEvent) -> None:
    """Enter the state that `event` leads to, with everything that belongs to it."""
    job.advance(event)
    job.change(crashes=0)
    state, old = job.state, job.snapshot
    if state is JobState.SELECTING:  # nothing has happened to it
        return
    if state in lifecycle.SETTLED:
        job.change(finished_at=job.services.now())
    if state is not JobState.FAILED:
        job.change(error=None, error_code=None)
    if event in (JobEvent.FINISHED, JobEvent.FINISHED_WITH_ERRORS) and state in _SUCCESSES:
        job.change(progress=progress.completed(old.progress, old.main_file, state.value))
        job.tell_progress()
    else:
        job.change(progress=progress.ended(old.progress, state.value))
    job.write(Level.WARNING if state is JobState.FAILED else Level.INFO, f"job {state}")


async def _tidy(job: Job, event: JobEvent) -> JobEvent:
    """Do to the work directory what the end means, a cancel that comes meanwhile included.

    Returns the event, which becomes another when this breaks. Runs even when cancelled.
    """
    try:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SETTLE_DEADLINE):
            state = None
            while state is not job.state:
                state = job.state
                await _keep_or_discard(job, event)
    except Exception as defect:  # noqa: BLE001 - the same boundary: the job gets its end
        return _defect(job, defect)
    return event


async def _keep_or_discard(job: Job, event: JobEvent) -> None:
    """Remove the work directory, or note the parts in it that a later run continues from."""
    state = job.state if job.state in lifecycle.SETTLED else lifecycle.advance(job.state, event)
    if state in _RESUMABLE and job.work is not None:
        job.change(partial_files=await job.services.engine.partial_files(job.work))
        if state is not JobState.FAILED or job.snapshot.partial_files:
            return
    await job.discard()


async def _save_quietly(job: Job) -> bool:
    """Save; a run has nobody to answer, so a failure is only logged (the store tries again)."""
    try:
        await job.save()
    except StorageFailed as error:
        _log.error("job %s: %s", job.snapshot.job_id, error)
        return False
    return True


def _ring(lines: Iterable[LogEntry] | None) -> deque[LogEntry] | None:
    return None if lines is None else deque(lines, maxlen=LOG_LINES)


_SUCCESSES: Final = (JobState.COMPLETED, JobState.COMPLETED_WITH_ERRORS)
_RESUMABLE: Final = (JobState.PAUSED, JobState.QUEUED, JobState.FAILED)
_REASONS: Final = {
    JobState.QUEUED: Reason.UPDATED,
    JobState.SELECTING: Reason.UPDATED,
    JobState.PAUSED: Reason.PAUSED,
    JobState.CANCELLED: Reason.CANCELLED,
    JobState.FAILED: Reason.FAILED,
    JobState.COMPLETED: Reason.COMPLETED,
    JobState.COMPLETED_WITH_ERRORS: Reason.COMPLETED_WITH_ERRORS,
}
