"""The sockets: what is sent on connect, then whatever happens in the room.

1. A socket has three tasks in one nursery: a reader (without one, nobody would
   notice that the peer went away), the subscription's pump, and a watcher that
   ends both when the server closes or the peer fell too far behind.
2. A subscription is closed before the close frame is sent: it writes to the
   connection past the framework, and nothing may follow that frame.
3. What clients send here means nothing, except to the downloads socket.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from quart import websocket
from quart.wrappers import base

from vidra_trio.core.errors import JobNotFound, ShuttingDown
from vidra_trio.core.events import OVERVIEW, job_room
from vidra_trio.web.peers import peer_of
from vidra_trio.wire import payloads
from vidra_trio.wire.requests import BadDownloadRequest, parse_download_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from quart import Websocket

    from vidra_trio.core.events import Room
    from vidra_trio.web.context import WebContext

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013

_LEFT: Final = tuple(
    error for name in ("ClientDisconnectedError",) if (error := getattr(base, name, None))
)
"""What `receive` raises when the peer is gone: since Quart 0.23; before, the task was cancelled."""

_logger = logging.getLogger(__name__)


async def overview(context: WebContext) -> None:
    """/ws/overview: every job's changes, and the counts."""

    def first() -> list[bytes]:
        return [payloads.initial_overview(context.now())]

    await _serve(partial(_watch, context, OVERVIEW, first))


async def job(context: WebContext, job_id: str) -> None:
    """/ws/jobs/{id}: all that happens to one job. The socket may outlive the job."""

    def first() -> list[bytes]:
        return payloads.initial_job(context.supervisor.get(job_id), context.now())

    await _serve(partial(_watch, context, job_room(job_id), first))


async def downloads(context: WebContext) -> None:
    """/ws/downloads: the old request-and-answer socket; its actions are not available."""

    async def talk(socket: Websocket) -> int:
        return await _run([partial(_answer_all, socket)], [(context.closing, GOING_AWAY)])

    await _serve(talk)


async def _serve(session: Callable[[Websocket], Awaitable[int]]) -> None:
    """Accept, run `session`, close with the code it comes to."""
    socket = _current()
    await socket.accept()
    code = INTERNAL_ERROR
    try:
        code = await session(socket)
    except Exception:  # the connection's boundary: this peer goes, the server stays
        _logger.exception("a socket failed")
    await socket.close(code)


async def _watch(
    context: WebContext, room: Room, first: Callable[[], Sequence[bytes]], socket: Websocket
) -> int:
    """Let the peer watch a room until something ends it; return the close code."""
    try:
        subscription = context.hub.subscribe([room], peer_of(socket), first)
    except JobNotFound as error:
        gone = payloads.error_event({"message": "job not found", "job_id": error.job_id})
        await socket.send(gone.decode())
        return NORMAL
    except ShuttingDown:
        return GOING_AWAY
    try:
        return await _run(
            [partial(_ignore_all, socket), subscription.pump],
            [(context.closing, GOING_AWAY), (subscription.overrun, TRY_AGAIN_LATER)],
        )
    finally:
        subscription.close()


async def _run(
    tasks: Sequence[Callable[[], Awaitable[None]]], ends: Sequence[tuple[trio.Event, int]]
) -> int:
    """Run `tasks` until one of the events happens; return the code that belongs to it."""
    code = NORMAL

    async def end(event: trio.Event, its_code: int) -> None:
        nonlocal code
        await event.wait()
        code = its_code
        nursery.cancel_scope.cancel()

    left = trio.Event()

    async def until_left(task: Callable[[], Awaitable[None]]) -> None:
        with suppress(*_LEFT):
            await task()
        left.set()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(until_left, task)
        for event, its_code in (*ends, (left, NORMAL)):
            nursery.start_soon(end, event, its_code)
    return code


async def _ignore_all(socket: Websocket) -> None:
    while True:
        await socket.receive()


async def _answer_all(socket: Websocket) -> None:
    while True:
        # The framework hands an empty binary frame over as None.
        message = await socket.receive() or b""
        await socket.send(_reply(message).decode())


def _reply(message: str | bytes) -> bytes:
    try:
        action = parse_download_request(message)
    except BadDownloadRequest as error:
        return payloads.error_event(error.payload)
    return payloads.error_event({"message": "this action is not available yet", "action": action})


def _current() -> Websocket:
    """Return the socket itself: the proxy works in the handler's own task only."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]
    return socket
