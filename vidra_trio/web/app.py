"""The application: the table of routes, the views, the error answers, the gate."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from quart_trio import QuartTrio

from vidra_trio.web import asgi, errors, jobs, meta, playlists, sockets
from vidra_trio.web.context import MAX_SOCKETS, OpenSockets, WebContext, drain
from vidra_trio.web.gate import Gate
from vidra_trio.web.guard import Rules
from vidra_trio.wire.routes import ROUTES, SOCKET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hypercorn.typing import ASGIFramework
    from quart import Response

__all__ = ["MAX_SOCKETS", "OpenSockets", "WebContext", "build_app", "drain"]

BODY_SECONDS: Final = 10
"""For a whole body to arrive; then 408."""

VIEWS: Final[Mapping[str, Callable[..., Awaitable[Response]]]] = {
    "health": meta.health,
    "profiles": meta.profiles,
    "diagnostics": meta.diagnostics,
    "create": jobs.create,
    "list": jobs.list_jobs,
    "detail": jobs.detail,
    "delete": jobs.delete,
    "cancel": jobs.cancel,
    "cancel_many": jobs.cancel_many,
    "pause": jobs.pause,
    "resume": jobs.resume,
    "retry": jobs.retry,
    "options": jobs.options,
    "logs": jobs.logs,
    "playlist": playlists.playlist,
    "playlist_items": playlists.items,
    "playlist_delta": playlists.delta,
    "playlist_selection": playlists.selection,
    "playlist_retry": playlists.retry_entries,
    "playlist_delete": playlists.delete_entries,
}

SOCKETS: Final[Mapping[str, Callable[..., Awaitable[None]]]] = {
    "overview_socket": sockets.overview,
    "job_socket": sockets.job,
    "downloads_socket": sockets.downloads,
}


def build_app(context: WebContext) -> ASGIFramework:
    """Make the ASGI application that serves `context`, behind its guard."""
    return Gate(_build_inner(context), Rules.of(context.settings), context)


def _build_inner(context: WebContext) -> QuartTrio:
    app = QuartTrio(__name__, static_folder=None)
    app.asgi_http_class = asgi.HTTPConnection
    app.asgi_websocket_class = asgi.WebsocketConnection
    app.url_map.merge_slashes = False  # the gate has settled the path; no redirects
    app.config.update(
        MAX_CONTENT_LENGTH=context.settings.max_body,
        BODY_TIMEOUT=BODY_SECONDS,
        RESPONSE_TIMEOUT=None,  # every write has the connection's deadline
        PROPAGATE_EXCEPTIONS=False,
    )
    errors.register(app)
    for route in ROUTES:
        path = route.path.replace("{", "<").replace("}", ">")
        if route.method is SOCKET:
            app.add_websocket(path, route.name, partial(SOCKETS[route.name], context))
        else:
            view = partial(VIEWS[route.name], context)
            app.add_url_rule(
                path, route.name, view, methods=[route.method], provide_automatic_options=False
            )
    return app
