"""The parts of Hypercorn and wsproto that net/ stands on, pinned.

A failure here means: the dependency has changed where we subclass or read it.
Reread the named class, adapt net/, then this file.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import h11
import pytest
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import Handshake, WSStream
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from wsproto.connection import Connection, ConnectionState, ConnectionType

from vidra_trio.net.application import ApplicationGroup
from vidra_trio.net.connection import Connection as OurConnection
from vidra_trio.net.errorlog import NetLogger
from vidra_trio.net.http1 import BARE_REFUSAL, Http1

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNATURES: dict[Callable[..., object], str] = {
    TCPServer.__init__: "self, app, config, context, state, stream",
    TCPServer.run: "self",
    TCPServer.protocol_send: "self, event",
    H11Protocol.__init__: (
        "self, app, config, context, task_group, connection_state, ssl, client, server, send"
    ),
    H11Protocol.handle: "self, event",
    H11Protocol.stream_send: "self, event",
    H11Protocol._create_stream: "self, request",
    H11Protocol._check_protocol: "self, event",
    H11Protocol._send_error_response: "self, status_code",
    TaskGroup.spawn_app: "self, app, config, scope, send",
    TaskGroup.spawn: "self, func, args",
    _handle: "app, config, scope, receive, send, sync_spawn, call_soon",
    Lifespan.__init__: "self, app, config, state",
    Lifespan.handle_lifespan: "self, task_status",
    Lifespan.asgi_send: "self, message",
    Lifespan.wait_for_startup: "self",
    Lifespan.wait_for_shutdown: "self",
    WorkerContext.__init__: "self, max_requests",
    Logger.exception: "self, message, args, kwargs",
    Logger.access: "self, request, response, request_time",
    TrioASGIHTTPConnection.__call__: "self, receive, send",
    TrioASGIWebsocketConnection.__call__: "self, receive, send",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_the_signatures_are_those_we_call_or_override(function: Callable[..., object]) -> None:
    """A parameter more or less means that the step does something else now."""
    found = ", ".join(inspect.signature(function).parameters)
    assert found == SIGNATURES[function], f"{function.__qualname__} has changed: reread it"


def methods(cls: type) -> set[str]:
    """The functions that `cls` itself defines."""
    return {name for name, value in vars(cls).items() if inspect.isfunction(value)}


def test_the_server_has_no_step_that_we_do_not_know() -> None:
    """All of TCPServer's behaviour is replaced; a new method may want to be, too."""
    assert methods(TCPServer) == {
        "__init__",
        "__await__",
        "run",
        "protocol_send",
        "_read_data",
        "_close",
        "_idle_timeout",
        "_initiate_server_close",
    }, "TCPServer has changed: does Connection replace all that matters?"
    assert {"run", "protocol_send"} <= methods(OurConnection)


def test_the_protocol_has_no_step_that_we_do_not_know() -> None:
    """H11Protocol's steps, and which of them Http1 overrides."""
    assert methods(H11Protocol) == {
        "__init__",
        "initiate",
        "handle",
        "stream_send",
        "_handle_events",
        "_create_stream",
        "_send_h11_event",
        "_send_error_response",
        "_maybe_recycle",
        "_close_stream",
        "_check_protocol",
    }, "H11Protocol has changed: reread it beside net/http1.py"
    assert methods(Http1) - {"refuse"} <= methods(H11Protocol)
    assert methods(ApplicationGroup) <= methods(TaskGroup)
    assert methods(NetLogger) <= methods(Logger)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (H11Protocol._maybe_recycle, ["await self.send(Closed())", "Updated(idle=True)"]),
        (H11Protocol._maybe_recycle, ["self.context.terminated.is_set()"]),
        (H11Protocol._handle_events, ["await self._check_protocol(event)", "can_read.wait()"]),
        (H11Protocol._close_stream, ["StreamClosed", "self.stream = None"]),
        (H11Protocol.handle, ["isinstance(event, Closed)", "isinstance(event, RawData)"]),
        (H11WSConnection.__init__, ["self.h11_connection = h11_connection"]),
        (WSStream._accept, ["self.handshake.accept(", "self.connection"]),
        (WSStream._accept, ["websocket_ping_interval is not None"]),
        (WSStream.handle, ["websocket.disconnect", "self.closed = True"]),
        (HTTPStream.handle, ["http.disconnect"]),
        (Handshake.accept, ["PerMessageDeflate()"]),
        (TaskGroup.spawn_app, ["max_app_queue_size", "_handle"]),
    ],
)
def test_the_steps_we_rely_on_still_read_the_same(
    where: Callable[..., object], words: list[str]
) -> None:
    """Words in Hypercorn's source that our reasoning quotes."""
    source = inspect.getsource(where)
    missing = [word for word in words if word not in source]
    assert not missing, f"{where.__qualname__} has changed: it no longer says {missing}"


@pytest.mark.parametrize("stream", [HTTPStream, WSStream])
def test_bare_refusals_look_as_we_recognise_them(stream: type[HTTPStream | WSStream]) -> None:
    """Hypercorn's refusals without a body have these two headers, in this order."""
    source = inspect.getsource(stream._send_error_response)
    assert str(BARE_REFUSAL).replace("'", '"') in source, "refusals would lose their JSON body"
    assert list(inspect.signature(Response).parameters) == ["stream_id", "headers", "status_code"]


def test_the_settings_we_make_are_settings() -> None:
    """Hypercorn ignores a name that it does not know; then our setting would be nothing."""
    for name in (
        "accesslog",
        "errorlog",
        "logger_class",
        "include_server_header",
        "read_timeout",
        "startup_timeout",
        "shutdown_timeout",
        "websocket_max_message_size",
        "websocket_ping_interval",
        "max_app_queue_size",
    ):
        assert hasattr(Config, name), f"Config.{name} is gone"


def test_a_close_frame_changes_the_state_before_it_is_written() -> None:
    """Direct frames stop on this: the state leaves OPEN when the frame is made."""
    websocket = Connection(ConnectionType.SERVER)
    assert websocket.state is ConnectionState.OPEN
    source = inspect.getsource(Connection.send)
    assert "LOCAL_CLOSING" in source


def test_h11_names_its_states_as_we_read_them() -> None:
    """The states from which a connection's phase is computed."""
    connection = h11.Connection(h11.SERVER)
    assert (connection.their_state, connection.our_state) == (h11.IDLE, h11.IDLE)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    assert (connection.their_state, connection.our_state) == (h11.SEND_BODY, h11.SEND_RESPONSE)
