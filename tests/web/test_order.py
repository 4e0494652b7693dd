"""The order of refusals, through the whole application: of two defects the earlier one is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.web import HOST, TOKEN, SocketRefused, open_socket, open_web

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT: Final = 400
"""Bytes of a body; small, so that one beyond it is cheap."""


@dataclass
class Asked:
    """A request, or a handshake, that would be served; defects are done to it."""

    method: str = "POST"
    path: str = "/api/jobs"
    host: str = HOST
    token: str = TOKEN
    tokens: int = 1
    body: bytes = b'{"urls":"http://site.example/v"}'
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def all_headers(self) -> list[tuple[str, str]]:
        """With the token, as often as it is sent."""
        return [*self.headers, *[("Authorization", f"Bearer {self.token}")] * self.tokens]


@dataclass(frozen=True)
class Defect:
    """Something that is wrong, and how it is refused; a later step never comes before it."""

    name: str
    status: int
    code: str
    do: Callable[[Asked], object]
    content: bool = False
    """It replaces what the body says, so no two of these fit into one request."""

    def __str__(self) -> str:
        return self.name


def says(body: bytes) -> Callable[[Asked], object]:
    """Return the defect of a body that says this."""
    return lambda asked: setattr(asked, "body", body)


HEAD: Final = (
    Defect("host", 421, "host_not_allowed", lambda asked: setattr(asked, "host", "evil.example")),
    Defect("twice", 400, "duplicate_header", lambda asked: setattr(asked, "tokens", 2)),
    Defect(
        "origin",
        403,
        "origin_not_allowed",
        lambda asked: asked.headers.append(("Origin", "http://evil.example")),
    ),
)
HTTP: Final = (
    *HEAD,
    Defect("token", 401, "token_missing_or_invalid", lambda asked: setattr(asked, "token", "no")),
    Defect("path", 404, "not_found", lambda asked: setattr(asked, "path", "/api/nope")),
    Defect("method", 405, "method_not_allowed", lambda asked: setattr(asked, "method", "PUT")),
    Defect(
        "type",
        415,
        "unsupported_media_type",
        lambda asked: asked.headers.append(("Content-Type", "text/plain")),
    ),
    Defect(
        "size",
        413,
        "payload_too_large",
        lambda asked: setattr(asked, "body", asked.body.ljust(LIMIT + 1)),
    ),
    Defect("json", 400, "invalid_json_payload", says(b"{"), content=True),
    Defect("schema", 400, "invalid_json_payload", says(b'{"urls":5}'), content=True),
    Defect("no url", 400, "urls_required", says(b'{"urls":[]}'), content=True),
    Defect("url", 400, "url_not_allowed", says(b'{"urls":"--help"}'), content=True),
    Defect(
        "option",
        400,
        "option_not_allowed",
        says(b'{"urls":"http://h/","options":{"exec":"id"}}'),
        content=True,
    ),
)
SOCKET: Final = (
    *HEAD,
    Defect("token", 403, "token_missing_or_invalid", lambda asked: setattr(asked, "token", "no")),
    Defect("path", 404, "not_found", lambda asked: setattr(asked, "path", "/ws/nope")),
)


def with_defects(asked: Asked, *defects: Defect) -> Asked:
    """Do the later one first: a size is that of the body that is sent in the end."""
    for defect in reversed(defects):
        defect.do(asked)
    return asked


async def refused(asked: Asked) -> tuple[int, str]:
    """Send the request and return its refusal; no job may come of it."""
    async with open_web(max_body=LIMIT) as web:
        reply = await web.ask(
            asked.method,
            asked.path,
            auth=False,
            raw=asked.body,
            headers=asked.all_headers,
            host=asked.host,
        )
        assert web.supervisor.jobs() == []
        return reply.status, reply.error


async def refused_socket(asked: Asked, *, closing: bool = False) -> tuple[int, str]:
    """Connect and return the refusal."""
    async with open_web() as web:
        if closing:
            web.context.closing.set()
        with pytest.raises(SocketRefused) as refusal:
            async with open_socket(web.app, asked.path, headers=asked.all_headers, host=asked.host):
                pass
        return refusal.value.reply.status, refusal.value.reply.error


@pytest.mark.parametrize("defect", HTTP, ids=str)
async def test_a_defect_of_a_request(defect: Defect) -> None:
    """Alone, each is refused in its own way."""
    assert await refused(with_defects(Asked(), defect)) == (defect.status, defect.code)


@pytest.mark.parametrize(
    ("first", "second"),
    [pair for pair in combinations(HTTP, 2) if not (pair[0].content and pair[1].content)],
    ids=str,
)
async def test_of_two_defects_of_a_request(first: Defect, second: Defect) -> None:
    """The earlier one is told, whichever they are."""
    assert await refused(with_defects(Asked(), first, second)) == (first.status, first.code)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"urls":[],"options":5}', "invalid_json_payload"),
        (b'{"urls":[],"options":{"exec":"id"}}', "urls_required"),
        (b'{"urls":"--help","metadata":5}', "invalid_json_payload"),
        (b'{"urls":"--help","options":{"exec":"id"}}', "url_not_allowed"),
    ],
)
async def test_of_two_defects_of_a_body(body: bytes, code: str) -> None:
    """Types, then whether there is a URL, then what it is, then what the options ask for."""
    assert await refused(Asked(body=body)) == (400, code)


@pytest.mark.parametrize("defect", SOCKET, ids=str)
async def test_a_defect_of_a_handshake(defect: Defect) -> None:
    """Alone, each is refused in its own way; so is one that comes during shutdown."""
    asked = with_defects(Asked(path="/ws/overview"), defect)
    assert await refused_socket(asked) == (defect.status, defect.code)
    assert await refused_socket(asked, closing=True) == (defect.status, defect.code)


@pytest.mark.parametrize(("first", "second"), list(combinations(SOCKET, 2)), ids=str)
async def test_of_two_defects_of_a_handshake(first: Defect, second: Defect) -> None:
    """The earlier one is told."""
    asked = with_defects(Asked(path="/ws/overview"), first, second)
    assert await refused_socket(asked) == (first.status, first.code)


async def test_without_a_defect_all_is_well() -> None:
    """What the defects are done to would be served."""
    async with open_web(max_body=LIMIT) as web:
        asked = Asked()
        reply = await web.ask("POST", asked.path, raw=asked.body)
        assert reply.status == 201
        async with open_socket(web.app, "/ws/overview", headers=asked.all_headers) as end:
            assert (await end.next())["payload"]["reason"] == "initial_sync"


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize("defect", HEAD, ids=str)
async def test_health_and_options_skip_the_token_only(method: str, defect: Defect) -> None:
    """Every other step of the head holds for them, too."""
    asked = with_defects(Asked(method=method, path="/", body=b"", token="no"), defect)
    assert await refused(asked) == (defect.status, defect.code)
