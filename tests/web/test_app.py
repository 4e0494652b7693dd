"""The application as a whole: what every answer has, and how errors look."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.web import HOST, TOKEN, ask, open_web
from vidra_trio.core.errors import IllegalTransition
from vidra_trio.core.states import JobEvent, JobState
from vidra_trio.web.app import SOCKETS, VIEWS
from vidra_trio.wire.routes import ROUTES, SOCKET

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent

REQUESTS = [route for route in ROUTES if route.method is not SOCKET]


def test_every_row_of_the_table_has_a_view() -> None:
    """And no view is left without a row."""
    assert set(VIEWS) == {route.name for route in REQUESTS}
    assert set(SOCKETS) == {route.name for route in ROUTES if route.method is SOCKET}


@pytest.mark.parametrize("route", REQUESTS, ids=lambda route: route.name)
async def test_every_answer_carries_the_same_headers(route: Any) -> None:  # noqa: ANN401
    """Refused or not: not stored, not sniffed, no referrer, no CORS; and errors are JSON."""
    path = route.path.replace("{job_id}", "x")
    async with open_web() as web:
        for method, auth in ((route.method, True), (route.method, False), ("PATCH", True)):
            reply = await web.ask(method, path, auth=auth)
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["referrer-policy"] == "no-referrer"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert not any(name.startswith("access-control-") for name in reply.headers)
            assert reply.headers["content-length"] == str(len(reply.body))
            assert reply.status == 200 or reply.error


@pytest.mark.parametrize("route", REQUESTS, ids=lambda route: route.name)
async def test_every_route_but_health_is_closed(route: Any) -> None:  # noqa: ANN401
    """Through the whole application: 401 without the token, something else with it."""
    path = route.path.replace("{job_id}", "x")
    async with open_web() as web:
        reply = await web.ask(route.method, path, auth=False)
        assert reply.status == (200 if route.name == "health" else 401)
        assert (await web.ask(route.method, path)).status in {200, 400, 404}


async def test_what_the_guard_refuses() -> None:
    """One of each, as JSON, with its code."""
    async with open_web() as web:
        evil = {"Origin": "http://evil.example"}
        twice = [("Authorization", f"Bearer {TOKEN}")]
        text = {"Content-Type": "text/plain"}
        told = [
            await web.ask("GET", "*"),
            await web.ask("GET", "/", host="evil.example"),
            await web.ask("GET", "/", host=None),
            await web.ask("GET", "/", headers=twice),
            await web.ask("GET", "/", headers=evil),
            await web.ask("GET", "/api/jobs", auth=False),
            await web.ask("GET", f"/api/jobs?token={TOKEN}", auth=False),
            await web.ask("GET", "/api/nope"),
            await web.ask("PUT", "/api/jobs"),
            await web.ask("POST", "/api/jobs", raw=b"{}", headers=text),
            await web.ask("POST", "/api/jobs", raw=b"{}", headers={"Content-Encoding": "gzip"}),
        ]
        assert [(reply.status, reply.error) for reply in told] == [
            (400, "bad_request"),
            (421, "host_not_allowed"),
            (421, "host_not_allowed"),
            (400, "duplicate_header"),
            (403, "origin_not_allowed"),
            (401, "token_missing_or_invalid"),
            (401, "token_missing_or_invalid"),
            (404, "not_found"),
            (405, "method_not_allowed"),
            (415, "unsupported_media_type"),
            (415, "unsupported_media_type"),
        ]


async def test_a_refused_create_makes_nothing() -> None:
    """The body of a request without the token is not even read."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs", {"urls": "http://h/x"}, auth=False)
        assert reply.status == 401
        assert web.supervisor.jobs() == []


async def test_head_answers_as_get() -> None:
    """Wherever GET does; the connection leaves the body out."""
    async with open_web() as web:
        for path in ("/", "/api/jobs", "/api/profiles"):
            got, head = await web.ask("GET", path), await web.ask("HEAD", path)
            assert head.status == 200
            assert head.headers == got.headers


async def test_options_tells_the_methods() -> None:
    """204 with Allow and nothing else, token or not."""
    async with open_web() as web:
        reply = await web.ask("OPTIONS", "/api/jobs", auth=False)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await web.ask("OPTIONS", "/nope", auth=False)).error == "not_found"


