"""The small parts of net/, one by one."""

from __future__ import annotations

import contextlib
import errno
import math
import resource
import socket
from typing import TYPE_CHECKING, cast

import pytest
import trio
from hypercorn.trio.worker_context import WorkerContext

from tests.support.net_peers import CALM
from vidra_trio.core.errors import ConfigurationError, PortBusy
from vidra_trio.net import listen as listening
from vidra_trio.net import reception
from vidra_trio.net.application import Inbox
from vidra_trio.net.errorlog import NetLogger, describe
from vidra_trio.net.http1 import refusal_body
from vidra_trio.net.listen import address_of, listen
from vidra_trio.net.patience import Lapse, Patience
from vidra_trio.net.reception import (
    FEWEST_CONNECTIONS,
    RESERVED_DESCRIPTORS,
    Reception,
    ReceptionStatistics,
    affordable,
)
from vidra_trio.net.serve import hypercorn_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hypercorn.typing import AppWrapper, ASGIReceiveEvent, WWWScope
    from trio.testing import MockClock


@contextlib.contextmanager
def listening_on(host: str, port: int = 0) -> Iterator[Sequence[socket.socket]]:
    """Sockets that are closed again."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(sock) for sock in listen(host, port)]


# --- patience ---


async def test_patience_without_a_grant_is_endless(autojump_clock: MockClock) -> None:
    """Nobody is late before anything was granted."""
    patience = Patience()
    with trio.move_on_after(1_000_000) as scope:
        await patience.wait(trio.sleep_forever)
    assert scope.cancelled_caught


async def test_patience_ends_late(autojump_clock: MockClock) -> None:
    """A wait ends when the granted time is over, and every later one at once."""
    patience = Patience()
    patience.grant(5)
    assert await patience.wait(trio.sleep_forever) is Lapse.LATE
    assert trio.current_time() == 5
    assert await patience.wait(trio.sleep_forever) is Lapse.LATE
    assert trio.current_time() == 5


async def test_patience_returns_what_came_in_time(autojump_clock: MockClock) -> None:
    """What is received in time is returned."""

    async def receive() -> bytes:
        await trio.sleep(4)
        return b"x"

    patience = Patience()
    patience.grant(5)
    assert await patience.wait(receive) == b"x"


async def test_a_grant_moves_a_wait_that_is_under_way(autojump_clock: MockClock) -> None:
    """Another task may lengthen or shorten the wait while it runs."""
    patience = Patience()
    patience.grant(5)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(3)
            patience.grant(math.inf)
            await trio.sleep(30)
            patience.grant(1)
            patience.stretch(2)

        nursery.start_soon(later)
        assert await patience.wait(trio.sleep_forever) is Lapse.LATE
        assert trio.current_time() == 36


async def test_a_nudge_comes_before_the_end(autojump_clock: MockClock) -> None:
    """Nudges interrupt the wait without costing the peer anything."""
    patience = Patience()
    patience.grant(5)
    patience.nudge_in(2)
    assert await patience.wait(trio.sleep_forever) is Lapse.NUDGE
    patience.nudge_in(2)
    assert await patience.wait(trio.sleep_forever) is Lapse.NUDGE
    patience.nudge_in(2)
    assert await patience.wait(trio.sleep_forever) is Lapse.LATE
    assert trio.current_time() == 5


# --- the application's inbox ---

BODY = cast("ASGIReceiveEvent", {"type": "http.request", "body": b"x", "more_body": True})
GONE = cast("ASGIReceiveEvent", {"type": "http.disconnect"})


async def test_a_disconnect_never_waits_and_comes_last(autojump_clock: MockClock) -> None:
    """Even into a full inbox; it is there again whenever it is asked for."""
    inbox = Inbox(1)
    await inbox.put(BODY)
    await inbox.put(GONE)
    await inbox.put(BODY)
    assert [await inbox.take() for _ in range(3)] == [BODY, GONE, GONE]


async def test_a_disconnect_frees_who_waits_for_room(autojump_clock: MockClock) -> None:
    """A reader that waits for an application which never reads is not held any longer."""
    inbox = Inbox(0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inbox.put, BODY)
        await trio.testing.wait_all_tasks_blocked()
        await inbox.put(GONE)
    assert await inbox.take() == GONE


# --- listening ---


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_a_literal_is_bound_exactly(host: str, family: int) -> None:
    """One socket, on that address, not inherited by child processes, with our options."""
    with listening_on(host) as (sock,):
        bound_host, port = address_of(sock)
        assert (sock.family, bound_host) == (family, host)
        assert port > 0
        assert not sock.get_inheritable()
        assert not sock.getblocking()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_a_name_is_bound_on_all_its_addresses_on_one_port() -> None:
    """`localhost` is reachable over every family this machine has, on the same port."""
    with listening_on("localhost") as sockets:
        assert len({address_of(sock)[1] for sock in sockets}) == 1
        assert {address_of(sock)[0] for sock in sockets} <= {"127.0.0.1", "::1"}


def test_the_wildcard_of_ipv6_leaves_ipv4_alone() -> None:
    """`::` means exactly `::`."""
    with listening_on("::") as (sock,), listening_on("0.0.0.0", address_of(sock)[1]):
        pass


def test_a_taken_port_is_port_busy() -> None:
    """A second listener on the same address is refused, and says which."""
    with listening_on("127.0.0.1") as (sock,):
        port = address_of(sock)[1]
        with pytest.raises(PortBusy, match=f"127.0.0.1:{port}") as caught:
            listen("127.0.0.1", port)
        assert (caught.value.host, caught.value.port) == ("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_a_wrong_setting(host: str) -> None:
    """No port of it is busy: the message names the variable that is wrong."""
    with pytest.raises(ConfigurationError, match="VIDRA_SERVER_HOST"):
        listen(host, 0)


def two_addresses(*_: object, **__: object) -> list[tuple[object, ...]]:
    """A name with two addresses, without asking a resolver."""
    return [(socket.AF_INET, 1, 6, "", (host, 0)) for host in ("127.0.0.1", "127.0.0.2")]


def test_a_port_taken_on_the_second_address_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 0 asks the kernel again until one port is free on every address."""
    real = listening._bind
    refused: list[object] = []

    def bind(sock: socket.socket, address: tuple[str, int], backlog: int) -> None:
        if address[1] and len(refused) < 3:
            refused.append(address)
            raise OSError(errno.EADDRINUSE, "in use")
        real(sock, address, backlog)

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    monkeypatch.setattr(listening, "_bind", bind)
    with listening_on("two.invalid") as sockets:
        assert len({address_of(sock)[1] for sock in sockets}) == 1
        assert len(sockets) == 2
    assert len(refused) == 3


