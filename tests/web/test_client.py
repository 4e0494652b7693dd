"""The client against servers that answer as they are told, byte by byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket

from vidra_trio import watch as watch_module
from vidra_trio.client import (
    Client,
    Message,
    RequestRefused,
    ServerUnreachable,
    UnexpectedAnswer,
    WatchEnded,
)
from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.states import JobState

TOKEN = "t0ken-of-the-test"
LIMIT = 10.0
JOB = {"job_id": "j1", "status": "running", "progress": {"percent": 5}}


@dataclass
class Peer:
    """A web server that gives the same answer to everybody and remembers what was asked."""

    answer: bytes
    url: str = ""
    asked: list[bytes] = field(default_factory=list)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request. An empty answer means that none comes."""
        asked = b""
        while b"\r\n\r\n" not in asked or len(asked) < _whole(asked):
            asked += await stream.receive_some()
        self.asked.append(asked)
        if not self.answer:
            await trio.sleep_forever()
        await stream.send_all(self.answer)
        await stream.aclose()


def _whole(asked: bytes) -> int:
    head, _, _ = asked.partition(b"\r\n\r\n")
    length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return len(head) + 4 + (int(length[0].split(b":")[1]) if length else 0)


def http(status: int, body: object) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        status,
        len(text),
        text,
    )


@asynccontextmanager
async def open_peer(answer: bytes) -> AsyncIterator[Peer]:
    peer = Peer(answer)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(trio.serve_tcp, peer.serve, port=0, host="127.0.0.1")
            )
            peer.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            yield peer
            nursery.cancel_scope.cancel()


Script = Callable[[trio_websocket.WebSocketConnection], Any]


@asynccontextmanager
async def open_socket_peer(script: Script) -> AsyncIterator[tuple[Client, list[Any]]]:
    """Serve sockets that follow `script`; yield a client and the requests that came."""
    requests: list[Any] = []

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        requests.append((request.path, dict(request.headers)))
        socket = await request.accept()
        await script(socket)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, ssl_context=None)
            )
            async with Client(f"http://127.0.0.1:{server.port}", TOKEN) as client:
                yield client, requests
            nursery.cancel_scope.cancel()


def event(name: str, **payload: object) -> str:
    return json.dumps({"event": name, "payload": payload})


def saying(messages: Sequence[str | bytes], code: int = 1000, reason: str = "") -> Script:
    async def script(socket: trio_websocket.WebSocketConnection) -> None:
        for message in messages:
            await socket.send_message(message)
        await socket.aclose(code, reason)

    return script


