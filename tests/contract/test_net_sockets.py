"""WebSocket peers: frames in order whatever the kernel takes, silence, floods, goodbyes."""

from __future__ import annotations

import pytest
import trio
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from tests.support.net_peers import (
    CALM,
    UPGRADE,
    Listener,
    Stingy,
    get,
    numbered,
    quart_origin,
    serving,
)
from vidra_trio.net.connection import Connection
from vidra_trio.net.deadlines import Deadlines
from vidra_trio.net.serve import MAX_MESSAGE
from vidra_trio.wire.frames import text_frame


async def publish(connection: Connection, payloads: list[bytes]) -> None:
    """What a hub does: write without waiting where possible, wait where not."""
    for payload in payloads:
        frame = text_frame(payload)
        while not connection.try_send(frame):
            await connection.send_frames()
    await connection.send_frames()


async def flood(peer: Listener) -> None:
    """A message without an end, as fast as it goes."""
    while True:
        chunk = BytesMessage(data=b"x" * 60_000, message_finished=False)
        await peer.stream.send_all(peer.referee.send(chunk))


@pytest.mark.parametrize("receive_buffer", [2048, 65536])
@pytest.mark.slow
async def test_frames_stay_whole_and_in_order_between_pings(receive_buffer: int) -> None:
    """Partial writes, pings, pongs and echoes share one socket without tearing each other."""
    origin = quart_origin()
    deadlines = Deadlines(write=5, ping=0.01, silence=5, grace=1)
    payloads = numbered(200, 30_000)
    async with (
        serving(deadlines, origin=origin) as server,
        server.websocket("/feed", receive_buffer=receive_buffer) as peer,
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections
        nursery.start_soon(publish, connection, payloads)
        for number, payload in enumerate(payloads):
            if number % 20 == 0:
                await trio.sleep(0.02)
            assert await peer.message() == payload.decode()
        assert peer.pings > 0


@pytest.mark.parametrize("seed", range(5))
async def test_frames_stay_whole_whatever_the_kernel_takes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers, pings and pongs on a socket that takes a few bytes at a time, if any."""
    origin = quart_origin()
    deadlines = Deadlines(write=5, ping=0.001, silence=5, grace=1)
    payloads = numbered(100, 100)
    async with (
        serving(deadlines, origin=origin) as server,
        server.websocket("/feed") as peer,
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections
        monkeypatch.setattr(connection, "_socket", Stingy(connection._socket, seed))
        refused = 0

        async def keep_trying() -> None:
            nonlocal refused
            for payload in payloads:
                while not connection.try_send(text_frame(b"B" + payload)):
                    refused += 1
                    await trio.lowlevel.checkpoint()
                    if connection.behind:
                        await connection.send_frames()
            await connection.send_frames()

        nursery.start_soon(publish, connection, [b"A" + payload for payload in payloads])
        nursery.start_soon(keep_trying)
        seen: list[bytes] = []
        while len(seen) < 2 * len(payloads):
            seen.append((await peer.message()).encode())
            if len(seen) % 20 == 0:
                await peer.tell(Ping(b"are you there"))
        for name in (b"A", b"B"):
            assert [got[1:] for got in seen if got[:1] == name] == payloads
        assert refused > 0
        assert peer.pings > 0
        assert peer.pongs > 0


async def test_direct_frames_and_the_applications_own_share_a_socket() -> None:
    """The tail of a direct write goes first in whatever is written next."""
    origin = quart_origin()
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed", receive_buffer=2048) as peer,
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections
        payload = b"a" * 3_000_000
        assert connection.try_send(text_frame(payload))
        assert connection.behind
        assert not connection.try_send(text_frame(b"not now"))
        nursery.start_soon(connection.send_frames, text_frame(b"b"))
        await trio.testing.wait_all_tasks_blocked()
        assert not connection.behind
        assert not connection.try_send(text_frame(b"a write is under way"))
        assert await peer.message() == payload.decode()
        assert await peer.message() == "b"


async def test_no_direct_frame_follows_a_close_frame() -> None:
    """Once the goodbye is said, neither way of writing takes another frame."""
    origin = quart_origin()
    async with serving(origin=origin) as server, server.websocket("/feed") as peer:
        await origin.joined.wait()
        (connection,) = origin.connections
        assert connection.try_send(text_frame(b"before"))
        origin.closing.set()
        await origin.left.wait()
        assert not connection.try_send(text_frame(b"after"))
        await connection.send_frames(text_frame(b"after"))
        assert await peer.message() == "before"
        assert await peer.farewell() == 1001
        assert await peer.event() is None


async def test_a_cancelled_goodbye_is_said_and_is_the_last_word() -> None:
    """A handler that closes while it is cancelled is heard, and no frame follows its Close."""
    origin = quart_origin()
    deadlines = Deadlines(close=0.2, grace=0.2)
    async with serving(deadlines, origin=origin) as server, server.websocket("/hasty") as peer:
        await origin.joined.wait()
        (connection,) = origin.connections
        assert connection.try_send(text_frame(b"before"))
        origin.closing.set()
        await origin.left.wait()
        assert not connection.try_send(text_frame(b"after"))
        await connection.send_frames(text_frame(b"after"))
        assert await peer.rest() == text_frame(b"before") + b"\x88\x02\x03\xe9"  # a close with 1001


async def test_a_close_frame_waits_for_the_frame_that_is_being_written() -> None:
    """A goodbye never lands in the middle of a frame, and is delivered after a stall."""
    origin = quart_origin()
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed", receive_buffer=2048) as peer,
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections
        nursery.start_soon(connection.send_frames, text_frame(b"a" * 3_000_000))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(connection.send_frames, text_frame(b"b"))
        await trio.testing.wait_all_tasks_blocked()
        origin.closing.set()
        assert len(await peer.message()) == 3_000_000
        assert await peer.farewell() == 1001


async def test_a_cancelled_write_does_not_tear_its_frame() -> None:
    """A caller that is cancelled in the middle of a frame leaves when the frame is whole."""
    origin = quart_origin()
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed", receive_buffer=2048) as peer,
        trio.open_nursery() as nursery,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections

        async def impatient() -> None:
            with trio.move_on_after(0.02) as scope:
                await connection.send_frames(text_frame(b"a" * 3_000_000))
            assert scope.cancelled_caught
            assert connection.try_send(text_frame(b"next"))

        nursery.start_soon(impatient)
        await trio.sleep(0.05)
        assert len(await peer.message()) == 3_000_000
        assert await peer.message() == "next"


@pytest.mark.slow
async def test_a_silent_socket_is_dropped_and_an_answering_one_is_not() -> None:
    """Pongs are signs of life; a peer that sends none for the silence deadline is gone."""
    deadlines = Deadlines(ping=0.1, silence=0.3, grace=0.3)
    origin = quart_origin()
    async with (
        serving(deadlines, origin=origin) as server,
        server.websocket("/feed") as alive,
        server.websocket("/feed") as silent,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(alive.event)
        assert await silent.was_reset()
        await origin.left.wait()
        await trio.sleep(0.3)
        assert origin.feeds == 1
        assert alive.pings >= 2
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_nobody_is_silent_before_the_accept() -> None:
    """A handler may think as long as it likes before it accepts."""
    origin = quart_origin()
    hurried = Deadlines(head=0.1, body=0.1, silence=0.1)
    async with serving(hurried, origin=origin) as server, server.raw() as peer:
        await peer.say(b"GET /thinks HTTP/1.1\r\n" + UPGRADE + b"\r\n")
        await origin.joined.wait()
        await trio.sleep(0.3)
        origin.go.set()
        assert b"hello" in await peer.until(b"hello")


async def test_a_message_as_large_as_allowed_is_taken() -> None:
    """64 KiB are fine."""
    async with serving() as server, server.websocket() as peer:
        await peer.tell(TextMessage(data="x" * MAX_MESSAGE))
        assert len(await peer.message()) == MAX_MESSAGE


async def test_a_message_above_the_limit_is_1009() -> None:
    """One byte more ends the socket with the code that says why."""
    async with serving() as server, server.websocket() as peer:
        await peer.say(peer.referee.send(BytesMessage(data=b"x" * (MAX_MESSAGE + 1))))
        assert await peer.farewell() == 1009
        assert await peer.event() is None


@pytest.mark.slow
async def test_a_peer_that_floods_after_1009_is_cut() -> None:
    """Who ignores our goodbye and sends on is reset after the close deadline."""
    deadlines = Deadlines(close=0.3, grace=0.3)
    async with serving(deadlines) as server, server.websocket() as peer:
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await flood(peer)
        assert trio.current_time() - began < 3
        assert await server.works()


async def test_a_peer_that_does_not_answer_our_goodbye_is_dropped() -> None:
    """A Close frame of ours is answered within the close deadline, or the peer is dropped."""
    origin = quart_origin()
    deadlines = Deadlines(close=0.2, grace=0.2)
    async with serving(deadlines, origin=origin) as server, server.websocket("/feed") as peer:
        await origin.joined.wait()
        origin.closing.set()
        began = trio.current_time()
        await peer.rest()
        assert trio.current_time() - began < 2


async def test_the_peers_own_goodbye_is_answered() -> None:
    """A client that closes gets its Close frame back, then the end."""
    origin = quart_origin()
    async with serving(origin=origin) as server, server.websocket("/feed") as peer:
        await peer.tell(CloseConnection(code=1000))
        assert await peer.farewell() == 1000
        await origin.left.wait()


@pytest.mark.parametrize("path", ["ws", "feed", "chatter"])
async def test_early_bytes_do_not_keep_a_refused_socket_open(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer that talks before the accept gets one 400, even when the accept is under way."""
    early = b"GET /%s HTTP/1.1\r\n" % path.encode() + UPGRADE + b"\r\n\x81\x80\0\0\0\0"
    async with serving(Deadlines(close=5, grace=0.2)) as server, server.raw() as peer:
        began = trio.current_time()
        await peer.say(early)
        answer = await peer.rest()
        assert trio.current_time() - began < 2
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"bad_request"}')
    assert caplog.text == ""