def test_a_port_that_is_never_free_everywhere_is_port_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asking again has an end."""
    asked: list[object] = []

    def bind(sock: socket.socket, address: tuple[str, int], backlog: int) -> None:
        asked.append(address)
        if address[0] == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "in use")
        sock.bind(address)

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    monkeypatch.setattr(listening, "_bind", bind)
    with pytest.raises(PortBusy, match="in use"):
        listen("two.invalid", 0)
    assert len(asked) == 2 * listening.ATTEMPTS


def test_a_second_address_that_fails_otherwise_is_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a taken port is worth another try; nothing stays open after that."""

    def bind(sock: socket.socket, address: tuple[str, int], backlog: int) -> None:
        if address[0] == "127.0.0.2":
            raise OSError(errno.EACCES, "denied")
        sock.bind(address)

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    monkeypatch.setattr(listening, "_bind", bind)
    with pytest.raises(PortBusy, match="denied"):
        listen("two.invalid", 0)


def test_windows_gets_exclusive_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """There SO_REUSEADDR would let others share our port, so it is not set."""
    asked: list[int] = []

    class Spy(socket.socket):
        def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
            asked.append(option)

    monkeypatch.setattr("vidra_trio.net.listen.os.name", "nt")
    with Spy() as sock:
        listening._bind(sock, ("127.0.0.1", 0), 1)
    assert asked == [getattr(socket, "SO_EXCLUSIVEADDRUSE", ~4)]


# --- reception ---


def test_the_limit_leaves_descriptors_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many connections as asked for, or as descriptors allow, but never none."""
    soft = {"limit": 100_000}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft["limit"], 1))
    assert affordable(2048) == 2048
    soft["limit"] = 1024
    assert affordable(2048) == 1024 - RESERVED_DESCRIPTORS
    soft["limit"] = 10
    assert affordable(2048) == FEWEST_CONNECTIONS
    soft["limit"] = resource.RLIM_INFINITY
    assert affordable(2048) == 2048
    monkeypatch.setattr(reception, "resource", None)
    assert affordable(2048) == 2048


class Troubled(socket.socket):
    """A listening socket whose next accepts fail."""

    errors: Sequence[int] = ()

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number, *self.errors = self.errors
            raise OSError(number, "trouble")
        return super().accept()


async def test_no_error_of_accept_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """Out of descriptors: one line in the log, a pause, and the waiting peer is served."""
    door = Reception(cast("AppWrapper", None), hypercorn_config(), WorkerContext(None), {}, CALM, 8)
    with trio.fail_after(10), Troubled() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        listener.errors = [errno.ECONNABORTED, errno.EMFILE, errno.ENFILE]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.admit, listener, nursery)
            async with await trio.open_tcp_stream(*listener.getsockname()) as peer:
                await peer.send_all(b"x\r\n\r\n")
                assert b" 400 " in await peer.receive_some()
                assert door.statistics() == ReceptionStatistics(open=1, turned_away=0)
            nursery.cancel_scope.cancel()
    assert caplog.text.count("cannot accept connections: trouble") == 1


# --- the log ---


def test_a_description_names_types_and_places_only() -> None:
    """Every member of a group, without a word of what the messages say."""
    with pytest.raises(ValueError, match="hush") as caught:
        int("hush")
    members = [caught.value, ExceptionGroup("", [KeyError("hush")])]
    told = describe(ExceptionGroup("hush", members))
    assert "ValueError at test_net_units.py:" in told
    assert "KeyError at an unknown place" in told
    assert "hush" not in told


async def test_the_logger_writes_one_line_and_no_access(caplog: pytest.LogCaptureFixture) -> None:
    """Hypercorn's own words are kept, its tracebacks are not, and access lines are none."""
    config = hypercorn_config()
    log = cast("NetLogger", config.log)
    await log.exception("lost %s", "track")  # noqa: LOG004  # there is none: that is a case too
    await log.access(cast("WWWScope", {}), {"status": 200, "headers": []}, 0.1)
    await log.warning("plain")
    assert [record.getMessage() for record in caplog.records] == [
        "lost track: no exception",
        "plain",
    ]
    assert {record.name for record in caplog.records} == {"vidra_trio.net"}


@pytest.mark.parametrize(
    ("status", "word"), [(400, b"bad_request"), (408, b"request_timeout"), (500, b"internal_error")]
)
def test_refusals_have_codes(status: int, word: bytes) -> None:
    """Each refusal below the application carries a stable word."""
    assert refusal_body(status) == b'{"error":"' + word + b'"}'
