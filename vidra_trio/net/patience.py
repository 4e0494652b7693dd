"""Waiting for a peer's next bytes under a deadline that others may move meanwhile.

The application's task answers while the connection's reader waits, and the
answer decides how long the reader may wait on. So the deadline belongs to an
object that owns the cancel scope of the wait, not to the wait itself.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Lapse(Enum):
    """Why a wait ended without bytes."""

    LATE = auto()
    NUDGE = auto()


class Patience:
    """When to give up on the peer, and when to ask whether it is still there."""

    def __init__(self) -> None:
        self._late_at = math.inf
        self._nudge_at = math.inf
        self._waiting: trio.CancelScope | None = None

    def grant(self, seconds: float) -> None:
        """Give the peer this long from now, a wait under way included."""
        self._late_at = trio.current_time() + seconds
        self._rearm()

    def stretch(self, seconds: float) -> None:
        """Take our own slowness off the peer's bill."""
        self._late_at += seconds
        self._rearm()

    def nudge_in(self, seconds: float) -> None:
        """End a wait after this long, so that the peer can be pinged."""
        self._nudge_at = trio.current_time() + seconds
        self._rearm()

    async def wait(self, receive: Callable[[], Awaitable[T]]) -> T | Lapse:
        """What `receive` returns, or why there was nothing in time.

        A NUDGE comes again at once until `nudge_in` sets the next one.
        """
        with trio.CancelScope(deadline=self._alarm) as self._waiting:
            try:
                return await receive()
            finally:
                self._waiting = None
        return Lapse.LATE if trio.current_time() >= self._late_at else Lapse.NUDGE

    @property
    def _alarm(self) -> float:
        return min(self._late_at, self._nudge_at)

    def _rearm(self) -> None:
        if self._waiting is not None:
            self._waiting.deadline = self._alarm
