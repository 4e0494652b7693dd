"""Peers for tests of net/: raw sockets, a WebSocket referee, and an application to talk to."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import trio
from quart import Response, request, websocket
from quart_trio import QuartTrio
from wsproto.connection import Connection as WebSocketProtocol
from wsproto.connection import ConnectionType
from wsproto.events import (
    CloseConnection,
    Message,
    Ping,
    Pong,
    TextMessage,
)

from vidra_trio.net.deadlines import Deadlines
from vidra_trio.net.listen import listen
from vidra_trio.net.serve import open_server
from vidra_trio.web.asgi import HTTPConnection, WebsocketConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hypercorn.typing import ASGIFramework, Scope
    from wsproto.events import Event

    from vidra_trio.net.connection import Connection

# A liveness bound for everything on a real socket; nothing here takes that long.
PATIENCE: Final = 10

# Long enough that none of them fires in a test that is about something else.
CALM = Deadlines(write=5, head=5, body=5, ping=5, silence=5, close=0.5, grace=1)

UPGRADE = (
    b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: bKdPyn3u98cTfZJSh4TNeQ==\r\n"
)


def get(path: str = "/hello", *lines: str, version: str = "1.1") -> bytes:
    """A GET request as bytes."""
    return head("GET", path, *lines, version=version)


def head(method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    """A request head as bytes."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *lines, "", ""]).encode(
        "latin1"
    )


@dataclass
class Raw:
    """A peer that says exactly what it is told to say."""

    stream: trio.SocketStream
    pending: bytes = b""

    async def say(self, data: bytes) -> None:
        """Write all of it; a connection that is gone already is for the reading to find out."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def more(self) -> bytes:
        """The next bytes, none at the end, polite or not."""
        try:
            return bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            return b""

    async def rest(self) -> bytes:
        """Everything until the connection ends."""
        said, self.pending = [self.pending], b""
        while chunk := await self.more():
            said.append(chunk)
        return b"".join(said)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; what comes after it is kept."""
        while mark not in self.pending:
            chunk = await self.more()
            assert chunk, f"the connection ended before {mark!r}: {self.pending!r}"
            self.pending += chunk
        said, _, self.pending = self.pending.partition(mark)
        return said + mark

    async def ask(self, request_bytes: bytes, mark: bytes = b"hello") -> bytes:
        """Say something and read the answer up to its end mark."""
        await self.say(request_bytes)
        return await self.until(mark)

    async def was_reset(self) -> bool:
        """Read to the end; True when the end was a reset."""
        try:
            while await self.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            return True
        return False


class Listener(Raw):
    """A WebSocket client with wsproto as the referee of every frame."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self.referee = WebSocketProtocol(ConnectionType.CLIENT)
        self.answer = b""
        self.pings = 0
        self.pongs = 0
        self._events: list[Event] = []

    async def upgrade(self, path: str = "/ws", extra: bytes = b"") -> None:
        """The handshake; `answer` is the server's head."""
        await self.say(b"GET %s HTTP/1.1\r\n" % path.encode() + UPGRADE + extra + b"\r\n")
        self.answer = await self.until(b"\r\n\r\n")
        assert b" 101 " in self.answer, self.answer
        self.referee.receive_data(self.pending)

    async def tell(self, event: Message[str] | CloseConnection | Ping | Pong) -> None:
        """Send one event."""
        await self.say(self.referee.send(event))

    async def event(self) -> Event | None:
        """The next event but pings (answered) and pongs; None at the end of the connection."""
        while True:
            for happened in self.referee.events():
                self._events.append(happened)
            while self._events:
                happened = self._events.pop(0)
                if isinstance(happened, Ping):
                    self.pings += 1
                    await self.tell(happened.response())
                elif isinstance(happened, Pong):
                    self.pongs += 1
                else:
                    return happened
            chunk = await self.more()
            if not chunk:
                return None
            self.referee.receive_data(chunk)

    async def message(self) -> str:
        """The next whole text message."""
        parts: list[str] = []
        while True:
            event = await self.event()
            assert isinstance(event, TextMessage), event
            parts.append(event.data)
            if event.message_finished:
                return "".join(parts)

    async def farewell(self) -> int | None:
        """The code of the server's Close frame, which is answered; None when it just ended."""
        while (event := await self.event()) is not None:
            if isinstance(event, CloseConnection):
                with contextlib.suppress(Exception):
                    await self.tell(event.response())
                return int(event.code)
        return None


@dataclass
class Origin:
    """The application behind the server under test, and what it saw."""

    app: QuartTrio
    connections: list[Connection] = field(default_factory=list)
    joined: trio.Event = field(default_factory=trio.Event)
    left: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)
    closing: trio.Event = field(default_factory=trio.Event)
    feeds: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)

    def count(self, step: int) -> None:
        """One feed more or less."""
        self.feeds += step
        self._changed.set()

    async def wait_feeds(self, wanted: int) -> None:
        """Until so many feeds are open."""
        while self.feeds != wanted:
            self._changed = trio.Event()
            await self._changed.wait()

    async def drain(self) -> None:
        """What web/ does at shutdown: ask every socket to close, wait until they did."""
        self.closing.set()
        await self.wait_feeds(0)


