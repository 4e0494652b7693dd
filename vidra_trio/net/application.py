"""The application's tasks, and a queue to each that can always be closed.

Hypercorn tells an application that its peer has left by putting a message
into its queue. When the queue is full that waits, and the one who waits may be
the application itself, in its last `send`: the connection then hangs for ever
(an early answer to a long body is enough). Here the news is the end of the
queue, which never waits, and frees a reader that waits for room in it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.task_group import _handle as call_application

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, Scope

DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Inbox:
    """What the peer says to one call of the application: finite, in order, with an end."""

    def __init__(self, size: int) -> None:
        self._puts, self._takes = trio.open_memory_channel["ASGIReceiveEvent"](size)
        self._last: ASGIReceiveEvent | None = None

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Wait for room. A disconnect ends the queue at once; what waits or follows is dropped."""
        if message["type"] in DISCONNECTS:
            self._last = message
            self._puts.close()
            return
        with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            await self._puts.send(message)

    async def take(self) -> ASGIReceiveEvent:
        """The next message; after the last one the disconnect, as often as it is asked for."""
        try:
            return await self._takes.receive()
        except trio.EndOfChannel:
            assert self._last is not None  # noqa: S101  # only a disconnect ends the queue
            return self._last


class ApplicationGroup(TaskGroup):
    """Hypercorn's task group, with an `Inbox` per application call."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Start the application for this scope; returns the way to tell it something."""
        inbox = Inbox(config.max_app_queue_size)

        self.spawn(
            call_application,
            app,
            config,
            scope,
            inbox.take,
            send,
            trio.to_thread.run_sync,
            trio.from_thread.run,
        )
        return inbox.put
