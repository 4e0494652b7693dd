"""The nine facts about the stack that our own connection and accept loop answer."""

from __future__ import annotations

import importlib.metadata
import logging
import sys

import pytest
import trio
from wsproto.events import TextMessage

from tests.support.net_peers import UPGRADE, Running, get, head, numbered, quart_origin, serving
from vidra_trio.net.deadlines import Deadlines
from vidra_trio.wire.frames import text_frame

WS_HEAD = b"GET /ws HTTP/1.1\r\n" + UPGRADE

HOSTILE = {
    "a byte after the upgrade": WS_HEAD + b"\r\n" + b"x",
    "many bytes after the upgrade": WS_HEAD + b"\r\n" + b"x" * 30_000,
    "a non-ASCII sub-protocol": WS_HEAD + b"Sec-WebSocket-Protocol: caf\xe9\r\n\r\n",
    "a non-ASCII extension": WS_HEAD + b"Sec-WebSocket-Extensions: caf\xe9\r\n\r\n",
    "a Host that is not UTF-8": b"GET /hello HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "an upgrade without a key": b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "two Connection lines": WS_HEAD + b"Connection: \xff\r\n\r\n",
    "no request at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
    "a head without an end": b"GET /hello HTTP/1.1\r\nX: " + b"a" * 200_000,
    "a negative length": head("POST", "/echo", "Content-Length: -1"),
    "two lengths": head("POST", "/echo", "Content-Length: 1", "Content-Length: 2") + b"xx",
    "a chunk of a strange size": head("POST", "/echo", "Transfer-Encoding: chunked") + b"zz\r\n",
    "bytes behind a close": get("/hello", "Connection: close") + b"garbage" * 100,
    "nothing": b"\r\n\r\n\r\n",
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
async def test_fact_1_no_single_request_ends_the_server(said: bytes) -> None:
    """Whatever one peer sends, its neighbour's socket stays open and the next peer is served."""
    async with (
        serving(Deadlines(head=0.5, body=0.5, close=0.1, grace=0.2)) as server,
        server.websocket() as neighbour,
    ):
        async with server.raw() as peer:
            await peer.say(said)
            await peer.stream.send_eof()
            await peer.rest()
        assert await server.works()
        await neighbour.tell(TextMessage(data="still here"))
        assert await neighbour.message() == "still here"


async def test_fact_1_what_broke_a_connection_is_logged_without_what_the_peer_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names the error and the place, in one line, and quotes nothing of the request."""
    said = b"GET /ws?token=hush HTTP/1.1\r\n" + UPGRADE
    with caplog.at_level(logging.DEBUG):
        async with serving() as server, server.raw() as peer:
            await peer.say(said + b"Sec-WebSocket-Protocol: hush\xe9\r\n\r\n")
            answer = await peer.rest()
    assert b" 400 " in answer
    assert b'{"error":"bad_request"}' in answer
    lines = [record.getMessage() for record in caplog.records if record.name == "vidra_trio.net"]
    assert len(lines) == 1
    assert "UnicodeDecodeError" in lines[0]
    assert "hush" not in caplog.text


@pytest.mark.slow
async def test_fact_2_a_peer_that_never_reads_is_reset_within_the_write_deadline() -> None:
    """A stuck subscriber is reset by its write deadline; the others go on and miss nothing."""
    origin = quart_origin()
    async with (
        serving(Deadlines(write=0.3, grace=0.3), origin=origin) as server,
        server.websocket("/feed", receive_buffer=4096) as stuck,
    ):
        await origin.joined.wait()
        async with server.websocket() as healthy:
            began = trio.current_time()
            await origin.connections[0].send_frames(text_frame(b"x" * 8_000_000))
            assert 0.25 < trio.current_time() - began < 3
            await healthy.tell(TextMessage(data="unharmed"))
            assert await healthy.message() == "unharmed"
        await origin.left.wait()
        assert await stuck.was_reset()


async def test_fact_2_others_are_served_while_one_write_is_stuck() -> None:
    """A blocked write holds nobody but its own connection."""
    origin = quart_origin()
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed", receive_buffer=4096),
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        connection = origin.connections[0]
        nursery.start_soon(connection.send_frames, text_frame(b"x" * 8_000_000))
        assert await server.works()
        connection.abort()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_fact_3_connection_close_closes(version: str) -> None:
    """`Connection: close` and HTTP/1.0 end with the answer, not some time later."""
    async with serving() as server, server.raw() as peer:
        await peer.say(get("/hello", "Connection: close", version=version))
        assert (await peer.rest()).endswith(b"hello")


async def test_fact_3_http_1_0_without_a_word_about_it_closes() -> None:
    """HTTP/1.0 has no keep-alive by default."""
    async with serving() as server, server.raw() as peer:
        await peer.say(get(version="1.0"))
        assert (await peer.rest()).endswith(b"hello")


@pytest.mark.slow
async def test_fact_3_keep_alive_is_kept_and_an_idle_one_is_closed() -> None:
    """A connection is reused as long as requests come, and closed after the idle deadline."""
    async with serving(Deadlines(head=0.3)) as server, server.raw() as peer:
        for _ in range(3):
            assert b" 200 " in await peer.ask(get())
        began = trio.current_time()
        assert await peer.rest() == b""
        assert 0.2 < trio.current_time() - began < 3


async def test_fact_3_an_early_answer_reaches_a_peer_that_is_still_sending() -> None:
    """A refusal with the body unread arrives whole and ends at once, and nothing is reset."""
    body = b"x" * 2_000_000
    async with serving(Deadlines(close=5)) as server, server.raw() as peer:
        request = head("POST", "/refused", f"Content-Length: {len(body)}")
        began = trio.current_time()
        await peer.stream.send_all(request + body[:1000])
        answer = await peer.rest()
        assert trio.current_time() - began < 2
        await peer.stream.send_all(body[1000:])
        await peer.stream.send_eof()
        assert not await peer.was_reset()
    assert b" 401 " in answer
    assert answer.endswith(b"refused")


async def test_fact_4_a_handler_that_only_sends_ends_when_its_peer_is_gone() -> None:
    """`while True: await websocket.send(x)` neither wedges the process nor outlives the peer."""
    origin = quart_origin()
    async with serving(origin=origin) as server:
        async with server.websocket("/chatter") as peer:
            assert await peer.message() == "chatter"
        await origin.left.wait()
        assert await server.works()


async def test_fact_5_open_sockets_are_told_about_shutdown() -> None:
    """A live subscriber sees a Close frame with 1001, not a broken connection."""
    origin = quart_origin()
    closed: list[int | None] = []
    async with trio.open_nursery() as clients:
        async with serving(origin=origin, drain=origin.drain) as server:
            clients.start_soon(listen_to_the_end, server, closed)
            await origin.joined.wait()
            began = trio.current_time()
        assert trio.current_time() - began < 0.5
    assert closed == [1001]


async def listen_to_the_end(server: Running, closed: list[int | None]) -> None:
    """A subscriber that stays until it is told to go."""
    async with server.websocket("/feed") as peer:
        closed.append(await peer.farewell())


def test_fact_6_the_installed_pair_is_one_we_know() -> None:
    """quart and quart-trio come as a pair that fits this Python, on the Hypercorn we subclass."""
    quart, quart_trio, hypercorn = (
        importlib.metadata.version(name).rpartition(".")[0]
        for name in ("quart", "quart-trio", "hypercorn")
    )
    assert hypercorn == "0.18", "net/ subclasses Hypercorn: reread it before moving on"
    assert {"0.22": "0.12", "0.23": "0.13"}.get(quart) == quart_trio
    assert quart == "0.22" or sys.version_info >= (3, 13)


async def test_fact_7_the_applications_nursery_is_no_place_for_jobs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A crash in `app.nursery` ends that nursery only: it is logged, requests are served on."""
    origin = quart_origin()

    async def crash() -> None:
        raise RuntimeError("hush")

    async with serving(origin=origin) as server:
        origin.app.nursery.start_soon(crash)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await server.works()
    assert "Lifespan error" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "hush" not in caplog.text


async def test_fact_8_frames_are_written_without_waiting_for_the_scheduler() -> None:
    """One frame, encoded once, is with every subscriber before `try_send` returns."""
    origin = quart_origin()
    payloads = numbered(50, 300)
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed") as one,
        server.websocket("/feed") as two,
    ):
        await origin.wait_feeds(2)
        for payload in payloads:
            frame = text_frame(payload)
            assert all(connection.try_send(frame) for connection in origin.connections)
        for peer in (one, two):
            assert [await peer.message() for _ in payloads] == [p.decode() for p in payloads]


@pytest.mark.parametrize(
    "offer", [b"permessage-deflate", b"permessage-deflate; client_max_window_bits"]
)
async def test_fact_9_the_deflate_offer_is_not_accepted(offer: bytes) -> None:
    """A browser's offer of permessage-deflate is ignored, and messages flow uncompressed."""
    extra = b"Sec-WebSocket-Extensions: " + offer + b"\r\n"
    async with serving() as server, server.websocket("/ws", extra) as peer:
        assert b"sec-websocket-extensions" not in peer.answer.lower()
        await peer.tell(TextMessage(data="plain"))
        assert await peer.message() == "plain"
