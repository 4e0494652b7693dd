"""Serving an ASGI application: from open sockets to the last connection's end.

Leaving `open_server`, by return, error or cancellation, always goes the same
way and takes at most `Deadlines.grace` plus the application's own shutdown:
no new connection, idle ones close, the application tells its sockets, what
is under way may end, the rest is reset. The serving task is therefore
shielded; only the end of the block ends it.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import LifespanFailureError, LifespanTimeoutError, wrap_app

from vidra_trio.net.deadlines import DEFAULT_DEADLINES
from vidra_trio.net.errorlog import NetLogger, describe, logger
from vidra_trio.net.listen import address_of
from vidra_trio.net.reception import MAX_CONNECTIONS, Reception, affordable

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from hypercorn.typing import ASGIFramework, ASGISendEvent, LifespanState

    from vidra_trio.net.deadlines import Deadlines
    from vidra_trio.net.listen import Address

# The largest message a client may send over a WebSocket (1009 above it).
MAX_MESSAGE = 2**16

# The application's own start and end; ours is over in an instant.
STARTUP_SECONDS = 10
SHUTDOWN_SECONDS = 1


@contextlib.asynccontextmanager
async def open_server(
    app: ASGIFramework,
    sockets: Sequence[socket.socket],
    *,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    drain: Callable[[], Awaitable[None]] | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> AsyncIterator[list[Address]]:
    """Serve `app` on listening `sockets` while the block runs; yields their addresses.

    Inside the block peers are served. Leaving it, also when cancelled: no more
    connections, `drain()` is awaited (close the WebSockets there), and after
    `deadlines.grace` whatever is left is reset. The sockets are closed then.

    Raises:
        LifespanFailureError: the application could not start (in a group).
    """
    stop = trio.Event()
    with contextlib.ExitStack() as owned:
        for sock in sockets:
            owned.enter_context(sock)
        addresses = [address_of(sock) for sock in sockets]
        async with trio.open_nursery() as owner:
            serve = _Service(app, deadlines, affordable(max_connections))
            await owner.start(partial(serve.run, sockets, stop=stop, drain=drain))
            try:
                yield addresses
            finally:
                stop.set()


def hypercorn_config() -> Config:
    """What Hypercorn's classes read; every time limit of theirs is off, ours apply."""
    config = Config()
    config.accesslog = None
    config.errorlog = logger
    config.logger_class = NetLogger
    config.include_server_header = False
    config.read_timeout = None
    config.startup_timeout = STARTUP_SECONDS
    config.shutdown_timeout = SHUTDOWN_SECONDS
    config.websocket_max_message_size = MAX_MESSAGE
    config.websocket_ping_interval = None
    return config


class _Lifespan(Lifespan):
    """Hypercorn's lifespan, which reports a failed start by itself.

    Hypercorn raises it inside the application, so it arrives some steps after
    `wait_for_startup` has returned as if all were well.
    """

    failure: str | None = None

    async def asgi_send(self, message: ASGISendEvent) -> None:
        if message["type"] == "lifespan.startup.failed":
            self.failure = message["message"]
            self.startup.set()
        else:
            await super().asgi_send(message)

    async def wait_for_startup(self) -> None:
        await super().wait_for_startup()
        if self.failure is not None:
            raise LifespanFailureError("startup", self.failure)


class _Service:
    """One application's lifespan with its reception inside."""

    def __init__(self, app: ASGIFramework, deadlines: Deadlines, max_connections: int) -> None:
        config = hypercorn_config()
        wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
        state: LifespanState = {}
        self._lifespan = _Lifespan(wrapped, config, state)
        self._reception = Reception(
            wrapped, config, WorkerContext(None), state, deadlines, max_connections
        )

    async def run(
        self,
        sockets: Sequence[socket.socket],
        *,
        stop: trio.Event,
        drain: Callable[[], Awaitable[None]] | None,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as life:
                await life.start(self._lifespan.handle_lifespan)
                await _tell(self._lifespan.wait_for_startup)
                # From here on only `stop` ends us. A cancellation that is already
                # there must be seen now, or `start` would wait for ever.
                await trio.lowlevel.checkpoint_if_cancelled()
                scope.shield = True
                await self._receive(sockets, stop, drain, task_status)
                await _tell(self._lifespan.wait_for_shutdown)
                life.cancel_scope.cancel("served")

    async def _receive(
        self,
        sockets: Sequence[socket.socket],
        stop: trio.Event,
        drain: Callable[[], Awaitable[None]] | None,
        task_status: trio.TaskStatus[None],
    ) -> None:
        async with trio.open_nursery() as guests:
            try:
                async with trio.open_nursery() as door:
                    for sock in sockets:
                        door.start_soon(self._reception.admit, sock, guests)
                    task_status.started()
                    await stop.wait()
                    door.cancel_scope.cancel("shutting down")
                for sock in sockets:
                    sock.close()
            finally:
                await self._reception.see_out(drain)
                guests.cancel_scope.cancel("shutting down")


async def _tell(part: Callable[[], Awaitable[None]]) -> None:
    """One half of the lifespan protocol; an application that left it early needs none."""
    with contextlib.suppress(trio.ClosedResourceError, trio.BrokenResourceError):
        try:
            await part()
        except LifespanTimeoutError as error:
            logger.warning("the application's lifespan is late: %s", describe(error))
