"""Worker processes: started, kept warm, used again, killed as a group.

1. Starting is the price of a process (0.6 to 0.9 s of CPU each, measured), so it
   is paid ahead: one worker is always on its way while there is room, and a worker
   that ended its run cleanly takes the next one.
2. Ending is SIGKILL to the worker's process group: nothing a site, a native
   library or ffmpeg does can delay it. `resume.heal` makes up for the lack of
   manners.
3. A worker's environment holds none of our settings: no token gets there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.core.redact import one_line, redact
from vidra_trio.engine.lifeline import Lifeline
from vidra_trio.engine.pipe import MAX_LINE, Hello, dump_line, parse_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vidra_trio.engine.pipe import Message, Order

GROUP_POLL: Final = 0.003
"""Seconds between two looks at a killed group; it is gone in a few milliseconds."""

COMMAND: Final = (sys.executable, "-P", "-m", "vidra_trio.engine.worker")
"""-P: the folder that a worker runs in is no place to import from."""

RECYCLE_AFTER: Final = 50
"""Runs per worker: what libraries leak stays small, what a start costs too."""

REAP_SECONDS: Final = 1.0
"""How long the end of a killed process is waited for; only a process stuck in the
kernel (a dead network file system) takes longer, and is given up and counted."""

LAST_WORDS_SECONDS: Final = 0.1
"""How long a dead worker's stderr is read on; its end is there at once, unless a
process that left the group holds it."""

_CHUNK: Final = 1 << 16
_LAST_WORDS: Final = 2000
_THREADS: Final = 17  # of the fields that come after the name in /proc/PID/stat


class WorkerGone(Exception):
    """The process ended, or talks nonsense."""


class WorkerProcess:
    """One worker, as the server sees it. One run's task at a time uses it."""

    def __init__(self, process: trio.Process, lifeline: Lifeline) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a worker is started with three pipes")
        self._process = process
        self._lifeline = lifeline
        self._orders = process.stdin
        self._messages = process.stdout
        self._stderr = process.stderr
        self._buffer = bytearray()
        self._reaped = False
        self._silent = trio.Event()  # stderr was read to its end
        self.pid = process.pid
        self.version: str | None = None  # known once it said hello
        self.served = 0
        self.last_words = ""

    @property
    def exit_code(self) -> int | None:
        """How the process ended; a negative number is a signal. Known once reaped."""
        return self._process.returncode if self._reaped else None

    def alive(self) -> bool:
        """Look, without reaping: the id must stay ours as long as we may kill it."""
        if self._reaped:
            return False
        look = getattr(os, "waitid", None)  # macOS has it since Python 3.13
        if look is None:
            return self._process.poll() is None  # it reaps what has ended: nobody will kill that
        return look(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    async def send(self, order: Order) -> None:
        """Hand an order over.

        Raises:
            WorkerGone: there is nobody to take it.
        """
        try:
            await self._orders.send_all(dump_line(order))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WorkerGone from error

    async def receive(self) -> list[Message]:
        """Wait for at least one message and return all that are there.

        Cancelled before that, it loses nothing. Nobody reading means that the
        worker blocks once the pipe (64 KiB) is full: that is the back-pressure.

        Raises:
            WorkerGone: the process ended, or what it wrote is no message.
        """
        while True:
            *lines, rest = self._buffer.split(b"\n")
            if lines:
                self._buffer = rest
                return self._parse(lines)
            if len(rest) > MAX_LINE:
                raise WorkerGone
            try:
                chunk = await self._messages.receive_some(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise WorkerGone from error
            if not chunk:
                raise WorkerGone
            self._buffer += chunk

    def kill(self) -> None:
        """End the process and all its children, now; harmless when it is gone."""
        if self._reaped:
            return
        if sys.platform == "win32":
            self._process.kill()
            return
        # PermissionError: macOS, when only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> bool:
        """Kill, and wait until nothing is left; False when that takes too long. Shielded."""
        self.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + REAP_SECONDS):
            await self._process.wait()
            self._reaped = True
            await self._wait_group_gone()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_WORDS_SECONDS):
            await self._silent.wait()
        self._lifeline.cut()
        with trio.CancelScope(shield=True):  # bounded: each is cancelled from the start
            for stream in (self._orders, self._messages, self._stderr):
                await trio.aclose_forcefully(stream)
        return self._reaped

    async def _wait_group_gone(self) -> None:
        """Wait for what was killed with the process: a big ffmpeg takes a moment to go."""
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                while True:  # the kernel tells nobody but the parent
                    os.killpg(self.pid, 0)
                    if not group_runs(self.pid):
                        return
                    await trio.sleep(GROUP_POLL)

    async def listen_to_stderr(self) -> None:
        """Drain stderr for the worker's life, keeping its last words: nobody blocks on it."""
        try:
            async for chunk in self._stderr:
                words = self.last_words + chunk.decode("utf-8", "replace")
                self.last_words = words[-_LAST_WORDS:]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._silent.set()

    def _parse(self, lines: Sequence[bytes | bytearray]) -> list[Message]:
        try:
            messages = [parse_message(line) for line in lines]
        except ValueError as error:  # msgspec's, and bad UTF-8
            raise WorkerGone from error
        for message in messages:
            if isinstance(message, Hello):
                self.version = message.version
        return messages


