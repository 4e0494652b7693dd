"""The ASGI wrapper round the application: nothing reaches it unexamined.

It answers refusals itself, before the framework has seen the request, takes the
token out of the scope, and puts what every answer carries on every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vidra_trio.web.answers import EVERY_ANSWER, JSON
from vidra_trio.web.context import MAX_SOCKETS
from vidra_trio.web.guard import Refusal, examine, without_token
from vidra_trio.wire import payloads
from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from hypercorn.typing import (
        ASGIFramework,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        HTTPResponseStartEvent,
        Scope,
        WebsocketResponseStartEvent,
        WebsocketScope,
    )

    from vidra_trio.web.context import WebContext
    from vidra_trio.web.guard import Rules, WebScope

    Headers = list[tuple[bytes, bytes]]

POLICY_VIOLATION: Final = 1008


class Gate:
    """An ASGI application: `app`, behind the guard."""

    def __init__(self, app: ASGIFramework, rules: Rules, context: WebContext) -> None:
        self._app = app
        self._rules = rules
        self._context = context

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request, one socket, or the framework's lifespan."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        verdict = examine(scope, self._rules)
        # In place: the server logs from the same object.
        scope["query_string"] = without_token(scope["query_string"])
        scope["raw_path"] = (scope.get("raw_path") or b"").partition(b"?")[0]
        if scope["type"] == "websocket" and not isinstance(verdict, Refusal):
            verdict = self._no_room() or verdict
        if isinstance(verdict, Refusal):
            await _refuse(scope, _adorned(send), verdict)
            return
        scope["path"] = verdict.path
        if scope["type"] == "http":
            await self._app(scope, receive, _adorned(send))
            return
        with self._context.sockets.one():
            await self._app(scope, receive, _adorned(send))

    def _no_room(self) -> Refusal | None:
        if self._context.closing.is_set():
            return Refusal(503, "shutting_down")
        if len(self._context.sockets) >= MAX_SOCKETS:
            return Refusal(503, "too_many_sockets", f"at most {MAX_SOCKETS} may be open")
        return None


async def _refuse(scope: WebScope, send: ASGISendCallable, refusal: Refusal) -> None:
    """Answer at once. What is left of a body is the connection's to read off."""
    body = b"" if refusal.code is None else dumps(payloads.error(refusal.code, refusal.detail))
    headers = list(refusal.headers)
    if body:
        headers += [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    if scope["type"] == "websocket":
        await _refuse_socket(scope, send, refusal.status, headers, body)
        return
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": refusal.status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _refuse_socket(
    scope: WebsocketScope, send: ASGISendCallable, status: int, headers: Headers, body: bytes
) -> None:
    """Answer the handshake with a response; a server that cannot, answers 403 by itself."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": None})
        return
    start: WebsocketResponseStartEvent = {
        "type": "websocket.http.response.start",
        "status": status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def _adorned(send: ASGISendCallable) -> ASGISendCallable:
    """Put on every response what belongs there."""

    async def adorned(message: ASGISendEvent) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            names = {name.lower() for name, _ in message["headers"]}
            more = [pair for pair in EVERY_ANSWER if pair[0] not in names]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return adorned