async def test_nothing_outlives_closed_sockets() -> None:
    """Twenty sockets that came and went leave no task behind, and no ping delays the end."""
    origin = quart_origin()
    async with serving(Deadlines(ping=20), origin=origin) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            async with server.websocket("/feed") as peer:
                await peer.tell(CloseConnection(code=1000))
                await peer.farewell()
        await origin.wait_feeds(0)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert trio.lowlevel.current_statistics().tasks_living <= before
        began = trio.current_time()
    assert trio.current_time() - began < 0.5


async def test_an_aborted_connection_takes_nothing_more() -> None:
    """After abort, once or twice, writes are refused or return, and the peer sees a reset."""
    origin = quart_origin()
    async with serving(origin=origin) as server, server.websocket("/feed") as peer:
        await origin.joined.wait()
        (connection,) = origin.connections
        connection.abort()
        connection.abort()
        assert not connection.try_send(text_frame(b"x"))
        await connection.send_frames(text_frame(b"x"))
        assert not connection.behind
        assert await peer.was_reset()
        await origin.left.wait()


async def test_try_send_to_a_peer_that_has_reset_is_refused() -> None:
    """The write that finds out is the last one."""
    origin = quart_origin()
    async with serving(origin=origin) as server:
        async with server.websocket("/feed"):
            await origin.joined.wait()
        (connection,) = origin.connections
        frame = text_frame(b"x" * 1000)
        for _ in range(1000):
            if not connection.try_send(frame):
                break
        assert not connection.try_send(frame)
        await origin.left.wait()


