"""quart-trio's connection classes, with the endings mended.

1. quart-trio cancels its task as soon as the server reports the stream as
   closed, which happens inside the server's own recycle-or-close step. The
   connection then stays open for ever. So the last message is shielded.
2. A handler that sends to a socket whose peer is gone gets no checkpoint from
   the server and never sees its cancellation: `while True: await
   websocket.send(x)` would hold the whole process. So each send has one.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

# A bound for the shield only: the server's write deadline comes first.
LAST_WORDS = 30.0


class HTTPConnection(TrioASGIHTTPConnection):
    """A request whose connection really closes, or is really reused."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle the request; the end of the answer is not cut by its own success."""
        await super().__call__(receive, partial(_send_shielding_the_end, send))


class WebsocketConnection(TrioASGIWebsocketConnection):
    """A WebSocket whose handler can always be cancelled."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Handle the socket; every send of the handler is a checkpoint."""
        await super().__call__(receive, partial(_send_and_yield, send))


async def _send_shielding_the_end(send: ASGISendCallable, message: ASGISendEvent) -> None:
    if message["type"] != "http.response.body" or message.get("more_body", False):
        await send(message)
        return
    with trio.move_on_after(LAST_WORDS, shield=True):
        await send(message)


async def _send_and_yield(send: ASGISendCallable, message: ASGISendEvent) -> None:
    await send(message)
    await trio.lowlevel.checkpoint()