async def test_a_trailing_slash_is_served() -> None:
    """As if it were not there, token first."""
    async with open_web() as web:
        assert (await web.ask("GET", "/api/jobs/")).status == 200
        assert (await web.ask("GET", "/api/jobs/", auth=False)).status == 401
        assert (await web.ask("GET", "//", auth=False)).status == 200


async def test_configured_prefixes_are_served() -> None:
    """Beside the fixed paths; the health document names them."""
    async with open_web(base_path="/v", api_root="/rest") as web:
        assert (await web.ask("GET", "/v/rest/jobs")).status == 200
        assert (await web.ask("GET", "/api/jobs")).status == 200
        health = await web.ask("GET", "/v", auth=False)
        assert health.json["api_url"] == "http://127.0.0.1:5000/v/rest/"


async def test_health_names_the_real_port() -> None:
    """With port 0 only the connection knows which it became."""
    async with open_web(port=0) as web:
        reply = await web.ask("GET", "/", auth=False)
        assert reply.json["base_url"] == "http://127.0.0.1:5000/"
        reply = await web.ask("GET", "/", auth=False, scope={"server": None})
        assert reply.json["base_url"] == "http://127.0.0.1:0/"


async def test_a_defect_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with a code; what happened is in the log."""

    def breaks() -> None:
        raise LookupError("a secret of the house")

    async with open_web() as web:
        monkeypatch.setattr(web.supervisor, "jobs", breaks)
        with caplog.at_level(logging.ERROR, "vidra_trio"):
            reply = await web.ask("GET", "/api/jobs")
        assert (reply.status, reply.json) == (500, {"error": "internal_error"})
        assert "a secret of the house" in caplog.text


async def test_defects_of_ours_say_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the tree that is nobody's request's fault is a 500 like any other."""

    def breaks(_job_id: str) -> None:
        raise ExceptionGroup("two", [IllegalTransition(JobState.FAILED, JobEvent.BEGIN)])

    async with open_web() as web:
        monkeypatch.setattr(web.supervisor, "get", breaks)
        reply = await web.ask("GET", "/api/jobs/x")
        assert (reply.status, reply.json) == (500, {"error": "internal_error"})


async def test_refusals_of_the_framework_are_json() -> None:
    """Should one ever slip past the guard, it looks like all others."""
    async with open_web() as web:
        inner = web.app._app  # type: ignore[attr-defined]  # past the gate, on purpose
        for method, path, code in (
            ("GET", "/nope", "not_found"),
            ("PUT", "/api/jobs", "method_not_allowed"),
        ):
            assert (await ask(inner, method, path)).error == code


async def test_the_token_is_taken_out_of_the_scope() -> None:
    """In place: the server may log from the same object."""
    async with open_web() as web:
        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "scheme": "http", "path": "/", "http_version": "1.1",
            "raw_path": f"/?token={TOKEN}".encode(), "query_string": f"a=b&token={TOKEN}".encode(),
            "headers": [(b"host", HOST.encode())], "server": ("127.0.0.1", 5000), "state": {},
        }  # fmt: skip

        async def receive() -> ASGIReceiveEvent:
            await trio.sleep_forever()
            raise AssertionError

        async def send(_message: ASGISendEvent) -> None:
            await trio.lowlevel.checkpoint()

        await web.app(scope, receive, send)  # type: ignore[arg-type]  # a scope, written out
        assert TOKEN not in repr(scope)
        assert scope["query_string"] == b"a=b"


async def test_the_lifespan_is_the_frameworks() -> None:
    """The server's start and stop pass the gate."""
    sent: list[str] = []
    put, take = trio.open_memory_channel[dict[str, str]](2)
    put.send_nowait({"type": "lifespan.startup"})
    put.send_nowait({"type": "lifespan.shutdown"})

    async def send(message: Any) -> None:  # noqa: ANN401 - an ASGI message
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])

    async with open_web() as web:
        scope: Any = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await web.app(scope, take.receive, send)  # type: ignore[arg-type]  # as above
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_profiles_are_the_old_answer() -> None:
    """Word for word."""
    async with open_web() as web:
        reply = await web.ask("GET", "/api/profiles")
        assert reply.json == {"profiles": [], "message": "profiles_not_implemented"}
