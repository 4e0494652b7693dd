"""A server whose engine and store do what a test tells them, and tell a referee of it."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio

from tests.cancel.model import (
    CLOSING,
    FINAL,
    GONE,
    MENDABLE,
    NO,
    PASSING,
    RESTORED,
    SETTLED,
    UNKNOWN,
    UNSTORED,
    Referee,
    Remembered,
)
from tests.support.fakes import RULES, Stored, now
from vidra_trio.core.errors import CommandRefused, JobNotFound, ShuttingDown, StorageFailed
from vidra_trio.core.events import (
    InfoChanged,
    JobChanged,
    JobDeleted,
    Logged,
    OverviewChanged,
    ProgressChanged,
)
from vidra_trio.core.job import JobSpec
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stopped
from vidra_trio.core.restore import Policy
from vidra_trio.core.states import JobState, Level
from vidra_trio.engine.scripted import ScriptedEngine, ScriptedRun
from vidra_trio.supervisor import open_supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Sequence
    from pathlib import Path

    from vidra_trio.core.events import Event
    from vidra_trio.core.job import LogEntry, Snapshot
    from vidra_trio.core.report import Report
    from vidra_trio.core.states import Command
    from vidra_trio.engine.base import RunSpec
    from vidra_trio.storage.jobs import JobStore
    from vidra_trio.supervisor import Supervisor

    Order = Report | float | Exception | Callable[[], None]
    Script = Callable[[RunSpec], Iterable[Order]]


class Journal:
    """The referee's ear: code under test may swallow what a referee raises, so it is kept.

    A blind one hears nothing any more: its server was killed.
    """

    def __init__(self, referee: Referee) -> None:
        self.referee = referee
        self.faults: list[Exception] = []
        self.blind = False

    def note(self, entry: str, *facts: object) -> None:
        """Have something judged."""
        if not self.blind:
            try:
                getattr(self.referee, entry)(*facts)
            except Exception as fault:  # noqa: BLE001 - raised by `judge`
                self.faults.append(fault)

    def judge(self) -> None:
        """Raise the first fault."""
        if self.faults:
            raise self.faults[0]


class Puppet:
    """The strings of one run."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._orders: deque[Order] = deque()
        self._bell = trio.Event()

    def say(self, *orders: Order) -> None:
        """Have the run report this, raise it, call it, or take so many seconds over it."""
        self._orders.extend(orders)
        self._bell.set()

    def steps(self) -> Iterator[Report | float | trio.Event]:
        """Be the script of a run."""
        while True:
            while self._orders:
                order = self._orders.popleft()
                if isinstance(order, Exception):
                    raise order
                if callable(order):
                    order()
                else:
                    yield order
            self._bell = trio.Event()
            yield self._bell


class WitnessedRun:
    """A run whose every report is noted when it is taken."""

    def __init__(self, run: ScriptedRun, engine: PuppetEngine) -> None:
        self._run = run
        self._engine = engine

    def stop(self) -> None:
        """Ask for a soft stop."""
        self._engine.journal.note("stopping", self._run.spec.job_id)
        self._run.stop()

    def __aiter__(self) -> AsyncIterator[Report]:
        return self

    async def __anext__(self) -> Report:
        self._engine.journal.note("listened", self._run.spec.job_id)
        try:
            report = await self._run.__anext__()
        except RuntimeError:
            self._engine.journal.note("breaks", self._run.spec.job_id)
            raise
        self._engine.witness(self._run.spec.job_id, report)
        return report


