"""A media origin for benches, a process of its own: fast, with the faults that sites have.

    python -m bench.origin [--media DIR] [--certificate FILE]

It prints its ports as one line of JSON, and ends when its standard input does.

1. The kernel says when a client's connection is over (EPOLLRDHUP: FIN or RST has
   arrived), whatever the origin is doing, and the moment is stamped then. So "the
   connection was closed after 4 ms" is no multiple of the steps that it sends in.
2. Bytes leave by `sendfile` from memory: one task per connection, some 0.1 s of CPU
   per GB.
3. Whoever measures gives each run a token. What is seen of it is asked for through
   another port, and may be waited for there.

`/<token>/<kind>/...`, kinds: `file/<bytes>/<name>` (Range), `media/<name>` (from DIR),
`hls/<segments>/index.m3u8`, `seg/<bytes>/<n>.ts`, `loop/<n>` (to n + 1), `page/<n>`
(JSON), `beacon`, `status/<code>`, `hang` (never answers).
Query: `rate=<bytes a second>`, `stall=<bytes, then nothing>`, `delay=<seconds first>`;
of a playlist: `bytes=`, `rate=` and `stall_from=<first segment that stalls>`.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

MEGABYTE: Final = 1 << 20
LONGEST_HEAD: Final = 1 << 16
PAUSE: Final = 0.01
"""Seconds between two steps of a throttled answer."""

MISSING: Final = 404
_TYPES: Final = {
    ".mp4": "video/mp4",
    ".m4a": "audio/mp4",
    ".ts": "video/mp2t",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".json": "application/json",
}


class Ports(msgspec.Struct, frozen=True):
    """Where the origin listens; nobody ever gets through to `full`."""

    http: int
    https: int
    full: int
    control: int


class Question(msgspec.Struct, frozen=True):
    """What is asked about a token. `closed`: answer once none of its connections is open."""

    token: str
    closed: bool = False


class Sending(msgspec.Struct):
    """One answer with a file."""

    began: float
    ended: float = 0.0
    sent: int = 0


class Visit(msgspec.Struct):
    """What was seen of a token. Moments are CLOCK_MONOTONIC: one clock for all processes."""

    requests: dict[str, int] = {}
    sendings: list[Sending] = []
    open: int = 0
    last_request: float = 0.0
    last_closed: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request's head, parsed."""

    method: str
    token: str
    kind: str
    rest: str
    query: Mapping[str, str]
    range: str

    def number(self, name: str) -> float | None:
        """Return a number of the query."""
        return float(self.query[name]) if name in self.query else None


@dataclass(eq=False)
class Connection:
    """One client's connection."""

    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    fd: int
    plain: bool
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    visit: Visit | None = None

    async def receive_head(self) -> bytes:
        """Return the next request's head; empty when there is none."""
        head = b""
        while b"\r\n\r\n" not in head and len(head) < LONGEST_HEAD:
            chunk = await self.stream.receive_some()
            if not chunk:
                return b""
            head += chunk
        return head

    async def answer(
        self, status: int, headers: Mapping[str, object] | None = None, body: bytes = b""
    ) -> None:
        """Send a whole answer."""
        await self.begin(status, {"Content-Length": len(body), **(headers or {})}, body)

    async def begin(self, status: int, headers: Mapping[str, object], body: bytes = b"") -> None:
        """Send an answer's head, and its body as far as it is there."""
        lines = [f"HTTP/1.1 {status} -", *(f"{key}: {value}" for key, value in headers.items())]
        await self.stream.send_all("\r\n".join([*lines, "", ""]).encode() + body)

    async def send(self, source: int, start: int, size: int) -> None:
        """Send bytes of a file."""
        if not self.plain:
            await self.stream.send_all(os.pread(source, size, start))
            return
        stop = start + size
        while start < stop:
            try:
                start += os.sendfile(self.fd, source, start, min(stop - start, MEGABYTE))
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.fd)
            else:
                await trio.lowlevel.checkpoint()


