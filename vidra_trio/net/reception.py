"""Who may come in, who is inside, and how everybody is seen out."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from vidra_trio.net.connection import Connection
from vidra_trio.net.errorlog import logger

try:
    import resource
except ImportError:  # pragma: no cover  # Windows, where there is no such limit
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper, LifespanState

    from vidra_trio.net.deadlines import Deadlines

# Twice what we promise to subscribers; an idle one costs some 30 KiB.
MAX_CONNECTIONS = 2048

# Descriptors that are not for peers: state files, logs, three pipes per worker.
RESERVED_DESCRIPTORS = 128

# Even under a tiny limit somebody must be able to ask what is going on.
FEWEST_CONNECTIONS = 16

# Whoever comes on top of the limit is told so; nothing it asked has been read.
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: 32\r\nconnection: close\r\n\r\n"
    b'{"error":"too_many_connections"}'
)

# After a failed accept: long enough not to spin, short enough not to be noticed.
ACCEPT_PAUSE = 0.1

_PASSING = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED})


def affordable(wanted: int) -> int:
    """`wanted` connections, or as many as the process has file descriptors for."""
    if resource is None:
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(soft - RESERVED_DESCRIPTORS, FEWEST_CONNECTIONS))


@dataclass(frozen=True, slots=True)
class ReceptionStatistics:
    """Connections open now, and turned away at the limit since the start."""

    open: int
    turned_away: int


class Reception:
    """Accepts peers up to a limit and knows every open connection."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        deadlines: Deadlines,
        max_connections: int,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._state = state
        self._deadlines = deadlines
        self._limit = max_connections
        self._inside: set[Connection] = set()
        self._empty = trio.Event()
        self._troubled = False
        self._turned_away = 0

    def statistics(self) -> ReceptionStatistics:
        """How full it is."""
        return ReceptionStatistics(len(self._inside), self._turned_away)

    async def admit(self, listener: socket.socket, guests: trio.Nursery) -> None:
        """Accept until cancelled; each connection is a task in `guests`.

        No error of accept ends this: a process without free descriptors pauses
        and tries again.
        """
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except OSError as error:
                await self._accept_failed(error)
            else:
                self._receive(sock, guests)

    async def see_out(self, farewell: Callable[[], Awaitable[None]] | None) -> None:
        """Let what is under way end within `Deadlines.grace`, then reset the rest.

        `farewell` is the application's part of it: telling its sockets. Nobody
        may be admitted any more.
        """
        await self._context.terminated.set()
        for connection in tuple(self._inside):
            connection.retire()
        try:
            with trio.move_on_after(self._deadlines.grace):
                if farewell is not None:
                    await farewell()
                await self._wait_empty()
        finally:
            for connection in tuple(self._inside):
                connection.abort()

    def _receive(self, sock: socket.socket, guests: trio.Nursery) -> None:
        if len(self._inside) >= self._limit:
            self._turn_away(sock)
            return
        self._troubled = False
        connection = Connection(
            self._app, self._config, self._context, self._state, sock, self._deadlines
        )
        self._inside.add(connection)
        guests.start_soon(self._attend, connection)

    async def _attend(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._inside.discard(connection)
            if not self._inside:
                self._empty.set()

    async def _wait_empty(self) -> None:
        while self._inside:
            self._empty = trio.Event()
            await self._empty.wait()

    def _turn_away(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.send(FULL)  # the peer's buffer is empty: it fits, or the peer is gone
        sock.close()
        self._turned_away += 1
        self._complain(f"{self._limit} connections are open, the next ones are closed at once")

    async def _accept_failed(self, error: OSError) -> None:
        if error.errno not in _PASSING:
            self._complain(f"cannot accept connections: {error.strerror}")
            await trio.sleep(ACCEPT_PAUSE)

    def _complain(self, trouble: str) -> None:
        # Once per trouble: the log must not fill up as fast as peers can knock.
        if not self._troubled:
            logger.warning("%s", trouble)
        self._troubled = True
