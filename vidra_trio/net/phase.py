"""What a connection is waiting for, read off Hypercorn's state.

Computed, never stored beside the protocol: the state has one owner.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

import h11
from hypercorn.protocol.h11 import H11WSConnection
from wsproto.connection import ConnectionState

if TYPE_CHECKING:
    from wsproto.connection import Connection as WebSocketProtocol

    from vidra_trio.net.http1 import Http1


class Phase(Enum):
    """Whose turn it is."""

    HEAD = auto()  # the peer's: a request
    BODY = auto()  # the peer's: the rest of the request
    ANSWER = auto()  # ours: no deadline of the peer's runs
    SOCKET = auto()  # both: an open WebSocket
    CLOSING = auto()  # the peer's: we said goodbye


def phase_of(protocol: Http1) -> Phase:
    """What `protocol` is waiting for now."""
    if isinstance(protocol.connection, H11WSConnection):
        return _socket_phase(protocol)
    ours, theirs = protocol.connection.our_state, protocol.connection.their_state
    if theirs is h11.IDLE:
        return Phase.HEAD
    if theirs is h11.SEND_BODY and ours is h11.SEND_RESPONSE:
        return Phase.BODY
    return Phase.ANSWER


def websocket_of(protocol: Http1) -> WebSocketProtocol | None:
    """The accepted WebSocket's state machine; None before the accept and for plain HTTP."""
    return getattr(protocol.stream, "connection", None)


def _socket_phase(protocol: Http1) -> Phase:
    if protocol.stream is None or protocol.stream.closed:
        return Phase.CLOSING
    websocket = websocket_of(protocol)
    if websocket is None:
        return Phase.ANSWER
    return Phase.SOCKET if websocket.state is ConnectionState.OPEN else Phase.CLOSING