@dataclass
class Running:
    """A server under test."""

    port: int
    origin: Origin

    @contextlib.asynccontextmanager
    async def raw(self, receive_buffer: int | None = None) -> AsyncIterator[Raw]:
        """A raw connection, by default with an ordinary receive buffer."""
        async with await dial(self.port, receive_buffer) as stream:
            yield Raw(stream)

    @contextlib.asynccontextmanager
    async def websocket(
        self, path: str = "/ws", extra: bytes = b"", receive_buffer: int | None = None
    ) -> AsyncIterator[Listener]:
        """An accepted WebSocket."""
        async with await dial(self.port, receive_buffer) as stream:
            peer = Listener(stream)
            await peer.upgrade(path, extra)
            yield peer

    async def works(self) -> bool:
        """Whether a fresh peer gets an answer."""
        async with self.raw() as peer:
            return b" 200 " in await peer.ask(get())


async def dial(port: int, receive_buffer: int | None = None) -> trio.SocketStream:
    """Connect; a small receive buffer has to be set before that."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


@contextlib.asynccontextmanager
async def serving(
    deadlines: Deadlines = CALM,
    *,
    origin: Origin | None = None,
    app: ASGIFramework | None = None,
    drain: Callable[[], Awaitable[None]] | None = None,
    max_connections: int = 2048,
) -> AsyncIterator[Running]:
    """A server on a free port, in front of `quart_origin()` or `app`."""
    origin = origin if origin is not None else quart_origin()
    served = app if app is not None else cast("ASGIFramework", origin.app)
    with trio.fail_after(PATIENCE):
        async with open_server(
            served,
            listen("127.0.0.1", 0),
            deadlines=deadlines,
            drain=drain,
            max_connections=max_connections,
        ) as addresses:
            yield Running(addresses[0][1], origin)


class Stingy:
    """A socket that takes a random part of what it is offered, and sometimes nothing."""

    def __init__(self, sock: socket.socket, seed: int) -> None:
        self._sock = sock
        self._random = random.Random(seed)

    def send(self, data: bytes | memoryview) -> int:
        """Take some of it."""
        if self._random.random() < 0.2:
            raise BlockingIOError
        return self._sock.send(data[: self._random.randint(1, 40)])

    def fileno(self) -> int:
        """For waiting until there is room, which there always is."""
        return self._sock.fileno()

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


def connection_in(scope: Scope) -> Connection:
    """The connection that the server put into the scope."""
    return cast("Connection", cast("dict[str, object]", scope["state"])["vidra.connection"])


def quart_origin() -> Origin:
    """A small Quart application with everything that can go wrong with an answer."""
    app = QuartTrio("origin")
    app.asgi_http_class = HTTPConnection
    app.asgi_websocket_class = WebsocketConnection
    origin = Origin(app)
    _add_requests(app, origin)
    _add_sockets(app, origin)
    return origin


def _add_requests(app: QuartTrio, origin: Origin) -> None:
    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.post("/echo")
    async def echo() -> dict[str, int]:
        return {"size": len(await request.get_data())}

    @app.post("/refused")
    async def refused() -> tuple[str, int]:
        return "refused", 401

    @app.post("/slow")
    @app.get("/slow")
    async def slow() -> str:
        origin.joined.set()
        try:
            await origin.go.wait()
        finally:
            origin.left.set()
        return "hello"

    @app.get("/long")
    async def long() -> bytes:
        return b"x" * 4_000_000 + b"hello"

    @app.get("/stream")
    async def stream() -> Response:
        async def events() -> AsyncIterator[bytes]:
            yield b"first\n"
            await origin.go.wait()
            yield b"last\n"

        response = Response(events(), content_type="text/event-stream")
        response.timeout = None
        return response


def _add_sockets(app: QuartTrio, origin: Origin) -> None:
    @app.websocket("/ws")
    async def parrot() -> None:
        while True:
            await websocket.send(await websocket.receive())

    @app.websocket("/feed")
    async def feed() -> None:
        await websocket.accept()
        origin.connections.append(connection_in(websocket.scope))
        origin.count(1)
        origin.joined.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read_on)
                await origin.closing.wait()
                await websocket.close(1001, "shutting down")
                nursery.cancel_scope.cancel()
        finally:
            origin.count(-1)
            origin.left.set()

    @app.websocket("/hasty")
    async def hasty() -> None:
        await websocket.accept()
        origin.connections.append(connection_in(websocket.scope))
        origin.joined.set()
        await origin.closing.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await websocket.close(1001)
        origin.left.set()
        await trio.sleep_forever()

    @app.websocket("/chatter")
    async def chatter() -> None:
        origin.joined.set()
        try:
            while True:
                await websocket.send("chatter")
        finally:
            origin.left.set()

    @app.websocket("/thinks")
    async def thinks() -> None:
        origin.joined.set()
        await origin.go.wait()
        await websocket.send("hello")


async def _read_on() -> None:
    while True:
        await websocket.receive()


def numbered(count: int, size: int) -> list[bytes]:
    """`count` different payloads of `size` bytes."""
    return [b"%08d" % number + b"." * (size - 8) for number in range(count)]