CALLS: list[tuple[str, Callable[[Client], Any], object]] = [
    ("GET / ", lambda client: client.health(), {"service": "x"}),
    ("GET /api/diagnostics ", lambda client: client.diagnostics(), {"engine": {}}),
    ("GET /api/jobs?status=running&owner=me ",
     lambda client: client.jobs(state=JobState.RUNNING, owner="me"), {"jobs": [JOB]}),
    ("GET /api/jobs ", lambda client: client.jobs(), {"jobs": [JOB], "summary": {}}),
    ("GET /api/jobs/j1 ", lambda client: client.job("j1"), JOB),
    ("GET /api/jobs/a%2Fb%3F ", lambda client: client.job("a/b?"), JOB),
    ("POST /api/jobs/j1/cancel ", lambda client: client.cancel("j1"), JOB),
    ("POST /api/jobs/j1/pause ", lambda client: client.pause("j1"), JOB),
    ("POST /api/jobs/j1/resume ", lambda client: client.resume("j1"), JOB),
    ("POST /api/jobs/j1/retry ", lambda client: client.retry("j1"), JOB),
    ("DELETE /api/jobs/j1 ", lambda client: client.delete("j1"), JOB | {"status": "deleted"}),
    ("GET /api/jobs/j1/logs?detail=true&limit=5 ", lambda c: c.logs("j1", limit=5), {"logs": []}),
    ("GET /api/jobs/j1/logs?detail=true ", lambda client: client.logs("j1"), {"count": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "call", "answer"), CALLS, ids=[line for line, _, _ in CALLS])
async def test_requests(line: str, call: Callable[[Client], Any], answer: object) -> None:
    """Each method asks at its path, with the token in a header and nowhere else."""
    async with open_peer(http(200, answer)) as peer, Client(peer.url + "/", TOKEN) as client:
        await call(client)
    head, _, body = peer.asked[0].partition(b"\r\n\r\n")
    assert head.startswith(line.encode())
    assert b"\r\nauthorization: bearer " + TOKEN.encode() in head.lower()
    assert head.count(TOKEN.encode()) == 1
    assert body == b""


async def test_create() -> None:
    """A create sends what was given and nothing else, as JSON that any server can read."""
    answer = http(201, JOB | {"created_at": "2026-01-01T00:00:00Z", "unknown": {}})
    async with open_peer(answer) as peer, Client(peer.url, TOKEN) as client:
        job = await client.create("http://a/", options={"output": "a\ud800"}, owner="me")
        await client.create(["http://a/", "http://b/"], metadata={})
    assert (job.job_id, job.state, job.progress.percent) == ("j1", JobState.RUNNING, 5)
    bodies = [json.loads(asked.partition(b"\r\n\r\n")[2]) for asked in peer.asked]
    assert bodies == [
        {"urls": ["http://a/"], "options": {"output": "a\ufffd"}, "owner": "me"},
        {"urls": ["http://a/", "http://b/"], "metadata": {}},
    ]
    assert b"\r\ncontent-type: application/json\r\n" in peer.asked[0].lower()


async def test_refused() -> None:
    """A refusal carries the server's status, code and detail."""
    body = {"error": "job_status_conflict", "detail": "completed"}
    async with open_peer(http(409, body)) as peer, Client(peer.url, TOKEN) as client:
        with pytest.raises(RequestRefused, match=r"job_status_conflict \(409\): completed") as got:
            await client.pause("j1")
    assert (got.value.status, got.value.code) == (409, "job_status_conflict")
    assert got.value.reason == "completed"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 5}'])
async def test_refused_by_a_stranger(body: bytes) -> None:
    """A refusal that is not ours is one all the same."""
    async with open_peer(http(502, body)) as peer, Client(peer.url, TOKEN) as client:
        with pytest.raises(RequestRefused, match=r"^http_502 \(502\)$"):
            await client.jobs()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"jobs": {}}', b'{"jobs": [{"a": 1}]}'])
async def test_unexpected_answer(body: bytes) -> None:
    """What answers 200 with something else is no server of ours."""
    async with open_peer(http(200, body)) as peer, Client(peer.url, TOKEN) as client:
        with pytest.raises(UnexpectedAnswer, match="GET /api/jobs"):
            await client.jobs()


async def test_redirects_are_not_followed() -> None:
    """The token goes to the address that was given and to no other."""
    async with open_peer(http(200, {"jobs": []})) as other:
        away = b"HTTP/1.1 307 X\r\nLocation: %s/api/jobs\r\nContent-Length: 0\r\n\r\n"
        async with open_peer(away % other.url.encode()) as peer, Client(peer.url, TOKEN) as client:
            with pytest.raises(RequestRefused, match="http_307"):
                await client.jobs()
    assert not other.asked


