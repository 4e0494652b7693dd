"""The durable jobs: one writer task, and a promise to everybody who waits for it.

1. One write at a time, of everything that changed since the last one (group
   commit): ten jobs created at once cost one fsync of the journal.
2. `save` and `remove` return when the disk has it. `save_soon` and `forget`
   never wait.
3. The newest value wins and a removal is final: what comes late for a removed
   job is ignored.
4. A failed write is told to those who wait, and tried again with whatever comes
   next, at the latest after `RETRY_SECONDS`. Until then the old file stays.
5. Encoding and disk calls happen in a thread; the loop only passes references.
6. The journal is folded into the state file beside all that, when it has become
   large, and at close.
"""

from __future__ import annotations

import logging
import math
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from vidra_trio.core.errors import StorageFailed
from vidra_trio.storage.files import DISK
from vidra_trio.storage.reading import StoredJob
from vidra_trio.storage.state import StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from vidra_trio.core.job import LogEntry, Snapshot
    from vidra_trio.storage.files import Disk, Locations
    from vidra_trio.storage.reading import Loaded

__all__ = ["JobStore", "StoreStatistics", "StoredJob", "open_store"]

T = TypeVar("T")

SOON_SECONDS: Final = 5.0
"""How long a change that nobody waits for may take to be written."""

RETRY_SECONDS: Final = 5.0
"""After space returns, everything is normal again within this."""

CLOSE_SECONDS: Final = 3.0
"""The last write of a server's life; a stop as a whole has five seconds."""

SLICE: Final = 100
"""Changes written at once that nobody waits for: a save never queues behind thousands of them."""

FOLD_AGAIN_SECONDS: Final = 30.0
"""Until the journal is folded again after that failed: it costs the space of a state file."""

REMEMBERED: Final = 10_000
"""Removed ids that late saves are checked against; those come within seconds."""

