"""Hypercorn's HTTP/1 protocol, with what we refuse and how we say so.

1. HTTP/2 is not spoken: Hypercorn switches to it in `_check_protocol` with an
   exception. An `Upgrade: h2c` is ignored, as RFC 9110 allows; a prior
   knowledge preface gets 505.
2. permessage-deflate is never negotiated: Hypercorn accepts every offer, so
   the offer is taken out of the request. One frame then fits every
   subscriber, and 64 KiB of input stay 64 KiB.
3. Every refusal is JSON like all our answers; Hypercorn's have no body.
4. After a refusal the application may go on talking, a WebSocket may even be
   accepted in that moment (its peer spoke too early); nobody listens.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Response, StreamClosed
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection

if TYPE_CHECKING:
    from hypercorn.protocol.events import Event

# How Hypercorn's streams say no by themselves (crashed application, bad handshake).
BARE_REFUSAL = [(b"content-length", b"0"), (b"connection", b"close")]

SPOKEN = frozenset({b"1.0", b"1.1"})

_NOT_YET_ANSWERED = (h11.IDLE, h11.SEND_RESPONSE)
_ALL_HEARD = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)


def refusal_body(status: int) -> bytes:
    """`{"error": ...}` with the code that belongs to a refusal below the application."""
    word = "internal_error" if status == 500 else HTTPStatus(status).name.lower()
    return b'{"error":"%s"}' % word.encode("ascii")


def refusal_headers(status: int) -> list[tuple[bytes, bytes]]:
    """The headers that go with `refusal_body`."""
    return [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(refusal_body(status))),
        (b"connection", b"close"),
    ]


class Http1(H11Protocol):
    """One connection's HTTP/1 and WebSocket protocol."""

    over = False
    _head_only = False

    @property
    def http(self) -> h11.Connection:
        """The h11 state machine, also while a WebSocket sits on top of it."""
        connection = self.connection
        return connection.h11_connection if isinstance(connection, H11WSConnection) else connection

    @property
    def all_heard(self) -> bool:
        """Whether the peer has nothing left to send: closing now cannot cost it our answer."""
        if isinstance(self.connection, H11WSConnection):
            return False
        return self.http.their_state in _ALL_HEARD and not self.http.trailing_data[0]

    async def refuse(self, status: int) -> None:
        """Close, after an answer with this status if nothing was answered yet.

        What the application still says is dropped. Twice: the second one only closes.
        """
        if not self.over and self.http.our_state in _NOT_YET_ANSWERED:
            await self._send_error_response(status)
        self.over = True
        await self.send(Closed())

    async def stream_send(self, event: Event) -> None:
        """Hypercorn's hook for what its streams send: their refusals get a body and are final."""
        if isinstance(event, Response) and event.headers == BARE_REFUSAL:
            await self.refuse(event.status_code)
        elif not self.over or isinstance(event, StreamClosed):
            await super().stream_send(event)

    async def _send_error_response(self, status_code: int) -> None:
        # Serialised in one go, before anybody else can run: the application
        # may be about to answer too.
        head_only = self._head_only and self.stream is not None
        headers = [*refusal_headers(status_code), *self.config.response_headers("h11")]
        said = self.http.send(h11.Response(status_code=status_code, headers=headers)) or b""
        if not head_only:
            said += self.http.send(h11.Data(data=refusal_body(status_code))) or b""
        said += self.http.send(h11.EndOfMessage()) or b""
        self.over = True
        await self.send(RawData(said))

    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 stays off: see rule 1."""

    async def _create_stream(self, request: h11.Request) -> None:
        if request.http_version not in SPOKEN:
            await self.refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return
        self._head_only = request.method == b"HEAD"
        await super()._create_stream(_without_deflate(request))


def _without_deflate(request: h11.Request) -> h11.Request:
    kept = [pair for pair in request.headers if pair[0] != b"sec-websocket-extensions"]
    if len(kept) == len(request.headers):
        return request
    return h11.Request(
        method=request.method,
        headers=kept,
        target=request.target,
        http_version=request.http_version,
    )