class Origin:
    """All tokens, connections and bytes."""

    def __init__(self, media: Path | None) -> None:
        self._media = media
        self._visits: dict[str, Visit] = {}
        self._connections: dict[int, Connection] = {}
        self._endings = trio.lowlevel.ParkingLot()
        self._epoll = select.epoll()
        self._noise = os.memfd_create("noise")
        self._noise_size = 0
        self._kinds: Mapping[str, Callable[[Connection, Request], Awaitable[None]]] = {
            "file": self._file,
            "media": self._medium,
            "hls": self._playlist,
            "seg": self._file,
            "loop": self._loop,
            "page": self._page,
            "beacon": self._beacon,
            "status": self._status,
            "hang": self._hang,
        }

    async def watch(self) -> None:
        """Stamp the end of connections, and end what is still being sent there."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            ended = self._epoll.poll(0)
            now = time.monotonic()
            for fd, _ in ended:
                if (connection := self._connections.pop(fd, None)) is not None:
                    self._close(connection, now)
                    connection.scope.cancel()

    async def serve(self, context: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        """Serve one connection until its client goes."""
        fd = stream.socket.fileno()
        if context is None:
            connection = Connection(stream, fd, plain=True)
        else:
            tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            connection = Connection(tls, fd, plain=False)
        self._connections[fd] = connection
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)
        try:
            with connection.scope:
                while head := await connection.receive_head():
                    await self._answer(connection, parse_head(head))
        except (trio.BrokenResourceError, OSError):
            pass  # the client went: `watch` has seen it
        finally:
            if self._connections.pop(fd, None) is not None:
                self._close(connection, time.monotonic())
            await trio.aclose_forcefully(stream)

    async def tell(self, stream: trio.SocketStream) -> None:
        """Answer one question about a token."""
        async with stream:
            line = b""
            while not line.endswith(b"\n"):
                chunk = await stream.receive_some()
                if not chunk:
                    return
                line += chunk
            question = msgspec.json.decode(line, type=Question)
            visit = self._visit(question.token)
            while question.closed and visit.open:
                await self._endings.park()
            await stream.send_all(msgspec.json.encode(visit))

    def _visit(self, token: str) -> Visit:
        return self._visits.setdefault(token, Visit())

    def _close(self, connection: Connection, now: float) -> None:
        if connection.visit is not None:
            connection.visit.open -= 1
            connection.visit.last_closed = now
            self._endings.unpark_all()

    async def _answer(self, connection: Connection, request: Request) -> None:
        visit = self._visit(request.token)
        if connection.visit is None:
            connection.visit = visit
            visit.open += 1
        visit.requests[request.kind] = visit.requests.get(request.kind, 0) + 1
        visit.last_request = time.monotonic()
        await trio.sleep(request.number("delay") or 0)
        if request.kind in self._kinds:
            await self._kinds[request.kind](connection, request)
        else:
            await connection.answer(MISSING)

    async def _file(self, connection: Connection, request: Request) -> None:
        size, _, name = request.rest.partition("/")
        await self._send(connection, request, self._content(int(size)), int(size), name)

    async def _medium(self, connection: Connection, request: Request) -> None:
        path = self._media / Path(request.rest).name if self._media else Path("/nowhere")
        if not path.is_file():
            await connection.answer(MISSING)
            return
        with path.open("rb") as medium:
            size = path.stat().st_size
            await self._send(connection, request, medium.fileno(), size, path.name)

    async def _playlist(self, connection: Connection, request: Request) -> None:
        count = int(request.rest.partition("/")[0])
        size = request.query.get("bytes", "100000")
        stalls = request.number("stall_from")
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:2"]
        for n in range(count):
            faults = {key: request.query[key] for key in ("rate",) if key in request.query}
            if stalls is not None and n >= stalls:
                faults["stall"] = "1000"
            lines += ["#EXTINF:2,", f"/{request.token}/seg/{size}/{n}.ts?{urlencode(faults)}"]
        body = "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()
        await connection.answer(200, {"Content-Type": _TYPES[".m3u8"]}, body)

    async def _loop(self, connection: Connection, request: Request) -> None:
        onward = f"/{request.token}/loop/{int(request.rest) + 1}?{urlencode(request.query)}"
        await connection.answer(302, {"Location": onward})

    async def _page(self, connection: Connection, request: Request) -> None:
        body = msgspec.json.encode({"ids": [int(request.rest)]})
        await connection.answer(200, {"Content-Type": _TYPES[".json"]}, body)

    async def _beacon(self, connection: Connection, request: Request) -> None:
        await connection.answer(200)

    async def _status(self, connection: Connection, request: Request) -> None:
        await connection.answer(int(request.rest))

    async def _hang(self, connection: Connection, request: Request) -> None:
        await trio.sleep_forever()

    def _content(self, size: int) -> int:
        while self._noise_size < size:
            self._noise_size += os.write(self._noise, noise(self._noise_size // MEGABYTE))
        return self._noise

    async def _send(
        self, connection: Connection, request: Request, source: int, size: int, name: str
    ) -> None:
        start, stop = parse_range(request.range, size)
        headers: dict[str, object] = {
            "Content-Type": _TYPES.get(Path(name).suffix, "application/octet-stream"),
            "Content-Length": stop - start,
            "Accept-Ranges": "bytes",
            "ETag": f'"{size}"',
        }
        if request.range:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        await connection.begin(206 if request.range else 200, headers)
        if request.method == "GET":
            sending = Sending(time.monotonic())
            self._visit(request.token).sendings.append(sending)
            await _stream(connection, request, source, (start, stop), sending)


async def _stream(
    connection: Connection, request: Request, source: int, part: tuple[int, int], sending: Sending
) -> None:
    start, stop = part
    rate, stall = request.number("rate"), request.number("stall")
    limit = stop - start if stall is None else min(stop - start, int(stall))
    step = max(1, int(rate * PAUSE)) if rate else 4 * MEGABYTE
    due = trio.current_time()
    while sending.sent < limit:
        size = min(step, limit - sending.sent)
        await connection.send(source, start + sending.sent, size)
        sending.sent += size
        sending.ended = time.monotonic()
        if rate:
            due += size / rate
            await trio.sleep_until(due)
    if limit < stop - start:
        await trio.sleep_forever()


def noise(index: int) -> bytes:
    """Return one megabyte of a file; no two of them are alike."""
    return index.to_bytes(8, "big") + _NOISE[8:]


_NOISE: Final = random.Random("bench").randbytes(MEGABYTE)  # noqa: S311  # no secret


def parse_head(head: bytes) -> Request:
    """Parse what a client of ours sends."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    url = urlsplit(target)
    token, _, path = url.path.lstrip("/").partition("/")
    kind, _, rest = path.partition("/")
    asked = headers.get("range", "").removeprefix("bytes=")
    return Request(method, token, kind, rest, dict(parse_qsl(url.query)), asked)


