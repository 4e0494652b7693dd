"""HTTP peers that are slow, silent, gone or from another protocol."""

from __future__ import annotations

import logging
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.net_peers import UPGRADE, dial, get, head, quart_origin, serving
from vidra_trio.net.deadlines import Deadlines

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

    from tests.support.net_peers import Raw

HURRIED = Deadlines(head=0.2, body=0.2, close=0.2, grace=0.2)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


async def drip(peer: Raw, data: bytes) -> None:
    """One byte every 20 ms, until the other side has had enough."""
    for number in range(len(data)):
        await peer.say(data[number : number + 1])
        await trio.sleep(0.02)


@pytest.mark.parametrize("said", [b"", b"GET /hel"], ids=["nothing", "a part"])
async def test_a_head_that_does_not_come_is_not_waited_for(said: bytes) -> None:
    """A silent peer is closed after the head deadline, whatever part of a head it sent."""
    async with serving(HURRIED) as server, server.raw() as peer:
        began = trio.current_time()
        await peer.say(said)
        assert await peer.rest() == b""
        assert 0.15 < trio.current_time() - began < 3


async def test_a_dripping_head_does_not_renew_its_deadline() -> None:
    """Bytes that never become a request head buy no time."""
    async with serving(HURRIED) as server, server.raw() as peer, trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(drip, peer, get() * 50)
        assert await peer.rest() == b""
        assert trio.current_time() - began < 3
        nursery.cancel_scope.cancel()


async def test_a_stalled_body_is_answered_408_and_closed() -> None:
    """A body that stops coming ends with a JSON 408, also for a handler that waits for it."""
    async with serving(HURRIED) as server, server.raw() as peer:
        await peer.say(head("POST", "/echo", "Content-Length: 1000") + b"x")
        answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/json" in answer
    assert answer.endswith(b'{"error":"request_timeout"}')


async def test_a_refused_head_request_gets_no_body() -> None:
    """A refusal to HEAD says how long its body would be, and sends none."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        while scope["type"] == "http" and (await receive())["type"] != "http.disconnect":
            pass

    async with serving(HURRIED, app=app) as server, server.raw() as peer:
        await peer.say(head("HEAD", "/", "Content-Length: 9"))
        answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_dripping_body_is_answered_408_and_closed() -> None:
    """The deadline is for the whole body, not for the next byte."""
    async with serving(HURRIED) as server, server.raw() as peer, trio.open_nursery() as nursery:
        await peer.say(head("POST", "/echo", "Transfer-Encoding: chunked"))
        nursery.start_soon(drip, peer, b"1\r\nx\r\n" * 100)
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_slow_handler_is_not_cut() -> None:
    """While it is our turn none of the peer's deadlines runs."""
    origin = quart_origin()
    async with serving(HURRIED, origin=origin) as server, server.raw() as peer:
        await peer.say(head("POST", "/slow", "Content-Length: 1") + b"x")
        await trio.sleep(0.6)
        origin.go.set()
        assert b" 200 " in await peer.until(b"hello")


@pytest.mark.slow
async def test_a_stream_of_events_is_not_cut() -> None:
    """An answer that is being written, however slowly, outlives every deadline of the peer."""
    origin = quart_origin()
    async with serving(HURRIED, origin=origin) as server, server.raw() as peer:
        await peer.ask(get("/stream"), b"first\n")
        await trio.sleep(0.6)
        origin.go.set()
        assert await peer.until(b"last\n")


@pytest.mark.slow
async def test_a_long_answer_to_a_slow_reader_is_fine() -> None:
    """The write deadline bounds a stall, not the length of an answer."""
    deadlines = Deadlines(write=0.3)
    async with serving(deadlines) as server, server.raw(receive_buffer=16_384) as peer:
        await peer.say(get("/long", "Connection: close"))
        read = 0
        began = trio.current_time()
        while chunk := await peer.more():
            read += len(chunk)
            if read % 7 == 0 or trio.current_time() - began < 0.6:
                await trio.sleep(0.005)
        assert read > 4_000_000
        assert trio.current_time() - began > 0.6


