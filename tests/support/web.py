"""The web floor in memory: a real supervisor and hub, a fake disk, and ASGI driven by hand."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote

import trio

from tests.support.fakes import FakeStore, now
from vidra_trio.core.diagnostics import Diagnostics, EngineFacts, FfmpegFacts
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.hub import Hub
from vidra_trio.settings import Settings
from vidra_trio.supervisor import Supervisor, open_supervisor
from vidra_trio.web.app import WebContext, build_app
from vidra_trio.wire.payloads import dump_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from hypercorn.typing import ASGIFramework, ASGIReceiveEvent, ASGISendEvent, Scope

    from vidra_trio.engine.base import Engine
    from vidra_trio.storage.jobs import JobStore

TOKEN = "a-token-that-nobody-guesses"
HOST = "127.0.0.1:5000"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
MEBIBYTE = 1024 * 1024
DIAGNOSTICS = Diagnostics(
    version="0.1.0",
    yt_dlp="2026.7.4",
    python="3.11.9 (CPython)",
    platform="Linux 6.1 x86_64",
    engine=EngineFacts("process", "a test says so", running=1, workers=2, idle=1, abandoned=0),
    ffmpeg=FfmpegFacts("path", "/home/u/bin/ffmpeg", "7.0.2", has_ffprobe=True),
)


async def diagnose() -> Diagnostics:
    """Find what is always there."""
    await trio.lowlevel.checkpoint()
    return DIAGNOSTICS


def settings(**changes: Any) -> Settings:  # noqa: ANN401 - members of Settings
    """Return settings of a server that is nowhere on the disk."""
    root = Path("/nowhere")
    known: dict[str, Any] = {"token": TOKEN, "port": 5000, "name": "Vidra", **changes}
    return Settings.private(root, download_dir=root / "downloads", **known)


@dataclass
class Web:
    """The application and what stands behind it."""

    app: ASGIFramework
    context: WebContext
    store: FakeStore
    engine: ScriptedEngine
    defects: list[str] = field(default_factory=list)

    @property
    def supervisor(self) -> Supervisor:
        """The real one."""
        return self.context.supervisor

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        auth: bool = True,
        headers: dict[str, str] | Sequence[tuple[str, str]] = (),
        **more: Any,  # noqa: ANN401 - passed on
    ) -> Reply:
        """Ask with the token, and with `body` as JSON."""
        given = [*(AUTH.items() if auth else ()), *_pairs(headers)]
        return await ask(self.app, method, path, body, headers=given, **more)

    async def create(self, url: str = "http://site.example/v", **more: object) -> str:
        """Create a job and return its id."""
        reply = await self.ask("POST", "/api/jobs", {"urls": url, **more})
        assert reply.status == 201, reply.body
        job_id: str = reply.json["job_id"]
        return job_id


@asynccontextmanager
async def open_web(
    *,
    engine: Engine | None = None,
    store: FakeStore | None = None,
    slots: int = 3,
    **changes: Any,  # noqa: ANN401 - members of Settings
) -> AsyncIterator[Web]:
    """Serve in memory for the length of the block; with no slots no job ever starts."""
    engine, store = engine or ScriptedEngine(), store or FakeStore()
    chosen = settings(**changes)
    hub = Hub(dump_event)
    async with trio.open_nursery() as nursery:
        async with open_supervisor(
            engine=engine,
            store=cast("JobStore", store),  # the same methods, no disk
            publish=hub.publish,
            rules=chosen.path_rules,
            now=now,
            max_concurrent=slots,
        ) as supervisor:
            await nursery.start(hub.run)
            parts = WebContext(chosen, supervisor, hub, trio.Event(), now, diagnose)
            yield Web(build_app(parts), parts, store, cast("ScriptedEngine", engine))
        nursery.cancel_scope.cancel()


@dataclass
class Reply:
    """One answer as it left the application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON is genuinely open
        """The body, read."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of a refusal; fails when the answer is none."""
        assert self.headers["content-type"] == "application/json"
        code = self.json["error"]
        assert isinstance(code, str)
        return code


