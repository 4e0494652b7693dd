"""quart-trio's connection classes as web/ uses them, under a server that is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import trio
from quart_trio.asgi import TrioASGIHTTPConnection

from tests.support.net_peers import quart_origin
from vidra_trio.web.asgi import HTTPConnection

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, HTTPScope

SCOPE = cast(
    "HTTPScope",
    {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/hello",
        "raw_path": b"/hello",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"x")],
        "client": None,
        "server": None,
        "extensions": {},
    },
)


@pytest.mark.parametrize(
    ("connection_class", "whole"), [(HTTPConnection, True), (TrioASGIHTTPConnection, False)]
)
async def test_the_end_of_an_answer_is_not_cut_by_its_own_news(
    connection_class: type[TrioASGIHTTPConnection],
    whole: bool,
) -> None:
    """A server that reports the end of the stream inside the last send can finish that send."""
    to_app, from_server = trio.open_memory_channel[object](10)
    ended = False

    async def receive() -> ASGIReceiveEvent:
        return cast("ASGIReceiveEvent", await from_server.receive())

    async def send(message: ASGISendEvent) -> None:
        nonlocal ended
        if message["type"] == "http.response.body" and not message["more_body"]:
            await to_app.send({"type": "http.disconnect"})
            await trio.testing.wait_all_tasks_blocked()
            ended = True

    await to_app.send({"type": "http.request", "body": b"", "more_body": False})
    with trio.fail_after(10), to_app, from_server:
        app = quart_origin().app
        async with app.test_app():
            await connection_class(app, SCOPE)(receive, send)
    assert ended is whole