async def test_half_closed_peers_get_their_answer() -> None:
    """A request followed by the end of the peer's sending side is answered."""
    async with serving() as server, server.raw() as peer:
        await peer.say(get())
        await peer.stream.send_eof()
        assert (await peer.rest()).endswith(b"hello")


async def test_a_vanished_peers_handler_is_told() -> None:
    """A handler whose peer has left is cancelled after the time an answer may still take."""
    origin = quart_origin()
    async with serving(HURRIED, origin=origin) as server:
        async with server.raw() as peer:
            await peer.say(get("/slow"))
            await origin.joined.wait()
        await origin.left.wait()


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Fifty requests in one write get fifty answers."""
    async with serving() as server, server.raw() as peer:
        await peer.say(get() * 49 + get("/hello", "Connection: close"))
        assert (await peer.rest()).count(b"hello") == 50


@pytest.mark.slow
async def test_a_peer_that_pipelines_and_stops_reading_leaves_nothing_behind() -> None:
    """A reader parked behind an answer that nobody takes goes with the reset."""
    async with serving(Deadlines(write=0.2, grace=0.1)) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        async with server.raw(receive_buffer=4096) as peer:
            await peer.say(get("/long") * 3)
            await trio.sleep(0.4)
            assert await peer.was_reset()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert trio.lowlevel.current_statistics().tasks_living <= before


@pytest.mark.slow
async def test_a_reader_parked_behind_an_endless_answer_goes_with_the_reset() -> None:
    """The next request waits for an answer that never ends; the write deadline ends both."""
    left = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            try:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                body = b"x" * 8_000_000
                await send({"type": "http.response.body", "body": body, "more_body": True})
                await trio.sleep_forever()
            finally:
                left.set()

    deadlines = Deadlines(write=0.2, grace=0.1)
    async with serving(deadlines, app=app) as server, server.raw(receive_buffer=4096) as peer:
        await peer.say(get() * 2)
        await left.wait()
        assert await peer.was_reset()


async def test_an_application_that_stays_without_its_peer_is_cancelled() -> None:
    """It has the grace to leave by itself; then it is made to, and the server goes on."""
    joined, left = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            joined.set()
            try:
                await trio.sleep_forever()
            finally:
                left.set()

    async with serving(Deadlines(close=0.1, grace=0.1), app=app) as server:
        async with server.raw() as peer:
            await peer.say(get())
            await joined.wait()
        await left.wait()


async def test_expect_100_continue_is_continued() -> None:
    """A client that asks before it sends its body is told to go on."""
    async with serving() as server, server.raw() as peer:
        await peer.say(head("POST", "/echo", "Content-Length: 2", "Expect: 100-continue"))
        assert b" 100 " in await peer.until(b"\r\n\r\n")
        assert b'"size":2' in (await peer.ask(b"xx", b"}")).replace(b" ", b"")


async def test_http_2_with_prior_knowledge_is_refused() -> None:
    """A cleartext HTTP/2 preface gets a plain 505."""
    async with serving() as server, server.raw() as peer:
        await peer.say(PREFACE)
        answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert answer.endswith(b'{"error":"http_version_not_supported"}')


async def test_an_h2c_upgrade_is_ignored() -> None:
    """The request is answered as if the upgrade had not been asked for."""
    async with serving() as server, server.raw() as peer:
        lines = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        assert (await peer.ask(get("/hello", *lines))).startswith(b"HTTP/1.1 200 ")


async def test_answers_do_not_name_the_server() -> None:
    """There is a Date and no Server header."""
    async with serving() as server, server.raw() as peer:
        answer = (await peer.ask(get())).lower()
    assert b"\r\ndate: " in answer
    assert b"\r\nserver: " not in answer


@pytest.mark.slow
async def test_refusals_below_the_application_are_json() -> None:
    """A broken head and a broken handshake get an error code like every other refusal."""
    async with serving() as server:
        async with server.raw() as peer:
            await peer.say(b"nonsense\r\n\r\n")
            broken_head = await peer.rest()
        async with server.raw() as peer:
            await peer.say(b"GET /ws HTTP/1.1\r\n" + UPGRADE.replace(b": 13", b": 12") + b"\r\n")
            broken_handshake = await peer.rest()
    for answer in (broken_head, broken_handshake):
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b'{"error":"bad_request"}')


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_crashed_application_answers_500(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A 500 with a code, for HEAD without its body; the log says where, not what."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        raise ValueError("hush")

    async with serving(app=app) as server, server.raw() as peer:
        await peer.say(head(method, "/"))
        answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b'{"error":"internal_error"}') is (method == "GET")
    assert "ValueError" in caplog.text
    assert "hush" not in caplog.text


async def test_a_late_answer_after_408_goes_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """An application that answers although it was overtaken by 408 disturbs nobody."""
    told = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late", "more_body": False})
        told.set()

    async def only_http(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            await app(scope, receive, send)

    async with serving(HURRIED, app=only_http) as server, server.raw() as peer:
        await peer.say(head("POST", "/", "Content-Length: 10"))
        answer = await peer.rest()
        await told.wait()
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert caplog.text == ""


@pytest.mark.slow
async def test_an_application_slow_to_take_the_body_costs_the_peer_nothing() -> None:
    """Body time is what the peer lets us wait, not what the application lets the peer wait."""
    slept = trio.Event()

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            return
        await trio.sleep(0.5)
        slept.set()
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": False})

    body = b"".join(b"1\r\nx\r\n" for _ in range(100))
    async with serving(HURRIED, app=app) as server, server.raw() as peer:
        await peer.say(head("POST", "/", "Transfer-Encoding: chunked") + body)
        await slept.wait()
        assert b" 200 " in await peer.ask(b"0\r\n\r\n")


async def test_an_application_that_ignores_the_body_leaves_no_reader_behind() -> None:
    """An early answer with the queue to the application full still ends the connection."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            return
        await trio.sleep(0.1)
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": False})

    async with serving(Deadlines(close=0.2, grace=0.2), app=app) as server, server.raw() as peer:
        await peer.say(head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 100)
        assert b"hello" in await peer.rest()