async def ask(
    app: ASGIFramework,
    method: str,
    path: str,
    body: object = None,
    *,
    headers: Iterable[tuple[str, str]] = (),
    host: str | None = HOST,
    raw: bytes | None = None,
    chunked: bool = False,
    stalls: bool = False,
    scope: dict[str, Any] | None = None,
) -> Reply:
    """Send one request through ASGI. `body` goes as JSON, `raw` as it is, or never quite."""
    text = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    given = [("host", host)] if host is not None else []
    given += [(name.lower(), value) for name, value in headers]
    if raw is None and body is not None:
        given.append(("content-type", "application/json"))
    if chunked:
        given.append(("transfer-encoding", "chunked"))
    elif text or method in {"POST", "PUT"}:
        given.append(("content-length", str(len(text))))
    sent: list[dict[str, Any]] = []
    pieces = [text[at : at + 65536] for at in range(0, len(text), 65536)] or [b""]

    async def receive() -> ASGIReceiveEvent:
        if not pieces:
            await trio.sleep_forever()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces) or stalls}

    async def send(message: ASGISendEvent) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(cast("dict[str, Any]", message))

    await app(_scope("http", path, given, {"method": method, **(scope or {})}), receive, send)
    return _reply(sent, "http.response")


def _scope(kind: str, path: str, headers: Iterable[tuple[str, str]], more: dict[str, Any]) -> Scope:
    plain, _, query = path.partition("?")
    scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": unquote(plain),
        "raw_path": plain.encode("latin-1"),
        "query_string": quote(query, safe="=&%+-._~").encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 5000),
        "state": {},
        "extensions": {"websocket.http.response": {}} if kind == "websocket" else {},
        "subprotocols": [],
        **more,
    }
    return cast("Scope", scope)


def _reply(sent: list[dict[str, Any]], prefix: str) -> Reply:
    start, *bodies = sent
    assert start["type"] == f"{prefix}.start"
    assert all(message["type"] == f"{prefix}.body" for message in bodies)
    assert not bodies[-1].get("more_body", False)
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], headers, b"".join(part.get("body", b"") for part in bodies))


def _pairs(headers: dict[str, str] | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [*headers.items()] if isinstance(headers, dict) else [*headers]


class SocketRefused(Exception):
    """The handshake was answered with a response."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class SocketClosed(Exception):
    """The application closed the socket."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class FarEnd:
    """The client's side of a socket that is driven by hand."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.put, self._take = trio.open_memory_channel[dict[str, Any]](100)
        self._said, self.heard = trio.open_memory_channel[dict[str, Any]](10_000)

    async def receive(self) -> ASGIReceiveEvent:
        """Give the application the next thing that the client did."""
        return cast("ASGIReceiveEvent", await self._take.receive())

    async def send(self, message: ASGISendEvent) -> None:
        """Take what the application says."""
        await self._said.send(cast("dict[str, Any]", message))

    async def next(self) -> Any:  # noqa: ANN401 - JSON is genuinely open
        """Return the next message; raises SocketClosed at the end."""
        message = await self.heard.receive()
        if message["type"] == "websocket.close":
            raise SocketClosed(message["code"])
        assert message["type"] == "websocket.send"
        return json.loads(message["text"])

    async def goodbye(self) -> int:
        """Read until the socket is closed; return the code."""
        while True:
            try:
                await self.next()
            except SocketClosed as closed:
                return closed.code

    async def say(self, message: str | bytes) -> None:
        """Send a frame."""
        text, data = (message, None) if isinstance(message, str) else (None, message)
        await self.put.send({"type": "websocket.receive", "text": text, "bytes": data})

    async def wait_accepted(self) -> None:
        """Return when the handshake is done; raises SocketRefused when it is not."""
        first = await self.heard.receive()
        if first["type"] == "websocket.accept":
            return
        if first["type"] == "websocket.close":
            raise SocketClosed(first["code"])
        sent = [first, await self.heard.receive()]
        while sent[-1].get("more_body", False):
            sent.append(await self.heard.receive())
        raise SocketRefused(_reply(sent, "websocket.http.response"))


@asynccontextmanager
async def open_socket(
    app: ASGIFramework,
    path: str,
    *,
    headers: Iterable[tuple[str, str]] = (),
    host: str = HOST,
    scope: dict[str, Any] | None = None,
) -> AsyncIterator[FarEnd]:
    """Connect a socket; leaving the block disconnects it and waits for the handler's end."""
    given = [("host", host), *((name.lower(), value) for name, value in headers)]
    asked = _scope("websocket", path, given, scope or {})
    end = FarEnd(asked)
    trouble: SocketRefused | SocketClosed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, asked, end.receive, end.send)
        try:
            await end.wait_accepted()
            yield end
        except (SocketRefused, SocketClosed) as error:
            trouble = error
        await end.put.send({"type": "websocket.disconnect", "code": 1000})
    if trouble is not None:
        raise trouble