class PuppetEngine(ScriptedEngine):
    """Runs puppets. `directories` and `parts` (of which jobs) outlive an engine.

    `script` gives each run its first orders.
    """

    def __init__(self, journal: Journal, script: Script | None = None) -> None:
        super().__init__(self._puppet)
        self.journal = journal
        self.directories: set[str] = set()
        self.parts: set[str] = set()
        self.disk_delay = 0.0
        self.brittle = False
        self.script = script or (lambda _: ())
        self._puppets: list[Puppet] = []

    def open_puppets(self) -> list[Puppet]:
        """Return the runs that are open, oldest first."""
        return list(self._puppets)

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[WitnessedRun]:  # type: ignore[override]
        """Open a run, and note when it is really over."""
        self.directories.add(spec.job_id)
        self.journal.note("opened", spec.job_id, int(spec.work.name))
        try:
            await trio.sleep(self.disk_delay)
            async with self._breaking(spec), super().open(spec) as run:
                yield WitnessedRun(run, self)
        finally:
            with trio.CancelScope(shield=True):  # as an engine does that takes care
                await trio.sleep(self.lets_go_after / 2)
            self._puppets = [one for one in self._puppets if one.spec is not spec]
            self.journal.note("left", spec.job_id)

    async def discard(self, work: Path) -> None:
        """Remove a job's directory after `disk_delay`."""
        await trio.sleep(self.disk_delay)
        self._discard(work.name.removeprefix(".vidra-"))

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return a part, after `disk_delay`, if the job got as far as that."""
        await trio.sleep(self.disk_delay)
        has_any = work.name.removeprefix(".vidra-") in self.parts
        return (str(work / "clip.part"),) if has_any else ()

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remove directories one by one, each after `disk_delay`."""
        gone = []
        for job_id in sorted(self.directories):
            if job_id not in keep:
                await trio.sleep(self.disk_delay)
                self._discard(job_id)
                gone.append(job_id)
        return tuple(gone)

    @asynccontextmanager
    async def _breaking(self, spec: RunSpec) -> AsyncIterator[None]:
        """If the engine is brittle: raise in one group with the cancellation that comes."""
        if not self.brittle:
            yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._break, spec.job_id)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    async def _break(self, job_id: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.journal.note("breaks", job_id)
            raise RuntimeError("broken on the way out")

    def witness(self, job_id: str, report: Report) -> None:
        """Note what was reported."""
        match report:
            case Identified():
                self.parts.add(job_id)
                self.journal.note("identified", job_id)
            case Line(level=Level.ERROR):
                self.journal.note("error_line", job_id)
            case Finished():
                self.parts.discard(job_id)
                self.journal.note("finishes", job_id)
            case Failed(code="network_error"):
                self.journal.note("fails", job_id, PASSING)
            case Failed(retryable=retryable):
                self.journal.note("fails", job_id, MENDABLE if retryable else FINAL)
            case Stopped():
                self.journal.note("stops", job_id)

    def _puppet(self, spec: RunSpec) -> Iterator[Report | float | trio.Event]:
        puppet = Puppet(spec)
        puppet.say(*self.script(spec))
        self._puppets.append(puppet)
        return puppet.steps()

    def _discard(self, job_id: str) -> None:
        self.directories.discard(job_id)
        self.parts.discard(job_id)
        self.journal.note("discarded", job_id)


class WitnessStore:
    """Keeps jobs in a dict, with the real store's promises: the newest value of a job wins,
    a removal is final, and what could not be written is written when the disk lets it.
    """

    def __init__(self, journal: Journal, restored: Sequence[Stored] = ()) -> None:
        self.journal = journal
        self.restored = tuple(restored)
        self.saved = {one.snapshot.job_id: one.snapshot for one in restored}
        self.delay = 0.0
        self.broken = False
        self._wanted: dict[str, tuple[int, Snapshot | None]] = {}
        self._written: dict[str, int] = {}
        self._numbers = 0
        self._gone: set[str] = set()

    def kept(self) -> tuple[Stored, ...]:
        """Return what the next server finds."""
        return tuple(Stored(snapshot) for snapshot in self.saved.values())

    def mend(self) -> None:
        """Let the disk work again."""
        self.broken = False
        for job_id, (number, _) in list(self._wanted.items()):
            self._write(job_id, number)

    async def log(self, job_id: str) -> tuple[LogEntry, ...]:
        """Return no lines: none is of interest here."""
        await trio.lowlevel.checkpoint()
        return ()

    async def save(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Store a job after `delay`."""
        if snapshot.job_id not in self._gone:
            number = self._want(snapshot.job_id, snapshot)
            await trio.sleep(self.delay)
            # A disk's answer and a cancellation may cross: it is not heard any more here.
            await trio.lowlevel.cancel_shielded_checkpoint()
            self._write(snapshot.job_id, number)

    def save_soon(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Store a job at once, or when the disk works again."""
        number = self._want(snapshot.job_id, snapshot)
        if not self.broken:
            self._write(snapshot.job_id, number)

    async def remove(self, job_id: str) -> None:
        """Remove a job after `delay`."""
        self._gone.add(job_id)
        number = self._want(job_id, None)
        await trio.sleep(self.delay)
        self._write(job_id, number)

    def forget(self, job_id: str) -> None:
        """Remove a job that nobody was told of."""
        self._gone.add(job_id)
        self._wanted.pop(job_id, None)
        self.saved.pop(job_id, None)
        self.journal.note("forgotten", job_id)

    def _want(self, job_id: str, snapshot: Snapshot | None) -> int:
        self._numbers += 1
        self._wanted[job_id] = (self._numbers, snapshot)
        return self._numbers

    def _write(self, job_id: str, number: int) -> None:
        if number <= self._written.get(job_id, 0):
            return  # it was, together with an older one
        if self.broken:
            self.journal.note("unstored", job_id)
            raise StorageFailed("disk full")
        self._written[job_id], snapshot = self._wanted.pop(job_id)
        if snapshot is None:
            self.saved.pop(job_id, None)
            self.journal.note("removed", job_id)
        else:
            self.saved[job_id] = snapshot
            self.journal.note("stored", job_id, snapshot.state.value, len(snapshot.spec.urls))


def remembered(snapshot: Snapshot) -> Remembered:
    """Return what a stored snapshot says, in the referee's words."""
    return Remembered(
        snapshot.state.value,
        len(snapshot.spec.urls),
        frozenset(snapshot.finished_items),
        known=snapshot.preview is not None,
        made=bool(snapshot.generated_files or snapshot.main_file),
    )


class WitnessedServer:
    """One life of a server; `before` is the one whose disk it finds."""

    def __init__(
        self,
        referee: Referee,
        before: WitnessedServer | None = None,
        kept: Sequence[Stored] = (),
        script: Script | None = None,
    ) -> None:
        self.journal = Journal(referee)
        self.referee = referee
        self.store = WitnessStore(self.journal, kept)
        self.engine = PuppetEngine(self.journal, script)
        if before is not None:
            self.engine.directories |= before.engine.directories
            self.engine.parts |= before.engine.parts
            self.weather(*before.delays)
        self.supervisor: Supervisor
        self.slots = 1
        self.counts: Counter[str] | None = None  # as told last
        self.open = False
        self._stop = trio.Event()

    async def live(self, slots: int, retries: int) -> None:
        """Serve until `stop`."""
        self.slots = slots
        try:
            async with open_supervisor(
                engine=self.engine,
                store=cast("JobStore", self.store),  # the same methods, no disk
                publish=self.publish,
                rules=RULES,
                now=now,
                max_concurrent=slots,
                retries=retries,
                policy=Policy.FAIL,
            ) as self.supervisor:
                self.open = True
                await self._stop.wait()
        finally:
            self.open = False

    @property
    def delays(self) -> tuple[float, float, float]:
        """How long writing, tidying up and stopping take."""
        return self.store.delay, self.engine.disk_delay, self.engine.lets_go_after

    def weather(self, store: float, disk: float, engine: float) -> None:
        """Set the delays."""
        self.store.delay, self.engine.disk_delay = store, disk
        self.engine.lets_go_after = engine
        for run in self.engine.runs:
            run.lets_go_after = engine

    def stop(self) -> None:
        """Begin to stop."""
        self.journal.note("ends")
        self._stop.set()

    def publish(self, event: Event) -> None:
        """Show the referee what clients are told."""
        note = self.journal.note
        match event:
            case JobChanged():
                note("told", event.job.job_id, event.job.state.value, event.reason.value)
            case JobDeleted():
                note("deleted", event.job_id)
            case Logged():
                kind = "error line" if event.entry.level is Level.ERROR else "log"
                note("said", event.job_id, kind)
            case ProgressChanged():
                note("said", event.job.job_id, "progress")
            case InfoChanged():
                note("said", event.job.job_id, "info")
            case OverviewChanged():
                counts = event.summary.counts
                self.counts = Counter({state.value: n for state, n in counts.items()})

    async def command(self, job_id: str, command: Command, *, patience: float = 1000.0) -> None:
        """Give a command, for a client that is gone after `patience` seconds."""
        with trio.move_on_after(patience):
            await self._command(job_id, command)

    async def _command(self, job_id: str, command: Command) -> None:
        asked, refused = self.referee.ask(job_id, command.value), ""
        try:
            done = await self.supervisor.apply(job_id, command)
        except CommandRefused as refusal:
            word, refused = NO, refusal.state.value
        except JobNotFound:
            word = UNKNOWN
        except ShuttingDown:
            word = CLOSING
        except StorageFailed:
            word = UNSTORED
        except trio.Cancelled:
            self.journal.note("unheard", asked)
            raise
        else:
            word = GONE if done.removed else done.state.value
        self.journal.note("answer", asked, word, refused)

    async def create(self, urls: int, *, patience: float = 1000.0) -> None:
        """Create a job, for a client that is gone after `patience` seconds."""
        spec = JobSpec(tuple(f"http://site.example/{n}" for n in range(urls)))
        with trio.move_on_after(patience):
            try:
                job = await self.supervisor.create(spec)
            except (ShuttingDown, StorageFailed):
                pass
            else:
                self.journal.note("created", job.job_id)

    def check_rest(self) -> None:
        """Now the referee knows what must have happened, and everybody agrees with it."""
        self.journal.judge()
        self.referee.at_rest(self.slots)
        lives = self.referee.lives
        states = {job.job_id: job.state.value for job in self.supervisor.jobs()}
        assert states == {job_id: life.status for job_id, life in lives.items()}
        if not self.store.broken:
            self.check_stored()
        busy = [life for life in lives.values() if life.status in {"starting", "running"}]
        assert self.supervisor.statistics().slots_used == len(busy)
        assert self.engine.statistics().running == sum(not life.resting for life in busy)
        assert self.counts in (None, Counter(states.values()))

    def check_end(self) -> None:
        """The server has stopped, and nothing of it is left but what it stored."""
        self.journal.judge()
        assert not self.open
        if not self.journal.blind:
            self.referee.ended()
            if not self.store.broken:
                self.check_stored()
        assert self.engine.statistics().running == 0
        assert self.supervisor.statistics().slots_used == 0

    def look(self) -> None:
        """Do as `check`, where nothing may be raised."""
        try:
            self.check()
        except AssertionError as fault:
            self.journal.faults.append(fault)

    def check(self) -> None:
        """What can be read at any moment is not ahead of what was done."""
        self.journal.judge()
        jobs = self.supervisor.jobs()
        assert dict(self.supervisor.summary().counts) == dict(Counter(job.state for job in jobs))
        for job in jobs:
            life = self.referee.lives[job.job_id]
            if (job.state, life.status) == (JobState.CANCELLED, "cancelling"):
                assert not life.directory, f"cancelled, and its directory is there: {life}"

    def check_stored(self) -> None:
        """The next server would find what there is."""
        stored = {job_id: job.state.value for job_id, job in self.store.saved.items()}
        assert stored.keys() == self.referee.lives.keys()
        for job_id, life in self.referee.lives.items():
            # That a job is at work is not stored: it would be interrupted all the same.
            same = {life.status} if life.status in SETTLED else RESTORED.keys()
            assert stored[job_id] in same, f"{stored[job_id]} is stored: {life}"