async def test_proxies_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment never sees a request, and so no token."""
    async with (
        open_peer(http(200, {"jobs": []})) as proxy,
        open_peer(http(200, {"jobs": []})) as it,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with Client(it.url, TOKEN) as client:
            assert await client.jobs() == []
    assert len(it.asked) == 1
    assert not proxy.asked


async def test_nobody_there() -> None:
    """A refused connection is said in one line, for requests and for sockets."""
    async with open_peer(b"") as peer:
        url = peer.url
    async with Client(url, TOKEN) as client:
        with trio.fail_after(LIMIT), pytest.raises(ServerUnreachable, match=url):
            await client.jobs()
        with trio.fail_after(LIMIT), pytest.raises(ServerUnreachable, match=url):
            async with client.watch_overview():
                pass


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing costs the deadline, for requests and for sockets."""
    monkeypatch.setattr(watch_module, "CONNECT_DEADLINE", 0.05)
    async with open_peer(b"") as peer, Client(peer.url, TOKEN, deadline=0.05) as client:
        with pytest.raises(ServerUnreachable, match=r"nothing in 0\.05 s"):
            await client.jobs()
        with pytest.raises(ServerUnreachable, match=r"no handshake in 0\.05 s"):
            async with client.watch_overview():
                pass


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:5000", "ftp://a/", "http://", "http://a:b/", "http://a:0", "http://u:p@a"],
)
def test_bad_address(url: str) -> None:
    """What is no server's address is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match="url: expected http://host:port"):
        Client(url, TOKEN)


@pytest.mark.parametrize("token", ["", "a\nb", "a\r\nHost: b"])
def test_bad_token(token: str) -> None:
    """A token that would break a header is refused, and not shown."""
    with pytest.raises(ConfigurationError, match=r"^token: expected one line"):
        Client("http://127.0.0.1:1", token)


def test_repr_hides_the_token() -> None:
    """A client in a traceback or a log line shows where it goes, not with what."""
    assert repr(Client("http://127.0.0.1:1", TOKEN)) == "<Client http://127.0.0.1:1>"


@pytest.mark.parametrize("job_id", ["", ".", ".."])
async def test_impossible_ids(job_id: str) -> None:
    """An id that would be another path is an unknown job, and nobody is asked."""
    async with Client("http://127.0.0.1:1", TOKEN) as client:
        with pytest.raises(RequestRefused, match="job_not_found"):
            await client.delete(job_id)


async def test_watch() -> None:
    """A socket is a stream of (event, payload); a normal close ends it."""
    messages = [
        event("update", job_id=None, reason="initial_sync"),
        event("update", **JOB),
        event("progress", job_id="j1", percent=7.5, stage="downloading", unknown=1),
        event("log", job_id="j1", message="hello"),
    ]
    async with (
        open_socket_peer(saying(messages)) as (client, requests),
        client.watch_job("j1") as watch,
    ):
        got = [message async for message in watch]
    assert [name for name, _ in got] == ["update", "update", "progress", "log"]
    assert [message.job and message.job.status for message in got] == [None, "running", None, None]
    assert got[2].progress is not None
    assert got[2].progress.percent == 7.5
    assert got[3].progress is None
    path, headers = requests[0]
    assert path == "/ws/jobs/j1"
    assert headers[b"authorization"] == b"Bearer " + TOKEN.encode()


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [(1001, "shutting down", "1001 shutting down"), (1013, "", "1013 no reason")],
)
async def test_watch_ended(code: int, reason: str, words: str) -> None:
    """Another close code is an error that names it; what came before is not lost."""
    script = saying([event("log")], code, reason)
    async with open_socket_peer(script) as (client, _), client.watch_overview() as watch:
        assert await anext(watch) == Message("log", {})
        with pytest.raises(WatchEnded, match=words) as got:
            await anext(watch)
    assert got.value.close_code == code


async def test_watch_cut() -> None:
    """A connection that is cut without a word ends the watch with 1006."""

    async def cut(socket: trio_websocket.WebSocketConnection) -> None:
        await socket._stream.aclose()  # there is no public way to be this rude

    async with open_socket_peer(cut) as (client, _), client.watch_overview() as watch:
        with pytest.raises(WatchEnded, match="1006"):
            await anext(watch)


@pytest.mark.parametrize("text", ["", "[]", "{}", b"\xff", '{"event": 1, "payload": {}}'])
async def test_watch_nonsense(text: str | bytes) -> None:
    """A message that is none of ours is an error, not a surprise later."""
    async with open_socket_peer(saying([text])) as (client, _), client.watch_overview() as watch:
        with pytest.raises(UnexpectedAnswer, match="a message"):
            await anext(watch)


def test_message_of_wrong_types() -> None:
    """A payload that breaks the contract is noticed where it is read."""
    with pytest.raises(UnexpectedAnswer, match="an event"):
        _ = Message("update", {"job_id": 5}).job
    with pytest.raises(UnexpectedAnswer, match="an event"):
        _ = Message("progress", {"percent": "much"}).progress


async def test_watch_refused() -> None:
    """A refused handshake is a refusal like any other, with the server's code."""
    body = {"error": "token_missing_or_invalid"}
    async with open_peer(http(403, body)) as peer, Client(peer.url, TOKEN) as client:
        with pytest.raises(RequestRefused, match=r"^token_missing_or_invalid \(403\)$"):
            async with client.watch_overview():
                pass


