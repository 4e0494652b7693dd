"""The engine that runs each item in a worker process of ours.

The run's task reads the worker's pipe itself: no task, no queue between the two,
and a slow reader slows the worker down. The server publishes what the worker
produced, in a thread, after the last moment at which the run could be cancelled.
"""

from __future__ import annotations

import signal
from collections import deque
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from vidra_trio.core.redact import one_line, redact
from vidra_trio.core.report import Failed, Finished, Line, Stopped, Tick
from vidra_trio.core.states import Level
from vidra_trio.engine import workdir
from vidra_trio.engine.base import EngineStatistics
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.pipe import Ended, Hello, Produced, Start, Stop
from vidra_trio.engine.pool import COMMAND, Pool, WorkerGone
from vidra_trio.engine.tools import find_ffmpeg
from vidra_trio.engine.vetting import vet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from vidra_trio.core.report import Report, Terminal
    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.pipe import End, Message
    from vidra_trio.engine.pool import WorkerProcess
    from vidra_trio.engine.tools import Ffmpeg

STOP_GRACE: Final = 3.0
"""How long a soft stop may take; data that flows ends it at once, a stalled read never."""

HELLO_SECONDS: Final = 60.0
"""How long a worker may take to start: 0.6 s here, much more on a machine in trouble."""

DISK_THREADS: Final = 4


class ProcessEngine:
    """Runs items in warm worker processes; made by `open_process_engine`."""

    def __init__(self, nursery: trio.Nursery, pool: Pool, size: int, cache: Path) -> None:
        self._slots = trio.Semaphore(size)
        self._running = 0
        self._numbers = count(1)
        self._ffmpeg: Ffmpeg | None = None
        self._disk = trio.CapacityLimiter(DISK_THREADS)
        self.nursery = nursery
        self.pool = pool
        self.cache = cache
        self.stop_grace = STOP_GRACE

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[ProcessRun]:
        """Run `spec` for the length of the block; see engine.base.

        Waits while as many runs as the engine's size are open.
        """
        async with self._slots:
            run = ProcessRun(self, spec, next(self._numbers))
            self._running += 1
            try:
                await run.start()
                yield run
            finally:
                self._running -= 1
                await run.close()

    async def discard(self, work: Path) -> None:
        """Remove a work directory and all in it; fine when there is none."""
        await trio.to_thread.run_sync(
            workdir.remove, work, limiter=self._disk, abandon_on_cancel=True
        )

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return the parts below `work` that a later run would continue from."""
        return await trio.to_thread.run_sync(
            workdir.parts_of, work, limiter=self._disk, abandon_on_cancel=True
        )

    def statistics(self) -> EngineStatistics:
        """Return a frozen picture of the engine."""
        pool = self.pool
        return EngineStatistics(self._running, len(pool.workers), pool.idle, pool.abandoned)

    async def ffmpeg(self) -> Ffmpeg:
        """Return the ffmpeg that runs use; looked for once."""
        if self._ffmpeg is None:
            self._ffmpeg = await trio.to_thread.run_sync(find_ffmpeg, abandon_on_cancel=True)
        return self._ffmpeg

    async def vet(self, spec: RunSpec) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Look at the files that the parameters name; see `vetting.vet`."""
        return await trio.to_thread.run_sync(vet, spec.params, limiter=self._disk)

    async def prepare(self, spec: RunSpec) -> None:
        """Create the run's directory; see `workdir.prepare`."""
        make = partial(workdir.prepare, spec.work, spec.destination, spec.roots, rules=spec.rules)
        await trio.to_thread.run_sync(make, limiter=self._disk)

    async def publish(self, spec: RunSpec, main: str) -> tuple[str, ...]:
        """Publish a run's files; see `workdir.publish`.

        Cancelled before, or while files are still being copied, it publishes
        nothing; from the first rename on it completes.
        """
        move = partial(
            workdir.publish,
            spec.work,
            spec.destination,
            spec.roots,
            main=main,
            rules=spec.rules,
            overwrite=spec.overwrite,
            check=trio.from_thread.check_cancelled,
        )
        return await trio.to_thread.run_sync(move, limiter=self._disk)


