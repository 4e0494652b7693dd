"""What the server says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import request

from vidra_trio.web.answers import answer
from vidra_trio.wire import payloads
from vidra_trio.wire.urls import OwnAddress

if TYPE_CHECKING:
    from quart import Response

    from vidra_trio.web.context import WebContext


async def health(context: WebContext) -> Response:
    """GET /: who this is and how busy. Needs no token, so it names nothing private."""
    settings = context.settings
    return answer(
        payloads.health(
            service=settings.name,
            description=settings.description,
            metadata=settings.metadata,
            addresses=payloads.addresses(
                scheme=settings.scheme,
                host=settings.host,
                port=own_address(context).port,
                base=settings.base_path,
                api=settings.api_root,
                overview=settings.ws_overview_path,
                job=settings.ws_job_path,
            ),
            timeout_seconds=settings.timeout_seconds,
            counts=context.supervisor.summary(),
            now=context.now(),
        )
    )


async def profiles(_context: WebContext) -> Response:
    """GET /api/profiles: the old backend's answer, word for word."""
    return answer({"profiles": [], "message": "profiles_not_implemented"})


async def diagnostics(context: WebContext) -> Response:
    """GET /api/diagnostics: what runs here and how it stands, for whoever looks after it."""
    slots = context.supervisor.statistics()
    return answer(
        payloads.diagnostics(
            await context.diagnose(),
            slots=slots.slots,
            slots_used=slots.slots_used,
            counts=slots.summary,
            subscribers=context.hub.statistics().subscriptions,
            sockets=len(context.sockets),
            now=context.now(),
        )
    )


def own_address(context: WebContext) -> OwnAddress:
    """Return where this server listens; with port 0 only the connection knows which it became."""
    settings = context.settings
    server = request.scope.get("server")
    port = settings.port or (server and server[1]) or 0
    return OwnAddress(settings.host, port)
