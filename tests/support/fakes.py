"""Stand-ins for the parts that touch the disk or the wire, shared by the tests."""

from __future__ import annotations

import datetime
import itertools
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import trio

from vidra_trio.core.errors import StorageFailed
from vidra_trio.core.events import JobChanged, JobDeleted, Logged, ProgressChanged
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot
from vidra_trio.core.paths import PathRules
from vidra_trio.core.restore import Policy
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.supervisor import Supervisor, open_supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from vidra_trio.core.events import Event
    from vidra_trio.engine.base import Engine
    from vidra_trio.storage.jobs import JobStore

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
RULES = PathRules(download_dir="/downloads", roots=(), home="/home/u", forbidden=("/data",))
SPEC = JobSpec(("http://site.example/watch",))


def now() -> datetime.datetime:
    """Return the wall clock of the test: the epoch plus Trio's time."""
    return EPOCH + datetime.timedelta(seconds=trio.current_time() % 1e6)


@dataclass(frozen=True)
class Stored:
    """What a store gives back at start."""

    snapshot: Snapshot
    logs: tuple[LogEntry, ...] | None = ()


class FakeStore:
    """Keeps jobs in a dict; can be slow, and can fail.

    As in the real one the newest value wins, whichever write ends last, and a
    removal is final.
    """

    def __init__(self, restored: Sequence[Stored] = (), *, delay: float = 0.0) -> None:
        self.restored = tuple(restored)
        self.delay = delay
        self.broken = False
        self.saved: dict[str, Snapshot] = {}
        self.logs = {one.snapshot.job_id: one.logs or () for one in restored}
        self.soon: list[str] = []
        self.forgotten: list[str] = []
        self.history: list[tuple[str, str]] = []
        self._asked = itertools.count(1)
        self._written: dict[str, float] = {}

    async def save(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Store after `delay` seconds."""
        number = next(self._asked)
        await trio.sleep(self.delay)
        if self.broken:
            raise StorageFailed("disk full")
        if number < self._written.get(snapshot.job_id, 0):
            return
        self._written[snapshot.job_id] = number
        self.saved[snapshot.job_id] = snapshot
        if logs is not None:
            self.logs[snapshot.job_id] = tuple(logs)
        self.history.append((snapshot.job_id, snapshot.state.value))

    async def log(self, job_id: str) -> tuple[LogEntry, ...]:
        """Return what was stored."""
        await trio.lowlevel.checkpoint()
        return self.logs.get(job_id, ())

    def save_soon(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Remember that a lazy save was asked for."""
        self.soon.append(snapshot.job_id)

    async def remove(self, job_id: str) -> None:
        """Forget a job after `delay` seconds."""
        self._written[job_id] = math.inf
        await trio.sleep(self.delay)
        if self.broken:
            raise StorageFailed("disk full")
        self.saved.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """Remember that nobody was told of this job."""
        self._written[job_id] = math.inf
        self.forgotten.append(job_id)
        self.saved.pop(job_id, None)


class Recorder:
    """Takes every published event; `words` is the story they tell of one job."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def publish(self, event: Event) -> None:
        """Remember the event."""
        self.events.append(event)

    def updates(self, job_id: str | None = None) -> list[str]:
        """Return `state/reason` of every update, `deleted` for a removal, in order."""
        told = []
        for event in self.events:
            if isinstance(event, JobChanged) and job_id in (None, event.job.job_id):
                told.append(f"{event.job.state}/{event.reason.value}")
            elif isinstance(event, JobDeleted) and job_id in (None, event.job_id):
                told.append("deleted")
        return told

    def logged(self) -> list[str]:
        """Return every log line."""
        return [event.entry.message for event in self.events if isinstance(event, Logged)]

    def progress(self) -> list[float | None]:
        """Return every percentage shown."""
        return [e.job.progress.percent for e in self.events if isinstance(e, ProgressChanged)]


@dataclass
class House:
    """A supervisor with everything around it in the test's hands."""

    supervisor: Supervisor
    store: FakeStore
    recorder: Recorder
    engine: ScriptedEngine


@asynccontextmanager
async def open_house(
    engine: Engine | None = None,
    store: FakeStore | None = None,
    *,
    max_concurrent: int = 3,
    rules: PathRules = RULES,
    retries: int = 0,
    policy: Policy = Policy.RESUME,
) -> AsyncIterator[House]:
    """Supervise with fakes for the length of the block."""
    engine = engine or ScriptedEngine()
    store = store or FakeStore()
    recorder = Recorder()
    async with open_supervisor(
        engine=engine,
        store=cast("JobStore", store),  # the same methods, no disk
        publish=recorder.publish,
        rules=rules,
        now=now,
        max_concurrent=max_concurrent,
        retries=retries,
        policy=policy,
    ) as supervisor:
        yield House(supervisor, store, recorder, cast("ScriptedEngine", engine))
