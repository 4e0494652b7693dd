"""Leaving the server: told, ended, reset; in bounded time whatever peers and handlers do."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import pytest
import trio
from hypercorn.utils import LifespanFailureError

from tests.support.net_peers import CALM, Listener, dial, get, head, quart_origin, serving
from vidra_trio.net.deadlines import Deadlines
from vidra_trio.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

    from tests.support.net_peers import Running

BRISK = Deadlines(write=5, close=0.3, grace=0.5)


async def stay(server: Running, seen: list[int | None]) -> None:
    """A subscriber that stays until it is told to go."""
    async with server.websocket("/feed") as peer:
        seen.append(await peer.farewell())


@contextlib.asynccontextmanager
async def stuck(server: Running) -> AsyncIterator[Listener]:
    """A subscriber that never reads."""
    async with server.websocket("/feed", receive_buffer=4096) as peer:
        yield peer


@pytest.mark.slow
async def test_two_stuck_peers_do_not_hold_the_shutdown() -> None:
    """With two peers that never read, a live one sees 1001 and the end comes within the grace."""
    origin = quart_origin()
    seen: list[int | None] = []
    async with contextlib.AsyncExitStack() as peers, trio.open_nursery() as clients:
        async with serving(BRISK, origin=origin, drain=origin.drain) as server:
            deaf = [await peers.enter_async_context(stuck(server)) for _ in range(2)]
            await origin.wait_feeds(2)
            for connection in origin.connections:
                clients.start_soon(connection.send_frames, text_frame(b"x" * 8_000_000))
            clients.start_soon(stay, server, seen)
            await origin.wait_feeds(3)
            began = trio.current_time()
        assert trio.current_time() - began < BRISK.grace + 1
        for peer in deaf:
            assert await peer.was_reset()
    assert seen == [1001]


async def test_a_cancelled_server_still_says_goodbye() -> None:
    """Cancelling the block around the server is a shutdown like any other."""
    origin = quart_origin()
    seen: list[int | None] = []
    async with trio.open_nursery() as clients:
        with trio.CancelScope() as scope:
            async with serving(CALM, origin=origin, drain=origin.drain) as server:
                clients.start_soon(stay, server, seen)
                await origin.wait_feeds(1)
                scope.cancel()
                await trio.sleep_forever()
    assert seen == [1001]


@pytest.mark.parametrize("late", [False, True])
async def test_a_server_cancelled_while_it_starts_does_not_start(late: bool) -> None:
    """A cancellation before the application is up, or in that very moment, ends everything."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        if not late:
            outer.cancel()
        await send({"type": "lifespan.startup.complete"})
        outer.cancel()
        await trio.sleep_forever()

    with trio.CancelScope() as outer:
        async with serving(app=app):
            pytest.fail("served")
    assert outer.cancelled_caught


async def test_what_is_under_way_may_end() -> None:
    """A request that is being handled when the server stops still gets its answer."""
    origin = quart_origin()
    answers: list[bytes] = []

    async def ask(server: Running) -> None:
        async with server.raw() as peer:
            await peer.say(get("/slow"))
            answers.append(await peer.rest())

    async def let_go() -> None:
        origin.go.set()

    async with (
        trio.open_nursery() as clients,
        serving(CALM, origin=origin, drain=let_go) as server,
    ):
        clients.start_soon(ask, server)
        await origin.joined.wait()
    assert answers[0].endswith(b"hello")


async def test_idle_connections_close_at_once() -> None:
    """Keep-alive connections and silent ones do not use up the grace."""
    async with contextlib.AsyncExitStack() as peers:
        async with serving(Deadlines(close=2)) as server:
            idle = await peers.enter_async_context(server.raw())
            await peers.enter_async_context(server.raw())
            await idle.ask(get())
            began = trio.current_time()
        assert trio.current_time() - began < 0.5


@pytest.mark.slow
async def test_a_handler_that_does_not_end_is_cut_after_the_grace() -> None:
    """Neither a handler nor a stalled body holds the shutdown longer than the grace."""
    origin = quart_origin()
    async with contextlib.AsyncExitStack() as peers:
        async with serving(BRISK, origin=origin) as server:
            waiting = await peers.enter_async_context(server.raw())
            stalled = await peers.enter_async_context(server.raw())
            await waiting.say(get("/slow"))
            await stalled.say(head("POST", "/echo", "Content-Length: 9"))
            await origin.joined.wait()
            began = trio.current_time()
        assert BRISK.grace * 0.9 < trio.current_time() - began < BRISK.grace + 1
        assert origin.left.is_set()


async def test_a_drain_that_fails_does_not_leave_connections_behind() -> None:
    """The error gets out, after everybody was seen out."""
    origin = quart_origin()

    async def drain() -> None:
        raise LookupError

    async def serve_and_fail(peers: contextlib.AsyncExitStack) -> None:
        async with serving(BRISK, origin=origin, drain=drain) as server:
            left.append(await peers.enter_async_context(stuck(server)))
            await origin.wait_feeds(1)

    left: list[Listener] = []
    async with contextlib.AsyncExitStack() as peers:
        with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
            await serve_and_fail(peers)
        assert await left[0].was_reset()


async def test_after_the_end_nobody_listens() -> None:
    """The port is free again when the block has been left."""
    async with serving() as server:
        assert await server.works()
    with pytest.raises(OSError, match="refused"):
        await dial(server.port)


async def test_an_application_that_cannot_start_is_an_error() -> None:
    """A failed lifespan start-up gets out of `open_server`; nothing is served."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    async def serve() -> None:
        async with serving(app=app):
            pytest.fail("served")

    with pytest.RaisesGroup(LifespanFailureError, flatten_subgroups=True):
        await serve()


async def test_an_application_without_a_lifespan_is_served() -> None:
    """Raising or returning at once on `lifespan` is an application's right."""

    async def raises(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": False})

    async def returns(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "lifespan":
            await raises(scope, receive, send)

    for app in (raises, returns):
        async with serving(app=app) as server:
            assert await server.works()


async def test_an_application_that_is_slow_to_stop_is_left_behind(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own shutdown has a deadline too; missing it is a line in the log."""
    monkeypatch.setattr("vidra_trio.net.serve.SHUTDOWN_SECONDS", 0.1)

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await trio.sleep_forever()

    with caplog.at_level(logging.WARNING):
        async with serving(app=app):
            began = trio.current_time()
        assert trio.current_time() - began < 2
    assert "lifespan is late" in caplog.text