async def test_silence_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has nothing to say is pinged, and waited for."""
    monkeypatch.setattr(watch_module, "SILENCE", 0.01)
    go = trio.Event()

    async def script(socket: trio_websocket.WebSocketConnection) -> None:
        await go.wait()
        await socket.send_message(event("log"))

    async def later() -> None:
        await trio.sleep(0.05)
        go.set()

    async with (
        open_socket_peer(script) as (client, _),
        client.watch_overview() as watch,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(later)
        assert (await anext(watch)).event == "log"


async def test_no_pong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not even answer a ping is given up."""
    monkeypatch.setattr(watch_module, "SILENCE", 0.01)
    monkeypatch.setattr(watch_module, "PONG_DEADLINE", 0.05)

    async def deaf(socket: trio_websocket.WebSocketConnection) -> None:
        socket._reader_running = False  # a peer whose reader hangs
        await trio.sleep_forever()

    async with open_socket_peer(deaf) as (client, _), client.watch_overview() as watch:
        with pytest.raises(WatchEnded, match="no answer to a ping"):
            await anext(watch)


async def test_leaving_a_peer_that_never_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving a watch takes the closing deadline at most, whatever the server does."""
    monkeypatch.setattr(watch_module, "CLOSE_DEADLINE", 0.05)

    async def deaf(socket: trio_websocket.WebSocketConnection) -> None:
        await trio.sleep_forever()

    async with open_socket_peer(deaf) as (client, _):
        with trio.move_on_after(0.05) as scope:
            async with client.watch_overview() as watch:
                await anext(watch)
        assert scope.cancelled_caught


async def test_errors_of_the_block_come_out_bare() -> None:
    """An error raised while watching is not wrapped in a group."""
    async with open_socket_peer(saying([])) as (client, _):
        with pytest.raises(KeyError, match="mine"):
            async with client.watch_overview():
                raise KeyError("mine")


async def test_follow() -> None:
    """Following ends with the job: everything it said was handed over, then it is asked for."""
    messages = [
        event("update", **JOB),
        event("update", **JOB | {"status": "deleted"}),
        event("log"),
    ]
    taken: list[Message] = []
    async with open_socket_peer(saying(messages)) as (client, _):
        assert await client.follow("j1", taken.append) is None
    assert [message.payload["status"] for message in taken] == ["running", "deleted"]


async def test_follow_starts_over_when_too_slow() -> None:
    """A socket closed for slowness is opened again; the present is what counts."""
    attempts = 0

    async def script(socket: trio_websocket.WebSocketConnection) -> None:
        nonlocal attempts
        attempts += 1
        await (saying([], 1013) if attempts == 1 else saying([event("error", job_id="j1")]))(socket)

    async with open_socket_peer(script) as (client, _):
        assert await client.follow("j1") is None
    assert attempts == 2


async def test_follow_to_the_end_of_a_server() -> None:
    """A server that stops ends the following with its close code."""
    async with open_socket_peer(saying([], 1001)) as (client, _):
        with pytest.raises(WatchEnded, match="1001"):
            await client.follow("j1")