async def test_try_send_never_waits_for_a_full_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel takes nothing, nothing is taken and there is no tail."""

    class Full:
        def send(self, data: bytes) -> int:
            raise BlockingIOError

    origin = quart_origin()
    async with serving(origin=origin) as server, server.websocket("/feed") as peer:
        await origin.joined.wait()
        (connection,) = origin.connections
        with monkeypatch.context() as patch:
            patch.setattr(connection, "_socket", Full())
            assert not connection.try_send(text_frame(b"x"))
        assert not connection.behind
        assert connection.try_send(text_frame(b"y"))
        assert await peer.message() == "y"


async def test_an_end_in_the_middle_of_a_frame_is_a_reset() -> None:
    """A peer that broke the protocol while behind does not take half a frame for the end."""
    origin = quart_origin()
    async with (
        serving(origin=origin) as server,
        server.websocket("/feed", receive_buffer=2048) as peer,
    ):
        await origin.joined.wait()
        (connection,) = origin.connections
        assert connection.try_send(text_frame(b"x" * 3_000_000))
        assert connection.behind
        await peer.say(b"\xff\xff\xff\xff\xff\xff\xff\xff")
        await origin.left.wait()
        assert await peer.was_reset()


async def test_a_refusal_that_comes_too_late_only_closes() -> None:
    """No HTTP answer is written into an open WebSocket."""
    origin = quart_origin()
    async with serving(origin=origin) as server, server.websocket("/feed") as peer:
        await origin.joined.wait()
        (connection,) = origin.connections
        await connection.protocol.refuse(400)
        assert await peer.rest() == b""
        assert not connection.try_send(text_frame(b"x"))
        await origin.left.wait()


async def test_plain_http_takes_no_frames() -> None:
    """A connection without an open WebSocket refuses direct writes."""
    origin = quart_origin()
    async with serving(CALM, origin=origin) as server, server.websocket("/feed"):
        await origin.joined.wait()
        (connection,) = origin.connections
        async with server.raw() as peer:
            await peer.ask(get())
        assert connection.try_send(text_frame(b"only here"))