def parse_range(asked: str, size: int) -> tuple[int, int]:
    """Return the bytes that are asked for."""
    first, _, last = asked.partition("-")
    return int(first or 0), min(int(last) + 1, size) if last else size


def full_listener() -> tuple[int, list[socket.socket]]:
    """Return a port at which connecting takes for ever, and what keeps it so.

    Nobody accepts, and a backlog of none has room for one: the kernel ignores the next.
    """
    door = socket.create_server(("127.0.0.1", 0), backlog=0)
    first = socket.create_connection(door.getsockname())
    return door.getsockname()[1], [door, first]


async def listen(
    handler: Callable[[trio.SocketStream], Awaitable[None]], nursery: trio.Nursery
) -> int:
    """Serve on a free port; return it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    port: int = listener.socket.getsockname()[1]
    return port


async def run(media: Path | None, certificate: Path | None) -> None:
    """Serve until nobody holds our standard input any more."""
    origin = Origin(media)
    full, held = full_listener()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(origin.watch)
        https = 0
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            https = await listen(partial(origin.serve, context), nursery)
        ports = Ports(
            http=await listen(partial(origin.serve, None), nursery),
            https=https,
            full=full,
            control=await listen(origin.tell, nursery),
        )
        print(msgspec.json.encode(ports).decode(), flush=True)
        await trio.to_thread.run_sync(sys.stdin.buffer.read)
        nursery.cancel_scope.cancel()
    for one in held:
        one.close()


def main() -> None:
    """Run an origin."""
    parser = argparse.ArgumentParser(prog="python -m bench.origin")
    parser.add_argument("--media", type=Path)
    parser.add_argument("--certificate", type=Path)
    chosen = parser.parse_args()
    trio.run(run, chosen.media, chosen.certificate)


if __name__ == "__main__":
    main()
