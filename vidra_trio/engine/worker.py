"""The process that yt-dlp runs in: `python -m vidra_trio.engine.worker`.

1. One run at a time, one JSON line per message. The pipes are taken away from
   fd 0 and 1 before any library can read or print there; what is printed goes to
   stderr, which the server drains.
2. The end of the control pipe means that the server is gone: the whole process
   group goes, ffmpeg included. Code that lets no thread run does not delay that
   where the kernel helps (`lifeline`).
3. It starts light: nothing of the server (trio, quart, hypercorn) is imported.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from vidra_trio.engine import ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.lifeline import hang_on
from vidra_trio.engine.pipe import Ended, Hello, Start, Stop, dump_line, parse_order

if TYPE_CHECKING:
    from vidra_trio.engine.pipe import Message

NICENESS: Final = 5
"""Downloads and encodes give way to the server that shows them."""

MOST_GROWTH: Final = 256 << 20
"""Bytes of memory that a worker may gain before it is replaced; it begins with some 60 MB."""

ORPHANED: Final = 70
DOUBTFUL: Final = 71


class Worker:
    """Takes orders from one pipe, tells what happens through another."""

    def __init__(self, orders: BinaryIO, messages: BinaryIO) -> None:
        self._orders = orders
        self._messages = messages
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[Start] = queue.SimpleQueue()
        self._current: tuple[int, Control] | None = None
        self._stopped = 0  # the run that the newest stop was for
        self._size = resident()

    def run(self) -> int:
        """Serve until a run leaves the process in doubt; return the exit code."""
        threading.Thread(target=self._watch, name="orders", daemon=True).start()
        with ytdlp.installed(own_groups=False):
            ytdlp.prewarm(wanted=lambda: not self._inbox.empty())
            self.send(Hello(os.getpid(), ytdlp.version()))
            while self.serve_one(self._inbox.get()):
                pass
        return DOUBTFUL

    def serve_one(self, order: Start) -> bool:
        """Run one order; return whether this process may run another one."""
        control = Control()
        self._current = (order.run, control)
        if self._stopped == order.run:  # it came before this line
            control.stop()
        ended = ytdlp.run_item(order, self.send, control)
        self._current = None
        if resident() - self._size > MOST_GROWTH:
            ended = Ended(ended.end, reusable=False)
        self.send(ended)
        return ended.reusable

    def send(self, message: Message) -> None:
        """Write one line; blocks when the server is slow. Any thread."""
        line = dump_line(message)
        with self._sending:
            self._messages.write(line)

    def _watch(self) -> None:
        with contextlib.suppress(Exception):  # a line that is no order: not our server
            for line in self._orders:
                self.accept(line)
        leave()

    def accept(self, line: bytes) -> None:
        """Take one order in; a stop for another run than the current one is late, and nothing."""
        order = parse_order(line)
        if isinstance(order, Stop):
            self._stopped = order.run
            current = self._current
            if current is not None and current[0] == order.run:
                current[1].stop()
        else:
            self._inbox.put(order)


def resident() -> int:
    """Return the bytes of memory that this process occupies; 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the pipes off fd 0 and 1; the copies are not inherited by children."""
    orders, messages = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return os.fdopen(orders, "rb"), os.fdopen(messages, "wb", buffering=0)


def leave() -> None:
    """End this process, and its group if it leads one; never returns."""
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(ORPHANED)


def main() -> None:
    """Run a worker on fd 0 and 1."""
    orders, messages = take_pipes()
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.nice(NICENESS)
    if not hang_on(sys.argv):
        leave()
    code = Worker(orders, messages).run()
    # Threads of a run in doubt may hang: do not wait for them.
    os._exit(code)


if __name__ == "__main__":
    main()