async def test_a_connection_is_reused_after_a_body_that_nobody_took() -> None:
    """The application answers without reading; what was on its way to it holds nobody."""

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "http":
            await trio.testing.wait_all_tasks_blocked(0.02)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello", "more_body": False})

    async with serving(app=app) as server, server.raw() as peer:
        request = head("POST", "/", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 10
        for _ in range(3):
            await peer.ask(request + b"0\r\n\r\n", b"hello\r\n0\r\n\r\n")


async def test_300_connections_opened_and_reset_are_borne_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Peers that connect and reset without a byte cost nothing and are not worth a line."""
    with caplog.at_level(logging.DEBUG):
        async with serving() as server:
            for _ in range(300):
                stream = await dial(server.port)
                stream.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                stream.socket.close()
            assert await server.works()
    assert [record for record in caplog.records if record.name.startswith("vidra_trio")] == []


async def test_connections_above_the_limit_are_closed_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit is a limit, says so once, and ends when somebody leaves."""
    async with serving(max_connections=2) as server, server.raw() as one, server.raw() as two:
        await one.ask(get())
        await two.ask(get())
        for _ in range(3):
            async with server.raw() as three:
                answer = await three.rest()
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert answer.endswith(b'{"error":"too_many_connections"}')
        await one.say(get("/hello", "Connection: close"))
        await one.rest()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert await server.works()
    assert caplog.text.count("2 connections are open") == 1


async def test_tls_is_refused_with_a_clear_message(caplog: pytest.LogCaptureFixture) -> None:
    """A client that tries TLS is refused at once, and the log says what to do."""
    async with serving() as server:
        async with server.raw() as peer:
            await peer.say(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64))
            assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")
        assert "this port is plain http" in caplog.text
        async with server.raw() as other:
            await other.say(get("/hello", "Connection: close"))
            assert (await other.rest()).startswith(b"HTTP/1.1 200 ")
