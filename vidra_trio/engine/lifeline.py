"""What ends a worker when its server is gone, whatever the worker is doing.

A worker notices the end of its orders in a thread, and a thread needs the
interpreter: code that keeps it (a pattern that backtracks for ever, a long sum)
would outlive the server. So the kernel is asked: only the server holds the
writing end of one more pipe, and when that is closed the kernel sends SIGKILL to
the worker's group (after 2 ms, measured). A parent-death signal would not do: it
follows the thread that started the worker, and the server's threads come and go.

Linux only; elsewhere there is just the worker's thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

if sys.platform == "linux":
    import fcntl

OPTION: Final = "--lifeline="


class Lifeline:
    """The server's end of one worker's lifeline."""

    def __init__(self) -> None:
        self._reader: int | None = None
        self._writer: int | None = None
        if sys.platform == "linux":
            self._reader, self._writer = os.pipe()

    @property
    def arguments(self) -> tuple[str, ...]:
        """What a worker is told."""
        return () if self._reader is None else (f"{OPTION}{self._reader}",)

    @property
    def inherited(self) -> tuple[int, ...]:
        """What a worker inherits."""
        return () if self._reader is None else (self._reader,)

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[None]:
        """Start the worker in this block: only it has the reading end afterwards."""
        try:
            yield
        except BaseException:
            self.cut()
            raise
        finally:
            if self._reader is not None:
                os.close(self._reader)
                self._reader = None

    def cut(self) -> None:
        """Let go, and with it the worker; twice is once."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None


def hang_on(arguments: Sequence[str]) -> bool:
    """Die with the server from now on; return whether it is still there. In the worker.

    The whole group dies if this process leads it, else this process alone. Where the
    kernel does not take part, nothing happens.
    """
    given = [one.removeprefix(OPTION) for one in arguments if one.startswith(OPTION)]
    if not given or sys.platform != "linux":
        return True
    line = int(given[0])
    os.set_inheritable(line, False)  # it is not for ffmpeg
    us = -os.getpgrp() if os.getpgrp() == os.getpid() else os.getpid()
    with contextlib.suppress(OSError):
        fcntl.fcntl(line, fcntl.F_SETOWN, us)
        fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)
    return not _hung_up(line)


def _hung_up(line: int) -> bool:
    """Look whether the server went before the kernel was asked."""
    poll = select.poll()
    poll.register(line, 0)  # a hang-up is always told
    return bool(poll.poll(0))