def obituary(worker: WorkerProcess) -> str:
    """Return how a worker ended, in words that may be shown."""
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


class Pool:
    """All workers of an engine; lives in the engine's nursery."""

    def __init__(
        self, nursery: trio.Nursery, size: int, cache: Path, command: Sequence[str]
    ) -> None:
        self._nursery = nursery
        self._size = size
        self.cache = cache
        self._command = command
        self._idle: deque[WorkerProcess] = deque()
        self._starting = False  # one, ahead of need
        self._started = trio.Event()
        self._closing = False
        self.workers: set[WorkerProcess] = set()
        self.abandoned = 0

    @property
    def idle(self) -> int:
        """Workers that wait for a run."""
        return len(self._idle)

    def warm(self) -> None:
        """Have a worker ready or on its way, if there is room; never blocks."""
        busy = self._idle or self._starting or self._closing
        if not busy and len(self.workers) < self._size:
            self._starting, self._started = True, trio.Event()
            self._nursery.start_soon(self._warm)

    async def take(self) -> WorkerProcess:
        """Return a worker for one run: the one used last, or a new one.

        Raises:
            OSError: no process can be started.
        """
        while True:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    return worker
                await self.end(worker)
            if not self._starting or len(self.workers) + 1 < self._size:
                return await self._start()
            await self._started.wait()  # the one on its way is the last there is room for

    async def probe(self, seconds: float) -> str | None:
        """Return why no worker can be had, or None when one says hello in time."""
        with trio.move_on_after(seconds):
            try:
                worker = await self.take()
            except OSError as error:
                return str(error)
            try:
                while worker.version is None:
                    await worker.receive()
            except WorkerGone:
                await self.end(worker)
                return obituary(worker)
            self._idle.append(worker)
            return None
        return f"silence for {seconds:g} s"

    async def give_back(self, worker: WorkerProcess) -> None:
        """Take back a worker whose run ended cleanly; it is used again, or replaced."""
        worker.served += 1
        if worker.served >= RECYCLE_AFTER or len(self._idle) >= self._size:
            await self.end(worker)
        else:
            self._idle.append(worker)
        self.warm()

    async def end(self, worker: WorkerProcess) -> None:
        """Kill a worker and wait for it, shielded and bounded."""
        self.workers.discard(worker)
        if not await worker.end():
            self.abandoned += 1

    async def close(self) -> None:
        """Kill all workers at once, then wait for them; one being started, too."""
        self._closing = True
        if self._starting:
            await self._started.wait()  # milliseconds: the process exists, or it never will
        self._idle.clear()
        for worker in self.workers:
            worker.kill()
        async with trio.open_nursery() as nursery:
            for worker in tuple(self.workers):
                nursery.start_soon(self.end, worker)

    async def _warm(self) -> None:
        try:
            self._idle.append(await self._start())
        except OSError:
            pass  # whoever needs a worker will meet the error and tell it
        finally:
            self._starting = False
            self._started.set()

    async def _start(self) -> WorkerProcess:
        # `open_process` runs in a thread and cannot be cancelled half-way: what it
        # returns is in the set before anything else happens.
        options = {} if sys.platform == "win32" else {"start_new_session": True}
        lifeline = Lifeline()
        start = partial(
            trio.lowlevel.open_process,
            (*self._command, *lifeline.arguments),
            pass_fds=lifeline.inherited,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.cache,
            env=environment(os.environ),
            **options,
        )
        with lifeline.handed_over():
            process = await start()
        worker = WorkerProcess(process, lifeline)
        self.workers.add(worker)
        self._nursery.start_soon(worker.listen_to_stderr)
        return worker


def group_runs(group: int) -> bool:
    """Whether anything of a process group still runs: zombies do not.

    One system call per process of the machine: 0.1 ms for 150 (a thread for that
    would cost more).

    What a killed worker had started is reaped by process 1, when that likes: after
    two seconds (measured in a virtual machine), or never (a container's is often a
    program that expects no orphans). One with threads left still ends: its files may be
    open (an ffmpeg of a few hundred MB: for 20 ms). Where the kernel has no /proc: true.
    """
    if sys.platform != "linux":
        return True
    with os.scandir("/proc") as processes:
        return any(one.name.isdigit() and _runs_in(group, int(one.name)) for one in processes)


def _runs_in(group: int, pid: int) -> bool:
    with contextlib.suppress(OSError):  # it went meanwhile
        if os.getpgid(pid) == group:
            status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            fields = status.rpartition(")")[2].split()
            return fields[0] not in "ZX" or int(fields[_THREADS]) > 1
    return False


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment: ours without our settings, with yt-dlp's switches."""
    theirs = {key: value for key, value in ours.items() if not key.startswith("VIDRA_")}
    theirs |= {"YTDLP_NO_PLUGINS": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    # The worker does not run in our directory: it finds this package where we did.
    here = Path(__file__).resolve().parents[2]
    if here.name not in ("site-packages", "dist-packages"):
        theirs["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), ours.get("PYTHONPATH"))))
    return theirs
