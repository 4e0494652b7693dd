"""The engine that runs each item in a thread: for hosts that cannot start a Python process.

1. A thread cannot be killed. What it blocks on can be ended (`control`, `hooks`),
   so a stop takes milliseconds; a loop is ended by an exception put into it.
2. What blocks in C and cannot be woken (name resolution, a native HTTP library) is
   given up after `KILL_GRACE`: the thread is counted and reported, its work
   directory is taken from it, and above a limit no new run begins.
3. Threads are ours alone, one per run, not from anybody's cache: nothing that was
   put into one can strike later work.
4. Reports cross through a bounded mailbox; a tick replaces an older one of its file,
   and a run that is ahead of its reader waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import Context
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.core.report import Stopped, Tick
from vidra_trio.core.stall import StallLimits
from vidra_trio.engine import ytdlp
from vidra_trio.engine.base import EngineStatistics
from vidra_trio.engine.control import Control, Interrupted
from vidra_trio.engine.disk import Disk
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.pipe import Ended
from vidra_trio.engine.run import DriverGone, ItemRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable, Sequence

    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.pipe import Message, Start

KILL_GRACE: Final = 3.0
"""How long a stopped thread may take to end before it is given up; all that can end does in
a third of a second (measured, the loop in an extractor being the slowest)."""

INTERRUPT_AFTER: Final = 0.25
"""How long a thread may go on after a stop before exceptions are put into it, and how often.
Whoever waits is awake by then; what still runs, loops."""

LOOP_AFTER: Final = 0.02
"""CPU seconds after a stop that give a loop away at once: to end properly takes fewer (8 ms from
a direct download, with eight connections 40, but those are spent waiting)."""

_LOOK: Final = 0.01

MAX_ABANDONED: Final = 8
"""Threads given up that still run. Each holds a stack and a connection at most; but a machine
whose resolver hangs would add one per job."""

MAILBOX: Final = 256
"""Reports under way. Ticks count once per file, so only a flood of log lines gets there."""

FENCE_SECONDS: Final = 1.5
"""How long taking its work directory from a thread may keep a stop from being told. Copying the
parts may take longer: it goes on unseen, and a run that begins meanwhile copies them itself."""

_log = logging.getLogger(__name__)


class Mailbox:
    """Messages from a run's threads to Trio; bounded, and ticks of one file are one message."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._messages: deque[Message] = deque()
        # Held for moments only: Trio takes it, too. Entered as the lock that it is, in C: an
        # exception that strikes in `Condition.__enter__` would leave it taken for ever.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._arrived = trio.Event()
        self._closed = False

    def put(self, message: Message) -> None:
        """Add a message; blocks while the box is full and open. Any thread but Trio's."""
        with self._lock:
            if isinstance(message, Tick):
                self._drop_older(message)
            while len(self._messages) >= MAILBOX and not self._closed:
                self._room.wait()
            if self._closed:
                return
            self._messages.append(message)
        with suppress(trio.RunFinishedError):  # given up, and Trio is gone since
            self._token.run_sync_soon(self._wake, idempotent=True)

    async def receive(self) -> Sequence[Message]:
        """Wait for messages and take all that are there; cancelled, it takes none.

        Raises:
            DriverGone: the box is closed, and empty.
        """
        await trio.lowlevel.checkpoint()
        while not self._messages:
            if self._closed:
                raise DriverGone("it was stopped")
            self._arrived = trio.Event()
            await self._arrived.wait()
        with self._lock:
            messages = tuple(self._messages)
            self._messages.clear()
            self._room.notify_all()
        return messages

    def close(self) -> None:
        """Take nothing more; whoever waits, for room or for messages, goes on. Trio's thread."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._wake()

    def _wake(self) -> None:
        self._arrived.set()

    def _drop_older(self, tick: Tick) -> None:
        older = [m for m in self._messages if isinstance(m, Tick) and m.key == tick.key]
        for one in older:
            self._messages.remove(one)


class ThreadDriver:
    """Runs one item in a thread of its own."""

    apart = True

    def __init__(self, engine: ThreadEngine) -> None:
        self._engine = engine
        self._token = trio.lowlevel.current_trio_token()
        self._control = Control()
        self._mailbox = Mailbox(self._token)
        self._thread: threading.Thread | None = None
        self._done = trio.Event()

    async def start(self, order: Start) -> None:
        """Start the thread; see `run.Driver`."""
        await trio.lowlevel.checkpoint()
        self._engine.assert_not_exhausted()
        hooks = ExitStack()
        hooks.enter_context(ytdlp.installed(own_groups=True))
        self._thread = threading.Thread(
            # A context of its own: whatever the caller's variables are, they are not the run's.
            target=partial(Context().run, self._body, order, hooks),
            name=f"vidra run {order.run}",
            daemon=True,  # the interpreter's exit waits for nobody who hangs
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no more
            self._thread = None
            hooks.close()
            raise OSError(str(error)) from error
        self._engine.threads[self._thread] = Path(order.work)

    async def receive(self) -> Sequence[Message]:
        """Take what the thread told; see `run.Driver`."""
        return await self._mailbox.receive()

    async def stop(self) -> None:
        """Ask the run to end, and end what it waits for; see `run.Driver`."""
        await trio.lowlevel.checkpoint()
        self._control.stop()

    def kill(self) -> None:
        """Let the reader go; `close` brings the end about."""
        self._control.stop()
        self._mailbox.close()

    async def close(self, *, clean: bool) -> None:
        """Wait for the thread's end, bring it about, or give it up; see `run.Driver`."""
        thread = self._thread
        if thread is None:
            return
        if not clean:
            self._control.stop()
        self._mailbox.close()
        with trio.CancelScope(shield=True):  # bounded by the two graces
            with trio.move_on_after(self._engine.kill_grace):
                await self._wait_ended(thread)
            if thread.is_alive():
                await self._engine.give_up(thread)
            else:
                del self._engine.threads[thread]

    async def _wait_ended(self, thread: threading.Thread) -> None:
        computed = self._control.computed()
        with trio.move_on_after(INTERRUPT_AFTER):
            await self._wait_ended_or_looping(computed)
        while not self._done.is_set():
            before, computed = computed, self._control.computed()
            if computed is None or computed != before:
                self._control.interrupt()
            with trio.move_on_after(INTERRUPT_AFTER):
                await self._done.wait()
        while thread.is_alive():  # noqa: ASYNC110  # nobody is left to set an event
            await trio.sleep(0.0005)

    async def _wait_ended_or_looping(self, since: float | None) -> None:
        while (
            not self._done.is_set() and (self._control.computed() or 0) - (since or 0) < LOOP_AFTER
        ):
            with trio.move_on_after(_LOOK):
                await self._done.wait()

    # In the thread. An exception may strike at any point until `conceal` has returned; at
    # most two of them come close together (one that waited for code in C to return).

    def _body(self, order: Start, hooks: ExitStack) -> None:
        try:
            self._perform(order)
        except Interrupted:  # it struck between two of the lines that expect it
            self._conceal()
        finally:
            self._control.wait_alone(KILL_GRACE)
            self._control.close()
            hooks.close()
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._done.set)

    def _perform(self, order: Start) -> None:
        ended = Ended(Stopped())
        try:
            self._control.expose()
            ended = ytdlp.run_item(order, self._mailbox.put, self._control)
        except Interrupted:  # after the boundary of `run_item`
            pass
        finally:
            self._conceal()
            self._mailbox.put(ended)

    def _conceal(self) -> None:
        while True:
            try:
                self._control.conceal()
            except Interrupted:  # the last one
                continue
            return