_TROUBLE: Final = (OSError, ValueError, TypeError, RuntimeError, MemoryError)
"""What a call to the disk may end in: no thread is left for it, say. None of it ends the store."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """How the store stands: `error` is set while the last write has failed."""

    jobs: int
    waiting: int
    writes: int
    failures: int
    error: str | None


@dataclass(eq=False, slots=True)
class _Batch:
    """One write, and how it went."""

    done: trio.Event = field(default_factory=trio.Event)
    error: str | None = None

    def settle(self, error: str | None) -> None:
        """Tell those who wait."""
        self.error = error
        self.done.set()


@asynccontextmanager
async def open_store(locations: Locations, *, disk: Disk = DISK) -> AsyncIterator[JobStore]:
    """Read the stored jobs and keep them durable for the length of the block.

    Use it inside `hold_data_dir`. Leaving it writes what is still waiting, even
    when cancelled, but never for longer than `CLOSE_SECONDS`.

    Raises:
        ConfigurationError: something damaged could not be kept aside.
    """
    state = StateFile(locations, disk)
    loaded = await trio.to_thread.run_sync(state.load)
    for note in loaded.notes:
        _log.warning("%s", note)
    store = JobStore(state, loaded)
    await store._begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._run, name="job store")
        nursery.start_soon(store._keep_folded, name="job store, state file")
        try:
            yield store
        finally:
            store._close()


class JobStore:
    """Saves and removes jobs; made by `open_store`."""

    def __init__(self, state: StateFile, loaded: Loaded) -> None:
        self.restored: Final = loaded.jobs
        self.notes: Final = loaded.notes
        self._state = state
        # None is a removal. Both in the order of arrival, which is the order in the file.
        self._urgent: dict[str, StoredJob | None] = {}
        self._lazy: dict[str, StoredJob] = {}
        self._writing: Mapping[str, StoredJob | None] = {}
        self._gone: dict[str, None] = {}
        self._batch = _Batch()
        self._due = math.inf
        self._wake = trio.Event()
        self._closing = False
        self._written = trio.Event()
        self._fold = trio.Event()
        self._scopes = [trio.CancelScope(shield=True) for _ in range(2)]
        self._limiter = trio.CapacityLimiter(1)
        self._writes = 0
        self._failures = 0
        self._error: str | None = None
        self._folding = True  # the last fold worked

    async def save(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Store a job. Durable on return; concurrent saves share one write.

        Side files are written when `options_version` or `logs_version` changed; without
        `logs` the stored ones stay. A
        caller that is cancelled does not know whether it is stored. Does nothing
        for a job that was removed.

        Raises:
            StorageFailed: it is not on disk yet; it is tried again until it is,
                unless the job is removed or forgotten. Or the store is closed.
        """
        if snapshot.job_id not in self._gone:
            stored = self._stored(snapshot, logs)
            self._lazy.pop(snapshot.job_id, None)
            self._urgent[snapshot.job_id] = stored
            await self._commit()

    def save_soon(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None = ()) -> None:
        """Store a job within `SOON_SECONDS`, with the next save, or at close.

        Does nothing for a job that was removed, or after close.
        """
        job_id, stored = snapshot.job_id, self._stored(snapshot, logs)
        if job_id in self._gone:
            return
        if job_id in self._urgent:
            self._urgent[job_id] = stored
        else:
            self._lazy[job_id] = stored
        self._write_by(trio.current_time() + SOON_SECONDS)

    async def remove(self, job_id: str) -> None:
        """Remove a job and its side files. Durable on return; fine when there is none.

        Raises:
            StorageFailed: it is still on disk; the removal is tried again until it
                is not. Or the store is closed.
        """
        self._discard(job_id)
        await self._commit()

    def forget(self, job_id: str) -> None:
        """Remove a job that nobody was told of, as soon as the disk lets us."""
        self._discard(job_id)
        self._write_by(trio.current_time())

    async def log(self, job_id: str) -> tuple[LogEntry, ...]:
        """Return a job's log as it is stored, or will be; nothing when there is none."""
        logs = self._unwritten_log(job_id)
        if logs is not None:
            return logs
        return await trio.to_thread.run_sync(self._state.read_log, job_id, abandon_on_cancel=True)

    def statistics(self) -> StoreStatistics:
        """Return a frozen picture of the store."""
        waiting = len(self._urgent) + len(self._lazy)
        return StoreStatistics(len(self._state), waiting, self._writes, self._failures, self._error)

    # -- what is asked

    def _stored(self, snapshot: Snapshot, logs: Sequence[LogEntry] | None) -> StoredJob:
        known = self._unwritten_log(snapshot.job_id) if logs is None else tuple(logs)
        return StoredJob(snapshot, known)

    def _unwritten_log(self, job_id: str) -> tuple[LogEntry, ...] | None:
        for changes in (self._urgent, self._lazy, self._writing):
            stored = changes.get(job_id)
            if stored is not None and stored.logs is not None:
                return stored.logs
        return None

    def _discard(self, job_id: str) -> None:
        self._lazy.pop(job_id, None)
        self._urgent[job_id] = None
        self._gone[job_id] = None
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]

    async def _commit(self) -> None:
        if self._closing:
            raise StorageFailed("the store is closed")
        batch = self._batch
        self._write_by(trio.current_time())
        await batch.done.wait()
        if batch.error is not None:
            raise StorageFailed(batch.error)

    def _write_by(self, moment: float) -> None:
        if moment < self._due:
            self._due = moment
            self._wake.set()

    # -- the writer task

    async def _begin(self) -> None:
        """Put in order what was found; a disk that says no is asked again with the first change."""
        try:
            await self._in_thread(self._state.make_fit)
        except _TROUBLE as failure:
            self._failed({}, _words(failure))
        if not self._state.folded:
            self._fold.set()

    async def _run(self) -> None:
        """Write whenever something is due; at close go on for as long as it works."""
        try:
            with self._scopes[0]:
                while not self._closing:
                    if await self._wait_due():
                        await self._write()
                while self._due < math.inf and await self._write():
                    pass
        finally:
            self._written.set()
            self._fold.set()
        left = len(self._urgent) + len(self._lazy)
        if left or self._scopes[0].cancelled_caught:
            _log.error("closed with changes that are not stored: %s", self._error or "no answer")
        self._batch.settle("the store is closed")

    async def _keep_folded(self) -> None:
        """Fold the journal into the state file whenever it has grown, and once at close."""
        with self._scopes[1]:
            last = False
            while not last:
                await self._fold.wait()
                self._fold, last = trio.Event(), self._written.is_set()
                if self._state.fit and not self._state.folded and not await self._folded_now():
                    with trio.move_on_after(FOLD_AGAIN_SECONDS):
                        await self._written.wait()
            await self._in_thread(self._state.close)

    async def _folded_now(self) -> bool:
        """Write the state file as it should be now; until that works the journal tells."""
        try:
            compaction = await self._in_thread(self._state.compact)
            await trio.to_thread.run_sync(self._state.write, compaction, abandon_on_cancel=True)
        except _TROUBLE as failure:
            if self._folding:
                _log.warning("the journal stays: %s", _words(failure))
            self._folding = False
        else:
            self._folding = True
        return self._folding

    def _close(self) -> None:
        self._closing = True
        for scope in self._scopes:
            scope.deadline = trio.current_time() + CLOSE_SECONDS
        self._wake.set()

    async def _in_thread(self, call: Callable[..., T], *arguments: object) -> T:
        """Use the state file, which one thread at a time may."""
        return await trio.to_thread.run_sync(
            call, *arguments, limiter=self._limiter, abandon_on_cancel=True
        )

    async def _wait_due(self) -> bool:
        """Wait until a write is due, or something changed; say which."""
        self._wake = trio.Event()
        with trio.move_on_at(self._due):
            await self._wake.wait()
        return trio.current_time() >= self._due

    async def _write(self) -> bool:
        """Write what is urgent and a slice of the rest; say whether it worked."""
        batch, self._batch = self._batch, _Batch()
        changes, self._urgent = self._urgent, {}
        for job_id in list(islice(self._lazy, SLICE)):
            changes[job_id] = self._lazy.pop(job_id)
        self._due = trio.current_time() if self._lazy else math.inf
        error: str | None = "the disk did not answer in time"
        self._writing = changes
        try:
            error = await self._attempt(changes)
        finally:
            self._writing = {}
            batch.settle(error)
        return error is None

    async def _attempt(self, changes: Mapping[str, StoredJob | None]) -> str | None:
        """Hand `changes` to the disk; return what went wrong."""
        try:
            await self._in_thread(self._state.commit, changes)
        except _TROUBLE as failure:
            # A job that cannot be spelt must not end the one writer of all the others.
            if not isinstance(failure, OSError):
                _log.error("a write failed", exc_info=failure)
            return self._failed(changes, _words(failure))
        if self._error is not None:
            _log.info("jobs are being saved again")
        self._writes += 1
        self._error = None
        if self._state.bloated:
            self._fold.set()
        return None

    def _failed(self, changes: Mapping[str, StoredJob | None], error: str) -> str:
        """Keep what is still wanted of `changes` for the next write."""
        if self._error is None:
            _log.error("jobs are not being saved: %s", error)
        self._failures += 1
        self._error = error
        newer = self._urgent.keys() | self._lazy.keys()
        kept = {job_id: change for job_id, change in changes.items() if job_id not in newer}
        self._urgent = kept | self._urgent
        self._write_by(trio.current_time() + RETRY_SECONDS)
        return error


def _words(failure: Exception) -> str:
    if isinstance(failure, OSError):
        return failure.strerror or str(failure)
    return type(failure).__name__
