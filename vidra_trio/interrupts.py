"""Ctrl-C, SIGTERM and SIGHUP for the command line: the first asks, the second forces.

A handler of our own rather than `trio.open_signal_receiver`: the second signal
must work when the event loop is the thing that hangs.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    *((signal.SIGHUP,) if sys.platform != "win32" else ()),  # the terminal was closed
)

INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit code after Ctrl-C, as shells have it."""

SHOW_CURSOR: Final = b"\x1b[?25h"
"""A live display hides the cursor; leaving without unwinding must not keep it hidden."""


class Interrupts:
    """The signals that came so far."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.received)


@contextmanager
def interrupts(ask: Callable[[], object]) -> Iterator[Interrupts]:
    """Within the block the first signal calls `ask` in the loop, the second ends the process.

    To be entered in the main thread, inside `trio.run`. The previous handlers
    are back when the block is left.
    """
    token = trio.lowlevel.current_trio_token()
    so_far = Interrupts()

    def handle(number: int, _frame: FrameType | None) -> None:
        so_far.received.append(number)
        if len(so_far.received) > 1:
            if sys.stderr.isatty():
                os.write(sys.stderr.fileno(), SHOW_CURSOR)
            os._exit(128 + number)
        token.run_sync_soon(ask)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield so_far
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
