"""The engine that runs each item in a worker process of ours: whatever a site, a native
library or ffmpeg does, the kernel ends it."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.core.stall import StallLimits
from vidra_trio.engine.base import EngineStatistics
from vidra_trio.engine.disk import Disk
from vidra_trio.engine.pipe import Stop
from vidra_trio.engine.pool import COMMAND, Pool, WorkerGone, obituary
from vidra_trio.engine.run import DriverGone, ItemRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Sequence
    from pathlib import Path

    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.pipe import Message, Start
    from vidra_trio.engine.pool import WorkerProcess

HELLO_SECONDS: Final = 60.0
"""How long a worker may take to start: 0.6 s here, much more on a machine in trouble."""


class ProcessEngine:
    """Runs items in warm worker processes; made by `open_process_engine`."""

    def __init__(
        self, nursery: trio.Nursery, pool: Pool, disk: Disk, size: int, limits: StallLimits
    ) -> None:
        self._nursery = nursery
        self._slots = trio.Semaphore(size)
        self._running = 0
        self._numbers = count(1)
        self._disk = disk
        self._limits = limits
        self.pool = pool
        self.cache = pool.cache

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[ItemRun]:
        """Run `spec` for the length of the block; see engine.base.

        Waits while as many runs as the engine's size are open.
        """
        async with self._slots:
            driver = WorkerDriver(self.pool)
            run = ItemRun(spec, driver, self._disk, self._nursery, self._limits)
            self._running += 1
            try:
                await run.start(next(self._numbers), str(self.cache))
                yield run
            finally:
                self._running -= 1
                await run.close()

    async def discard(self, work: Path) -> None:
        """Remove a work directory and all in it; fine when there is none."""
        await self._disk.discard(work)

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return the parts below `work` that a later run would continue from."""
        return await self._disk.partial_files(work)

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remove what dead jobs left; see engine.base."""
        return await self._disk.sweep(folders, keep)

    def statistics(self) -> EngineStatistics:
        """Return a frozen picture of the engine."""
        pool = self.pool
        return EngineStatistics(self._running, len(pool.workers), pool.idle, pool.abandoned)


class WorkerDriver:
    """Runs one item in a worker from the pool."""

    apart = False

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._worker: WorkerProcess | None = None
        self._number = 0

    async def start(self, order: Start) -> None:
        """Take a worker and hand it the order; see `run.Driver`."""
        self._number = order.run
        self._worker = await self._pool.take()
        self._pool.warm()
        try:
            await self._worker.send(order)
        except WorkerGone:
            raise await self._bury() from None

    async def receive(self) -> Sequence[Message]:
        """Read the worker's pipe; see `run.Driver`."""
        worker = self._worker
        assert worker is not None  # noqa: S101  # `start` got one, or there is nothing to read
        limit = HELLO_SECONDS if worker.version is None else float("inf")
        try:
            with trio.move_on_after(limit):
                return await worker.receive()
        except WorkerGone:
            raise await self._bury() from None
        raise await self._bury("it did not start")

    async def stop(self) -> None:
        """Tell the worker; see `run.Driver`."""
        if self._worker is not None:
            with suppress(WorkerGone):  # whoever reads will notice
                await self._worker.send(Stop(self._number))

    def kill(self) -> None:
        """Kill the worker's group; see `run.Driver`."""
        if self._worker is not None:
            self._worker.kill()

    async def close(self, *, clean: bool) -> None:
        """Give the worker back, or end it; see `run.Driver`."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if clean:
            await self._pool.give_back(worker)
        else:
            await self._pool.end(worker)
            self._pool.warm()

    async def _bury(self, why: str = "") -> DriverGone:
        worker, self._worker = self._worker, None
        assert worker is not None  # noqa: S101  # it just failed us
        await self._pool.end(worker)
        self._pool.warm()
        return DriverGone(why or obituary(worker))


@asynccontextmanager
async def open_process_engine(
    *,
    cache: Path,
    size: int,
    limits: StallLimits | None = None,
    owner: str | None = None,
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[ProcessEngine]:
    """Open an engine for `size` runs at a time.

    Returns at once; the first worker starts meanwhile. When the block is left all
    workers are killed with everything they started, within about a second.
    """
    await trio.to_thread.run_sync(partial(cache.mkdir, mode=0o700, parents=True, exist_ok=True))
    async with trio.open_nursery() as nursery:
        pool = Pool(nursery, size, cache, command)
        try:
            pool.warm()
            yield ProcessEngine(nursery, pool, Disk(owner), size, limits or StallLimits())
        finally:
            with trio.CancelScope(shield=True):  # bounded: each end is
                await pool.close()
            nursery.cancel_scope.cancel()