class ThreadEngine:
    """Runs items in threads; made by `open_thread_engine`."""

    def __init__(
        self, nursery: trio.Nursery, cache: Path, disk: Disk, size: int, limits: StallLimits
    ) -> None:
        self._nursery = nursery
        self._slots = trio.Semaphore(size)
        self._running = 0
        self._numbers = count(1)
        self._disk = disk
        self._limits = limits
        self._abandoned: list[threading.Thread] = []
        self.cache = cache
        self.kill_grace = KILL_GRACE
        self.max_abandoned = MAX_ABANDONED
        self.threads: dict[threading.Thread, Path] = {}  # alive -> its work directory

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[ItemRun]:
        """Run `spec` for the length of the block; see engine.base.

        Waits while as many runs as the engine's size are open.
        """
        async with self._slots:
            run = ItemRun(spec, ThreadDriver(self), self._disk, self._nursery, self._limits)
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
        """Return a frozen picture of the engine; `abandoned` counts those that still hang."""
        return EngineStatistics(self._running, len(self.threads), 0, self._still_abandoned())

    def assert_not_exhausted(self) -> None:
        """Check that there is room for another thread that may hang.

        Raises:
            ItemFailed: there is not (`engine_exhausted`).
        """
        hanging = self._still_abandoned()
        if hanging >= self.max_abandoned:
            message = f"{hanging} downloads hang and cannot be ended; no new one is started"
            raise ItemFailed("engine_exhausted", message)

    async def give_up(self, thread: threading.Thread) -> None:
        """Count a thread that does not end, and take its work directory from it."""
        work = self.threads.pop(thread)
        self._abandoned.append(thread)
        _log.warning(
            "%s does not end and is given up (%d hang now)", thread.name, self._still_abandoned()
        )
        with trio.move_on_after(FENCE_SECONDS):
            await self._disk.fence(work)

    def _still_abandoned(self) -> int:
        self._abandoned = [thread for thread in self._abandoned if thread.is_alive()]
        return len(self._abandoned)


@asynccontextmanager
async def open_thread_engine(
    *, cache: Path, size: int, limits: StallLimits | None = None, owner: str | None = None
) -> AsyncIterator[ThreadEngine]:
    """Open an engine for `size` runs at a time.

    Returns at once; what the first extraction would have to prepare is prepared
    meanwhile. When the block is left every thread has ended, or was given up.
    """
    await trio.to_thread.run_sync(partial(cache.mkdir, mode=0o700, parents=True, exist_ok=True))
    closing = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, _prewarm, closing)
        try:
            yield ThreadEngine(nursery, cache, Disk(owner), size, limits or StallLimits())
        finally:
            closing.set()
            nursery.cancel_scope.cancel()


def _prewarm(closing: threading.Event) -> None:
    try:
        ytdlp.prewarm(wanted=closing.is_set)
    except Exception:  # noqa: BLE001  # the first run meets it again, and tells it
        _log.warning("yt-dlp could not be prepared", exc_info=True)
