"""One WebSocket of a server, read as a stream of messages.

1. Everything but the wait for the next message has a deadline. A silent server
   is nothing wrong, so silence is answered with a ping, and only a missing pong
   ends the watch.
2. The socket's reader is owned by `open_watch`, which closes the TCP stream
   itself: trio-websocket waits for the server to do it, for as long as it takes.
3. The token is in a header, never in the URL: URLs end up in logs.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
import trio
import trio_websocket

from vidra_trio.core import lifecycle
from vidra_trio.core.errors import VidraError
from vidra_trio.core.states import JobState
from vidra_trio.wire.words import parse_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CONNECT_DEADLINE: Final = 10.0
"""Seconds for TCP, TLS and the handshake together."""

SILENCE: Final = 30.0
"""Seconds without a message after which the server is pinged; servers ping after 20."""

PONG_DEADLINE: Final = 10.0
"""Seconds for the answer to that ping."""

CLOSE_DEADLINE: Final = 2.0
"""Seconds for the closing handshake; after it the stream is just closed."""

QUEUED_MESSAGES: Final = 256
"""Messages that wait for a slow reader before the socket is no longer read. More than a server's
outbox holds, so that a pong never stands behind a full queue."""

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes. The largest message is a job's detail: 1,000 URLs of 8 KiB and its options."""


class ClientError(VidraError):
    """What can go wrong between a client and its server."""

    code = "client_error"


class ServerUnreachable(ClientError):
    """Nobody listens there, or no answer came within the deadline."""

    code = "server_unreachable"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"no answer from {url}: {why}")
        self.url = url
        self.why = why


class UnexpectedAnswer(ClientError):
    """Something answered that is not one of our servers, or not in our words."""

    code = "unexpected_answer"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: not an answer of a vidra server ({why})")


class RequestRefused(ClientError):
    """The server said no; `status` and `code` are its own, `reason` what it added."""

    def __init__(self, status: int, code: str, reason: object = None) -> None:
        super().__init__(f"{code} ({status})" + (f": {reason}" if reason else ""))
        self.status = status
        self.code = code  # type: ignore[misc]  # one class for all that a server refuses
        self.reason = reason


class WatchEnded(ClientError):
    """The socket ended before it was left; `code` is the WebSocket close code."""

    def __init__(self, close_code: int, reason: str | None) -> None:
        super().__init__(f"the server closed the socket ({close_code} {reason or 'no reason'})")
        self.close_code = close_code
        self.reason = reason


class RemoteProgress(msgspec.Struct, frozen=True):
    """How far a job is, as the wire tells it. What is not known is None."""

    status: str | None = None
    stage: str | None = None
    stage_name: str | None = None
    stage_percent: float | None = None
    percent: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    speed: float | None = None
    eta: float | None = None
    filename: str | None = None
    message: str | None = None


class RemoteJob(msgspec.Struct, frozen=True):
    """A job as one answer or event tells it: members it did not carry are empty."""

    job_id: str
    status: str = ""
    reason: str | None = None
    kind: str | None = None
    created_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    urls: list[str] = []
    progress: RemoteProgress = RemoteProgress()
    preview: dict[str, Any] = {}
    main_file: str | None = None
    generated_files: list[str] = []

    @property
    def state(self) -> JobState | None:
        """The status as a state; None for a word that is none (`deleted`)."""
        return parse_status(self.status)

    @property
    def gone(self) -> bool:
        """The job no longer exists."""
        return self.status == "deleted"

    @property
    def ended(self) -> bool:
        """Nothing more will happen: completed, failed, cancelled or deleted."""
        return self.gone or self.state in lifecycle.TERMINAL

    @property
    def title(self) -> str | None:
        """What the site calls it, once known."""
        title = self.preview.get("title")
        return title if isinstance(title, str) else None


class Message(NamedTuple):
    """One message of a socket: `event, payload = message` is all there is."""

    event: str
    payload: dict[str, Any]

    @property
    def job(self) -> RemoteJob | None:
        """The job of an `update`; None for the overview's greeting and other events."""
        if self.event != "update" or self.payload.get("job_id") is None:
            return None
        return parse_payload(self.payload, RemoteJob)

    @property
    def progress(self) -> RemoteProgress | None:
        """What a `progress` event says."""
        if self.event != "progress":
            return None
        return parse_payload(self.payload, RemoteProgress)


Parsed = TypeVar("Parsed")


def parse_payload(payload: dict[str, Any], kind: type[Parsed]) -> Parsed:
    """Read the members that `kind` knows.

    Raises:
        UnexpectedAnswer: one of them has another type than the contract says.
    """
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise UnexpectedAnswer("an event", str(error)) from None