class ProcessRun:
    """One item in one worker; an async iterator of reports."""

    def __init__(self, engine: ProcessEngine, spec: RunSpec, number: int) -> None:
        self._engine = engine
        self._spec = spec
        self._number = number
        self._worker: WorkerProcess | None = None
        self._reports: deque[Report] = deque()
        self._end: End | None = None
        self._over = False  # the terminal report was given out
        self._stopping = False
        self._reusable = False
        self._grace = trio.CancelScope()

    def __aiter__(self) -> AsyncIterator[Report]:
        return self

    async def __anext__(self) -> Report:
        """Return the next report; after the terminal one the iteration ends."""
        if self._over:
            raise StopAsyncIteration
        while not self._reports and self._end is None:
            await self._listen()
        if self._reports:
            await trio.lowlevel.checkpoint()
            return self._reports.popleft()
        report = await self._conclude()
        self._over = True
        return report

    def stop(self) -> None:
        """Ask for a soft stop; see engine.base."""
        if not self._stopping and not self._over:
            self._stopping = True
            self._engine.nursery.start_soon(self._stop)

    async def start(self) -> None:
        """Hand the item to a worker; a failure becomes the run's end."""
        try:
            await self._engine.prepare(self._spec)
            params, warnings = await self._engine.vet(self._spec)
            self._reports.extend(Line(Level.WARNING, warning) for warning in warnings)
            ffmpeg = await self._engine.ffmpeg()
            self._worker = await self._engine.pool.take()
            self._engine.pool.warm()
            await self._worker.send(self._order(params, ffmpeg.location))
        except WorkerGone:
            await self._bury()
        except ItemFailed as failure:
            self._end = Failed(failure.fault, str(failure))
        except OSError as error:
            self._end = Failed("engine_error", f"no worker could be started: {error}", True)

    async def close(self) -> None:
        """Let the worker go: back to the pool after a clean end, else really stopped."""
        self._grace.cancel()
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if self._reusable and not self._stopping:
            await self._engine.pool.give_back(worker)
        else:
            await self._engine.pool.end(worker)
            self._engine.pool.warm()

    def _order(self, params: dict[str, Any], ffmpeg: str | None) -> Start:
        spec = self._spec
        return Start(
            run=self._number,
            url=spec.url,
            work=str(spec.work),
            destination=str(spec.destination),
            template=spec.template,
            cache=str(self._engine.cache),
            params=params,
            overwrite=spec.overwrite,
            ffmpeg=ffmpeg,
        )

    async def _listen(self) -> None:
        assert self._worker is not None  # noqa: S101  # no end yet: `start` got one
        limit = HELLO_SECONDS if self._worker.version is None else float("inf")
        try:
            with trio.move_on_after(limit) as waiting:
                for message in await self._worker.receive():
                    self._accept(message)
        except WorkerGone:
            await self._bury()
        else:
            if waiting.cancelled_caught:
                await self._bury("it did not start")

    def _accept(self, message: Message) -> None:
        match message:
            case Hello():
                pass
            case Ended(end, reusable):
                self._end, self._reusable = end, reusable
            case Tick(key):
                # Only the newest of a file is worth its time when several came at once.
                older = [one for one in self._reports if isinstance(one, Tick) and one.key == key]
                for one in older:
                    self._reports.remove(one)
                self._reports.append(message)
            case _:
                self._reports.append(message)

    async def _bury(self, why: str = "") -> None:
        """The worker is gone, by itself or by our hand: that is the run's end."""
        worker, self._worker = self._worker, None
        assert worker is not None  # noqa: S101  # it just failed us
        await self._engine.pool.end(worker)
        if self._stopping:
            self._end = Stopped()
        else:
            message = f"the download process ended unexpectedly ({why or _obituary(worker)})"
            self._end = Failed("engine_died", message, retryable=True)

    async def _conclude(self) -> Terminal:
        match self._end:
            case Produced():
                return await self._publish(self._end)
            case Stopped():
                return Stopped(await self._engine.partial_files(self._spec.work))
            case end:
                assert end is not None  # noqa: S101  # this is why we are here
                await trio.lowlevel.checkpoint()
                return end

    async def _publish(self, end: Produced) -> Terminal:
        if end.main is None:
            await self._engine.discard(self._spec.work)
            files = tuple(str(self._spec.destination / relative) for relative in end.already)
            return Finished(files, files[0] if files else None)
        try:
            files = await self._engine.publish(self._spec, end.main)
        except ItemFailed as failure:
            return Failed(failure.fault, str(failure))
        return Finished(files, str(self._spec.destination / end.main))

    async def _stop(self) -> None:
        """Ask, then wait, then end it the hard way; `close` calls it off."""
        with self._grace:
            worker = self._worker
            if worker is not None:
                try:
                    await worker.send(Stop(self._number))
                except WorkerGone:
                    return
                await trio.sleep(self._engine.stop_grace)
                worker.kill()


def _obituary(worker: WorkerProcess) -> str:
    code = worker.exit_code
    if code is None:
        how = "it hangs"
    elif code < 0:
        names = (one.name for one in signal.Signals if one == -code)
        how = f"signal {next(names, -code)}"  # real-time signals have no name
    else:
        how = f"exit code {code}"
    words = worker.last_words.strip().splitlines()
    return redact(one_line(f"{how}: {words[-1]}" if words else how))[:500]


@asynccontextmanager
async def open_process_engine(
    *, cache: Path, size: int, command: Sequence[str] = COMMAND
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
            yield ProcessEngine(nursery, pool, size, cache)
        finally:
            with trio.CancelScope(shield=True):  # bounded: each end is
                await pool.close()
            nursery.cancel_scope.cancel()
