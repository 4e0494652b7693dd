"""The sockets: refused before they open, told what is, then what happens, then goodbye."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.web import (
    AUTH,
    TOKEN,
    FarEnd,
    SocketClosed,
    SocketRefused,
    Web,
    open_socket,
    open_web,
)
from vidra_trio.engine.scripted import ScriptedEngine, download
from vidra_trio.web.app import MAX_SOCKETS, drain
from vidra_trio.wire.frames import CONNECTION_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATHS = ("/ws/overview", "/ws/jobs/x", "/ws/downloads")


@asynccontextmanager
async def connected(web: Web, path: str, **more: Any) -> AsyncIterator[FarEnd]:  # noqa: ANN401
    """Open a socket with the token."""
    async with open_socket(web.app, path, headers=AUTH.items(), **more) as end:
        yield end


async def refusal(web: Web, path: str, **more: Any) -> tuple[int, str]:  # noqa: ANN401
    """Connect, be refused, and return how."""
    with pytest.raises(SocketRefused) as refused:
        async with open_socket(web.app, path, **more):
            pass
    return refused.value.reply.status, refused.value.reply.error


def slow() -> ScriptedEngine:
    """Return an engine whose downloads take a minute."""
    return ScriptedEngine(lambda spec: (download()[0], 60, download()[1]))


# -- refused


@pytest.mark.parametrize("path", PATHS)
async def test_refusals_before_the_handshake(path: str) -> None:
    """Answered with a status and a JSON body, never accepted."""
    async with open_web() as web:
        good = list(AUTH.items())
        told = [
            await refusal(web, path),
            await refusal(web, f"{path}?token=wrong", headers=good),
            await refusal(web, path, headers=[*good, *good]),
            await refusal(web, path, headers=[*good, ("Origin", "http://evil.example")]),
            await refusal(web, path, headers=[*good, ("Origin", "null")]),
            await refusal(web, path, headers=good, host="evil.example"),
            await refusal(web, f"{path}/nope/x", headers=good),
        ]
        assert told == [
            (403, "token_missing_or_invalid"),
            (403, "token_missing_or_invalid"),
            (400, "duplicate_header"),
            (403, "origin_not_allowed"),
            (403, "origin_not_allowed"),
            (421, "host_not_allowed"),
            (404, "not_found"),
        ]


async def test_a_refusal_carries_what_every_answer_carries() -> None:
    """Its headers are those of any answer."""
    async with open_web() as web:
        with pytest.raises(SocketRefused) as refused:
            async with open_socket(web.app, "/ws/overview"):
                pass
        headers = refused.value.reply.headers
        assert headers["cache-control"] == "no-store"
        assert headers["content-length"] == str(len(refused.value.reply.body))


async def test_a_server_that_cannot_answer_a_handshake_closes_it() -> None:
    """Which such servers turn into a 403."""
    async with open_web() as web:
        with pytest.raises(SocketClosed) as closed:
            async with open_socket(web.app, "/ws/overview", scope={"extensions": None}):
                pass
        assert closed.value.code == 1008


async def test_no_socket_opens_during_shutdown() -> None:
    """503 with a code."""
    async with open_web() as web:
        web.context.closing.set()
        told = await refusal(web, "/ws/overview", headers=AUTH.items())
        assert told == (503, "shutting_down")


async def test_sockets_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 above the limit; one that closes makes room."""
    assert MAX_SOCKETS >= 1024
    monkeypatch.setattr("vidra_trio.web.gate.MAX_SOCKETS", 1)
    async with open_web() as web:
        async with connected(web, "/ws/overview"):
            told = await refusal(web, "/ws/overview", headers=AUTH.items())
            assert told == (503, "too_many_sockets")
        async with connected(web, "/ws/overview"):
            pass