class _Envelope(msgspec.Struct):
    event: str
    payload: dict[str, Any]


class Watch:
    """The messages of one socket in the server's order; one reader at a time.

    The iteration ends when the server closes with 1000, after which nothing more
    was to come. Being cancelled in the middle of it loses no message.

    Raises:
        WatchEnded: the server closed with another code, or is gone.
        UnexpectedAnswer: a message was not one of ours.
    """

    def __init__(self, socket: trio_websocket.WebSocketConnection) -> None:
        self._socket = socket

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Wait for the next message, however long it takes."""
        try:
            text = await self._next_text()
        except trio_websocket.ConnectionClosed as closed:
            _end(closed.reason)
        try:
            envelope = msgspec.json.decode(text, type=_Envelope)
        except msgspec.MsgspecError as error:
            raise UnexpectedAnswer("a message", str(error)) from None
        return Message(envelope.event, envelope.payload)

    async def _next_text(self) -> str | bytes:
        while True:
            with trio.move_on_after(SILENCE):
                return await self._socket.get_message()
            with trio.move_on_after(PONG_DEADLINE) as waiting:
                await self._socket.ping()
            if waiting.cancelled_caught:
                raise WatchEnded(1006, f"no answer to a ping in {PONG_DEADLINE:g} s")


def _end(reason: trio_websocket.CloseReason | None) -> NoReturn:
    if reason is not None and reason.code == 1000:
        raise StopAsyncIteration
    code, words = (reason.code, reason.reason) if reason else (1006, None)
    raise WatchEnded(code, words) from None


@asynccontextmanager
async def open_watch(url: str, resource: str, token: str) -> AsyncIterator[Watch]:
    """Open the socket `resource` of the server at `url` for the length of the block.

    Entering it returns once the server accepted. Leaving it closes the socket, in
    `CLOSE_DEADLINE` at most; cancelled, it is dropped at once and without a word.

    Raises:
        ServerUnreachable: no connection, or no handshake, within the deadline.
        RequestRefused: the server refused the socket.
    """
    try:
        async with trio.open_nursery() as nursery:
            async with await _connect(url) as stream:
                socket = await _shake_hands(nursery, stream, url, resource, token)
                try:
                    yield Watch(socket)
                finally:
                    # Not shielded: a cancel ends the reader as well, so no answer could
                    # be read. The stream is closed either way.
                    with trio.move_on_after(CLOSE_DEADLINE):
                        await socket.aclose()
            nursery.cancel_scope.cancel("the socket's reader has nothing left to read")
    except BaseExceptionGroup as group:
        _reraise(group)


async def _connect(url: str) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        with trio.fail_after(CONNECT_DEADLINE):
            if parts.scheme == "https":
                return await trio.open_ssl_over_tcp_stream(
                    host,
                    parts.port or 443,
                    https_compatible=True,
                    ssl_context=ssl.create_default_context(),
                )
            return await trio.open_tcp_stream(host, parts.port or 80)
    except trio.TooSlowError:
        raise ServerUnreachable(url, f"no connection in {CONNECT_DEADLINE:g} s") from None
    except OSError as error:
        raise ServerUnreachable(url, error.strerror or str(error)) from None


async def _shake_hands(
    nursery: trio.Nursery,
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    url: str,
    resource: str,
    token: str,
) -> trio_websocket.WebSocketConnection:
    try:
        with trio.fail_after(CONNECT_DEADLINE):
            return await trio_websocket.wrap_client_stream(
                nursery,
                stream,
                urlsplit(url).netloc,
                resource,
                extra_headers=[(b"Authorization", b"Bearer " + token.encode())],
                message_queue_size=QUEUED_MESSAGES,
                max_message_size=MAX_MESSAGE,
            )
    except trio.TooSlowError:
        raise ServerUnreachable(url, f"no handshake in {CONNECT_DEADLINE:g} s") from None


def _reraise(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what really happened, without the nursery's wrapping and its own cancellation."""
    _, rest = group.split(trio.Cancelled)
    causes = list(_leaves(rest)) if rest is not None else []
    if len(causes) != 1:
        raise group
    cause = causes[0]
    if isinstance(cause, trio_websocket.ConnectionRejected):
        raise parse_refusal(cause.status_code, cause.body or b"") from None
    raise cause


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _Refusal(msgspec.Struct):
    error: str
    detail: Any = None


def parse_refusal(status: int, body: bytes) -> RequestRefused:
    """Read the error envelope of an answer that is not 2xx; tolerate what is none."""
    try:
        said = msgspec.json.decode(body, type=_Refusal)
    except msgspec.MsgspecError:
        return RequestRefused(status, f"http_{status}")
    return RequestRefused(status, said.error, said.detail)
