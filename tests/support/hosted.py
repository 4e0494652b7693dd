"""A Trio run that synchronous code drives call by call, in its own thread.

For tests whose steps are not asynchronous: a state machine decides, and one run
lives through all of its steps.

Trio as a guest: its ticks are executed here, and only while a call is under way.
Between calls one task asks for orders in a loop, so that there is always
something to do and Trio never waits for the outside (which a guest does in a
thread). During a call that task waits like any other, and `wait_all_tasks_blocked`
means what it says.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import outcome

T = TypeVar("T")


class HostedTrio:
    """One run under a clock that stands still but for `pass_time`."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self.nursery: trio.Nursery
        self._ticks: deque[Callable[[], object]] = deque()
        self._order: Callable[[], Awaitable[Any]] | None = None
        self._answer: list[Any] = []
        self._over: outcome.Outcome[None] | None = None
        self._closing = False
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._ticks.append,
            done_callback=self._done,
            clock=self.clock,
        )
        self.call(trio.lowlevel.checkpoint)

    def call(self, order: Callable[[], Awaitable[T]]) -> T:
        """Run `order` in a task of Trio's and return what it returns; the rest goes on meanwhile.

        It must end by itself: what it waits for can only be other tasks and the clock.
        """
        self._order = order
        while not self._answer and self._over is None:
            self._ticks.popleft()()
        if self._over is not None:
            self._over.unwrap()
        answer: T = self._answer.pop()
        return answer

    def settle(self) -> None:
        """Let every task do what it can without the clock."""
        self.call(wait_all_tasks_blocked)

    def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, with everything that they bring about in its order."""
        self.call(lambda: self._sleep(seconds))

    def close(self) -> None:
        """End the run; tasks that are left are cancelled."""
        self._closing = True
        while self._over is None:
            self._ticks.popleft()()
        self._over.unwrap()

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            while not self._closing:
                await trio.lowlevel.checkpoint()
                order, self._order = self._order, None
                if order is not None:
                    self._answer.append(await order())
            self.clock.autojump_threshold = 0  # for what is shielded and waits
            self.nursery.cancel_scope.cancel()

    async def _sleep(self, seconds: float) -> None:
        self.clock.autojump_threshold = 0
        await trio.sleep(seconds)
        self.clock.autojump_threshold = float("inf")
        await wait_all_tasks_blocked()

    def _done(self, over: outcome.Outcome[None]) -> None:
        self._over = over