async def test_a_defect_before_the_handshake(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 that says nothing."""

    def breaks() -> None:
        raise LookupError("a secret of the house")

    monkeypatch.setattr("vidra_trio.web.sockets._current", breaks)
    async with open_web() as web:
        with caplog.at_level(logging.CRITICAL, "vidra_trio"):
            told = await refusal(web, "/ws/overview", headers=AUTH.items())
        assert told == (500, "internal_error")


@pytest.mark.parametrize("query", [f"token={TOKEN}", f"a=b&token=+{TOKEN}+"])
async def test_the_query_token_opens_and_is_taken_out(query: str) -> None:
    """Whoever logs the scope later finds no token."""
    seen: dict[str, Any] = {"state": {}}
    async with open_web() as web:
        async with open_socket(web.app, f"/ws/overview?{query}", scope=seen) as end:
            assert (await end.next())["payload"]["reason"] == "initial_sync"
        assert end.scope is not None
        assert TOKEN not in repr(end.scope)


# -- rooms


async def test_the_overview_tells_every_jobs_story(autojump_clock: MockClock) -> None:
    """First the call to resynchronise, then updates and counts in their order."""
    async with open_web() as web, connected(web, "/ws/overview") as end:
        first = await end.next()
        assert first["event"] == "update"
        assert first["payload"]["job_id"] is None
        assert first["payload"]["reason"] == "initial_sync"
        job_id = await web.create()
        await web.supervisor.wait_settled(job_id)
        reasons = []
        while "completed" not in reasons:
            message = await end.next()
            assert message["event"] in {"update", "overview"}
            if message["event"] == "update":
                assert message["payload"]["job_id"] == job_id
                assert not {"logs", "options"} & set(message["payload"])
                reasons.append(message["payload"]["reason"])
        assert reasons[0] == "created"
        assert reasons[-1] == "completed"


async def test_a_jobs_socket_starts_with_how_it_stands(autojump_clock: MockClock) -> None:
    """Its state, its progress, then everything that happens, in order."""
    async with open_web(engine=slow()) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        async with connected(web, f"/ws/jobs/{job_id}") as end:
            stands, progress = await end.next(), await end.next()
            assert stands["payload"]["status"] == "running"
            assert stands["payload"]["is_terminal"] is False
            assert progress["event"] == "progress"
            assert progress["payload"]["reason"] == "initial_sync"
            await web.supervisor.wait_settled(job_id)
            told = []
            while ("update", "completed") not in told:
                message = await end.next()
                assert message["payload"]["job_id"] == job_id
                told.append((message["event"], message["payload"].get("status")))
            assert {event for event, _ in told} == {"update", "progress", "log"}


async def test_a_jobs_socket_outlives_its_job(autojump_clock: MockClock) -> None:
    """The client closes it when it has read that the job is gone."""
    async with open_web() as web:
        job_id = await web.create()
        await web.supervisor.wait_settled(job_id)
        async with connected(web, f"/ws/jobs/{job_id}") as end:
            assert (await end.next())["payload"]["is_terminal"] is True
            assert (await end.next())["payload"]["percent"] == 100
            await web.ask("DELETE", f"/api/jobs/{job_id}")
            message = await end.next()
            while message["payload"].get("reason") != "deleted":
                message = await end.next()
            await wait_all_tasks_blocked()
            assert len(web.context.sockets) == 1


@pytest.mark.parametrize("job_id", ["does-not-exist", "a.b", "x%20y", "%F0%9F%92%A9"])
async def test_a_job_that_is_not_there(job_id: str) -> None:
    """Accepted, told so, and closed as if all were well: the old form."""
    async with open_web() as web, connected(web, f"/ws/jobs/{job_id}") as end:
        message = await end.next()
        assert message["event"] == "error"
        assert message["payload"]["message"] == "job not found"
        assert isinstance(message["payload"]["job_id"], str)
        assert await end.goodbye() == 1000


@pytest.mark.parametrize("path", ["/ws/overview", "/ws/jobs/{}"])
async def test_what_clients_send_means_nothing(autojump_clock: MockClock, path: str) -> None:
    """Text, binary, empty: the socket stays open and goes on."""
    async with open_web() as web:
        path = path.format(await web.create())
        async with connected(web, path) as end:
            await end.next()
            frames: list[str | bytes] = ["garbage {", "", b"\x00\xff", b"", *["x"] * 50]
            for frame in frames:
                await end.say(frame)
            await web.create()
            await wait_all_tasks_blocked()
            assert len(web.context.sockets) == 1


async def test_a_peer_that_leaves_is_forgotten() -> None:
    """No subscription and no socket is left of it."""
    async with open_web() as web:
        async with connected(web, "/ws/overview") as end:
            await end.next()
            assert web.context.hub.statistics().subscriptions == 1
        assert web.context.hub.statistics().subscriptions == 0
        assert len(web.context.sockets) == 0


# -- endings


async def test_a_shutdown_says_goodbye_to_all(autojump_clock: MockClock) -> None:
    """1001 on every socket; draining ends when the last one is closed."""
    async with open_web(engine=slow()) as web:
        job_id = await web.create()
        paths = ("/ws/overview", f"/ws/jobs/{job_id}", "/ws/downloads")
        codes: list[int] = []

        async def watch(path: str, opened: trio.Event) -> None:
            async with connected(web, path) as end:
                opened.set()
                codes.append(await end.goodbye())

        async with trio.open_nursery() as nursery:
            for path in paths:
                opened = trio.Event()
                nursery.start_soon(watch, path, opened)
                await opened.wait()
            await drain(web.context)
            assert len(web.context.sockets) == 0
        assert codes == [1001] * 3


async def test_draining_without_sockets_returns() -> None:
    """Nothing to wait for."""
    async with open_web() as web:
        await drain(web.context)
        assert web.context.closing.is_set()


async def test_a_hub_that_closed_first() -> None:
    """A socket that opens in that moment is told to go."""
    async with open_web() as web:
        web.context.hub.close()
        async with connected(web, "/ws/overview") as end:
            assert await end.goodbye() == 1001


async def test_a_reader_that_fell_too_far_behind() -> None:
    """1013: come back and resynchronise."""
    connection = Wire()
    async with open_web() as web:
        async with connected(
            web, "/ws/overview", scope={"state": {CONNECTION_KEY: connection}}
        ) as end:
            connection.stick()
            for _ in range(300):
                await web.create(options={"mine": "x" * 100}, metadata={"title": "x" * 2000})
            await wait_all_tasks_blocked()
            assert await end.goodbye() == 1013
        assert web.context.hub.statistics().subscriptions == 0


async def test_a_handler_that_crashes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """1011, not the 1000 of a success; what happened is in the log."""

    async def breaks(_self: object) -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("a defect")

    monkeypatch.setattr("vidra_trio.hub.Subscription.pump", breaks)
    async with open_web() as web, connected(web, "/ws/overview") as end:
        with caplog.at_level(logging.CRITICAL, "vidra_trio"):
            assert await end.goodbye() == 1011
        assert web.context.hub.statistics().subscriptions == 0


# -- the two ways to the far end


class Wire:
    """Stands for a connection that takes frames."""

    def __init__(self) -> None:
        self.frames = bytearray()
        self.behind = False
        self._free = trio.Event()
        self._free.set()

    def stick(self) -> None:
        """Take nothing from now on."""
        self._free = trio.Event()

    def loosen(self) -> None:
        """Take everything again."""
        self._free.set()

    def try_send(self, data: bytes) -> bool:
        """Take it, unless stuck."""
        if self._free.is_set():
            self.frames += data
        return self._free.is_set()

    async def send_frames(self, data: bytes) -> None:
        """Take it, once no longer stuck."""
        await self._free.wait()
        self.frames += data


async def test_a_connection_of_ours_takes_frames(autojump_clock: MockClock) -> None:
    """Past the framework, each message framed once and whole."""
    connection = Wire()
    async with open_web() as web:
        state = {"state": {CONNECTION_KEY: connection}}
        async with connected(web, "/ws/overview", scope=state) as end:
            await web.create()
            await wait_all_tasks_blocked()
            with pytest.raises(trio.WouldBlock):
                end.heard.receive_nowait()
        text = b'{"event":"update","payload":{"job_id":null,"reason":"initial_sync"'
        assert bytes(connection.frames[2 : 2 + len(text)]) == text
        assert connection.frames.count(b'{"event":"update"') >= 2


async def test_a_connection_that_is_behind_is_paid_later(autojump_clock: MockClock) -> None:
    """What it would not take at once, the pump writes."""
    connection = Wire()
    async with open_web() as web:
        state = {"state": {CONNECTION_KEY: connection}}
        async with connected(web, "/ws/overview", scope=state):
            connection.stick()
            await web.create()
            await wait_all_tasks_blocked()
            assert b'"reason":"created"' not in connection.frames
            connection.loosen()
            await wait_all_tasks_blocked()
            assert b'"reason":"created"' in connection.frames


async def test_a_peer_that_is_gone_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    """Sending to it neither waits nor complains."""
    async with open_web() as web, connected(web, "/ws/overview") as end:
        await end.next()
        end.heard.close()
        await web.create()
        await wait_all_tasks_blocked()
        assert "failed" not in caplog.text


# -- the downloads socket


async def test_the_downloads_socket_answers_in_its_own_form() -> None:
    """Its errors word for word, one answer per message, and it stays open."""
    async with open_web() as web, connected(web, "/ws/downloads") as end:
        asked: list[str | bytes] = [
            "not json",
            b"",
            b"\xff",
            "[]",
            '{"action":"nope","urls":["x"]}',
            '{"action":"descargar","urls":["http://h/x"]}',
        ]
        told = []
        for message in asked:
            await end.say(message)
            answer = await end.next()
            assert answer["event"] == "error"
            told.append(answer["payload"])
        assert told == [
            {"message": "invalid JSON payload"},
            {"message": "invalid JSON payload"},
            {"message": "invalid JSON payload"},
            {"message": "payload must be an object"},
            {"message": "invalid payload", "errors": {"action": ["unknown action 'nope'"]}},
            {"message": "this action is not available yet", "action": "descargar"},
        ]
