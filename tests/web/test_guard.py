"""Who may come in: the pure decision, refusal by refusal and in its order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.web import TOKEN, settings
from vidra_trio.web.guard import Refusal, Rules, examine, without_token
from vidra_trio.web.hosts import bound_host
from vidra_trio.wire.routes import ROUTES, SOCKET, Found

if TYPE_CHECKING:
    from vidra_trio.web.guard import WebScope

RULES = Rules.of(
    settings(
        allowed_hosts=("proxy.example", "tunnel.example:9000"),
        allowed_origins=("https://page.example",),
    )
)
OPEN = replace(RULES, bound=bound_host("0.0.0.0"))
GOOD = b"Bearer " + TOKEN.encode()

Headers = list[tuple[bytes, bytes]]
HOST: Headers = [(b"host", b"127.0.0.1:5000")]
AUTH: Headers = [(b"authorization", GOOD)]
EVIL: Headers = [(b"origin", b"http://evil.example")]


def scope(
    method: str = "GET",
    path: str = "/api/jobs",
    headers: Headers | None = None,
    **more: Any,  # noqa: ANN401 - members of an ASGI scope
) -> WebScope:
    """Return the head of a request."""
    made = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [*HOST, *AUTH] if headers is None else headers,
        "server": ("127.0.0.1", 5000),
        **more,
    }
    return cast("WebScope", made)


def socket(path: str = "/ws/overview", headers: Headers | None = None, **more: Any) -> WebScope:  # noqa: ANN401
    """Return the head of a handshake."""
    return scope("GET", path, headers, **{"type": "websocket", "scheme": "ws", **more})


def judged(asked: WebScope, rules: Rules = RULES) -> tuple[int, str | None]:
    """Return status and code of a refusal; 200 for who may come in."""
    verdict = examine(asked, rules)
    return (200, None) if isinstance(verdict, Found) else (verdict.status, verdict.code)


# -- the target and the host


@pytest.mark.parametrize("path", ["*", "http://127.0.0.1:5000/api/jobs", "", "example.org:443"])
def test_a_target_that_is_no_path_is_refused(path: str) -> None:
    """Proxies are asked that way; we are none."""
    assert judged(scope(path=path)) == (400, "bad_request")


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1:5000", b"127.0.0.1", b"localhost:5000", b"LOCALHOST", b"[::1]:5000",
        b"127.8.8.8:5000", b"proxy.example", b"proxy.example:443", b"tunnel.example:9000",
    ],
)  # fmt: skip
def test_known_hosts(host: bytes) -> None:
    """Loopback names and numbers with our port, and what the settings allow."""
    assert judged(scope(headers=[(b"host", host), *AUTH])) == (200, None)


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example", b"evil.example:5000", b"127.0.0.1.evil.example", b"localhost.evil.example",
        b"evil@127.0.0.1", b"127.0.0.1:5001", b"localhost:80", b"127.0.0.1 evil", b"127.1",
        b"2130706433", b"localhost.", b"", b"[::1", b"192.168.1.5:5000", b"0.0.0.0:5000",
        b"tunnel.example", b"sub.proxy.example", b"\xff\xfe", b"127.0.0.1,evil.example",
    ],
)  # fmt: skip
def test_unknown_hosts(host: bytes) -> None:
    """A name that leads here by somebody else's DNS is not ours; nor is health open to it."""
    for path in ("/api/jobs", "/"):
        given = [(b"host", host), *AUTH]
        assert judged(scope(path=path, headers=given)) == (421, "host_not_allowed")


@pytest.mark.parametrize("hosts", [[], [*HOST, *HOST], [*HOST, (b"Host", b"evil.example")]])
def test_exactly_one_host(hosts: Headers) -> None:
    """None or two leave open who was meant."""
    assert judged(scope(headers=[*hosts, *AUTH])) == (421, "host_not_allowed")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"0.0.0.0:5000", 200),
        (b"192.168.1.5:5000", 200),
        (b"[2001:db8::1]:5000", 200),
        (b"192.168.1.5:5001", 421),
        (b"my-box:5000", 421),
    ],
)
def test_a_server_for_the_network_is_reached_by_its_numbers(host: bytes, status: int) -> None:
    """A number cannot be rebound; a name has to be allowed."""
    assert judged(scope(headers=[(b"host", host), *AUTH]), OPEN)[0] == status


def test_a_configured_name_is_known() -> None:
    """The address it listens on is its name, too."""
    rules = Rules.of(settings(host="box.home"))
    assert judged(scope(headers=[(b"host", b"Box.home:5000"), *AUTH]), rules) == (200, None)


def test_without_a_known_port_any_will_do() -> None:
    """A server that does not say where it listens cannot be asked the wrong way."""
    given = [(b"host", b"localhost:81"), *AUTH]
    assert judged(scope(headers=given, server=None)) == (200, None)


# -- headers that carry a token


@pytest.mark.parametrize("name", [b"authorization", b"x-api-token", b"X-API-Token"])
@pytest.mark.parametrize("asked", [scope, socket])
def test_a_token_header_comes_once(name: bytes, asked: Any) -> None:  # noqa: ANN401
    """Two could disagree between us and a proxy."""
    given = [*HOST, (name, GOOD), (name, GOOD)]
    assert judged(asked(headers=given)) == (400, "duplicate_header")


# -- origin


@pytest.mark.parametrize(
    "given",
    [
        [],
        [(b"origin", b"http://127.0.0.1:5000")],
        [(b"origin", b"https://page.example")],
        [(b"origin", b"https://page.example:443"), (b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-origin")],
        [(b"sec-fetch-site", b"none")],
    ],
)
def test_origins_that_may_ask(given: Headers) -> None:
    """Nobody's, our own, and those that the settings allow."""
    assert judged(scope(headers=[*HOST, *AUTH, *given])) == (200, None)
    assert judged(socket(headers=[*HOST, *AUTH, *given])) == (200, None)


@pytest.mark.parametrize(
    "given",
    [
        EVIL,
        [(b"origin", b"null")],
        [(b"origin", b"")],
        [(b"origin", b"http://127.0.0.1")],
        [(b"origin", b"http://127.0.0.1:5001")],
        [(b"origin", b"https://127.0.0.1:5000")],
        [(b"origin", b"http://localhost:5000")],
        [(b"origin", b"http://127.0.0.1:5000.evil.example")],
        [(b"origin", b"https://page.example.evil.example")],
        [(b"origin", b"https://page.example"), (b"origin", b"https://page.example")],
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],
    ],
)
def test_foreign_pages_may_not_ask(given: Headers) -> None:
    """Not even with the right token, not even for health."""
    assert judged(scope(headers=[*HOST, *AUTH, *given])) == (403, "origin_not_allowed")
    assert judged(scope(path="/", headers=[*HOST, *given])) == (403, "origin_not_allowed")
    assert judged(scope("OPTIONS", headers=[*HOST, *given])) == (403, "origin_not_allowed")
    assert judged(socket(headers=[*HOST, *AUTH, *given])) == (403, "origin_not_allowed")


# -- token


@pytest.mark.parametrize(
    "given",
    [
        [(b"authorization", GOOD)],
        [(b"authorization", b"bearer  " + TOKEN.encode() + b" ")],
        [(b"authorization", TOKEN.encode())],
        [(b"x-api-token", b" " + TOKEN.encode())],
        [(b"authorization", b" "), (b"x-api-token", TOKEN.encode())],
        [(b"authorization", GOOD), (b"x-api-token", b"wrong")],
    ],
)
def test_the_token_in_its_headers(given: Headers) -> None:
    """With or without `Bearer`; the second header counts when the first says nothing."""
    assert judged(scope(headers=[*HOST, *given])) == (200, None)
    assert judged(socket(headers=[*HOST, *given])) == (200, None)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [(b"authorization", b"Bearer wrong")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Basic " + TOKEN.encode())],
        [(b"authorization", GOOD[:-1])],
        [(b"authorization", GOOD + b"x")],
        [(b"authorization", GOOD.upper())],
        [(b"authorization", b"Bearer wrong"), (b"x-api-token", TOKEN.encode())],
        [(b"x-api-token", b"")],
        [(b"x-api-token", "tök€n".encode())],
        [(b"x-api-token", b"\xff\xfe")],
        [(b"cookie", b"token=" + TOKEN.encode())],
    ],
)
def test_no_token_no_entrance(given: Headers) -> None:
    """A wrong one is not rescued by a right one elsewhere; odd bytes are only wrong."""
    assert judged(scope(headers=[*HOST, *given])) == (401, "token_missing_or_invalid")
    assert judged(socket(headers=[*HOST, *given])) == (403, "token_missing_or_invalid")


def test_a_refused_token_names_the_scheme() -> None:
    """As HTTP asks of every 401."""
    refusal = examine(scope(headers=HOST), RULES)
    assert isinstance(refusal, Refusal)
    assert refusal.headers == ((b"www-authenticate", b"Bearer"),)


@pytest.mark.parametrize("query", [b"token=" + TOKEN.encode(), b"a=b&token=" + TOKEN.encode()])
def test_requests_never_take_the_token_from_the_query(query: bytes) -> None:
    """URLs end up in logs and histories."""
    asked = scope(headers=HOST, query_string=query)
    assert judged(asked) == (401, "token_missing_or_invalid")
    assert judged(socket(headers=HOST, query_string=query)) == (200, None)


@pytest.mark.parametrize(
    ("query", "given", "status"),
    [
        (b"token=wrong", AUTH, 403),
        (b"token=", AUTH, 200),
        (b"token=+", AUTH, 200),
        (b"token", AUTH, 200),
        (b"token=+" + TOKEN.encode() + b"%20", [], 200),
        (b"%74oken=" + TOKEN.encode(), [], 200),
        (b"Token=" + TOKEN.encode(), [], 403),
        (b"token=wrong&token=" + TOKEN.encode(), [], 403),
        (b"token=" + TOKEN.encode() + b"&token=" + TOKEN.encode(), [], 200),
        (b"token=%ff", [], 403),
    ],
)
def test_sockets_take_the_query_first(query: bytes, given: Headers, status: int) -> None:
    """A wrong one there is not rescued by a header; a blank one does not count."""
    assert judged(socket(headers=[*HOST, *given], query_string=query))[0] == status


def test_a_token_with_spaces_and_accents() -> None:
    """Form encoding, as clients write it."""
    rules = replace(RULES, token="un tökén".encode())
    asked = socket(headers=HOST, query_string=b"token=un+t%C3%B6k%C3%A9n")
    assert judged(asked, rules) == (200, None)


def test_an_empty_token_opens_nothing() -> None:
    """Should a defect ever leave the token empty, nobody comes in."""
    rules = replace(RULES, token=b"")
    assert judged(scope(headers=HOST), rules) == (401, "token_missing_or_invalid")


def test_the_token_is_not_in_the_rules_repr() -> None:
    """A traceback or a log line may show the rules."""
    assert TOKEN not in repr(RULES)


def test_health_and_options_need_no_token() -> None:
    """The launcher asks without one, and so does a preflight."""
    assert judged(scope(path="/", headers=HOST)) == (200, None)
    assert judged(scope("HEAD", "//", headers=HOST)) == (200, None)
    assert judged(scope("OPTIONS", headers=HOST)) == (204, None)
    assert judged(scope("OPTIONS", "/nope", headers=HOST)) == (404, "not_found")


# -- path, method, body


def test_unknown_paths() -> None:
    """The token comes first, so nobody can map us without it."""
    assert judged(scope(path="/api/nope")) == (404, "not_found")
    assert judged(scope(path="/api/nope", headers=HOST)) == (401, "token_missing_or_invalid")
    assert judged(scope(path="/ws/overview")) == (404, "not_found")
    assert judged(socket("/ws/nope")) == (404, "not_found")
    assert judged(socket("/api/jobs")) == (404, "not_found")
    assert judged(socket("/ws/nope", headers=HOST)) == (403, "token_missing_or_invalid")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/api/jobs", b"GET, HEAD, OPTIONS, POST"),
        ("POST", "/", b"GET, HEAD, OPTIONS"),
        ("GET", "/api/jobs/x/cancel", b"OPTIONS, POST"),
        ("PUT", "/api/jobs/cancel", b"DELETE, GET, HEAD, OPTIONS, POST"),
        ("TRACE", "/", b"GET, HEAD, OPTIONS"),
        ("get", "/api/jobs", b"GET, HEAD, OPTIONS, POST"),
    ],
)
def test_unknown_methods_learn_the_known_ones(method: str, path: str, allow: bytes) -> None:
    """405 with Allow; OPTIONS says the same."""
    refusal = examine(scope(method, path), RULES)
    assert refusal == Refusal(405, "method_not_allowed", headers=((b"allow", allow),))
    assert examine(scope("OPTIONS", path), RULES) == Refusal(204, headers=((b"allow", allow),))


@pytest.mark.parametrize(
    "given",
    [
        [],
        [(b"content-length", b"0"), (b"content-type", b"text/plain")],
        [(b"content-length", b"9")],
        [(b"content-length", b"9"), (b"content-type", b"application/json")],
        [(b"content-length", b"9"), (b"content-type", b" Application/JSON ; charset=utf-8")],
        [(b"content-length", b"9"), (b"content-encoding", b"identity")],
        [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")],
        [(b"content-length", b"1048576")],
    ],
)
def test_bodies_that_are_taken(given: Headers) -> None:
    """JSON, said or unsaid; without a body nobody looks at its type."""
    assert judged(scope("POST", headers=[*HOST, *AUTH, *given])) == (200, None)


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ([(b"content-type", b"text/plain")], 415, "unsupported_media_type"),
        ([(b"content-type", b"application/jsonp")], 415, "unsupported_media_type"),
        ([(b"content-type", b"")], 415, "unsupported_media_type"),
        ([(b"content-type", b"application/x-www-form-urlencoded")], 415, "unsupported_media_type"),
        ([(b"content-encoding", b"gzip")], 415, "unsupported_media_type"),
        ([(b"content-length", b"1048577")], 413, "payload_too_large"),
        ([(b"content-length", b"9" * 5000)], 413, "payload_too_large"),
        ([(b"content-length", b"-1")], 400, "bad_request"),
        (
            [(b"content-length", b"1048577"), (b"content-type", b"a/b")],
            415,
            "unsupported_media_type",
        ),
    ],
)
def test_bodies_that_are_refused(given: Headers, status: int, code: str) -> None:
    """By type before size, and by size before a byte was read."""
    body: Headers = [] if b"content-length" in dict(given) else [(b"content-length", b"9")]
    for method, path in (("POST", "/api/jobs"), ("POST", "/api/jobs/x/cancel")):
        asked = scope(method, path, [*HOST, *AUTH, *body, *given])
        assert judged(asked) == (status, code)


def test_sockets_have_no_body() -> None:
    """What a handshake says about one is not looked at."""
    given = [*HOST, *AUTH, (b"content-length", b"9"), (b"content-type", b"text/plain")]
    assert judged(socket(headers=given)) == (200, None)


# -- all of it


def test_the_order_of_the_checks() -> None:
    """With everything wrong at once, mending one thing shows the next."""
    wrong: Headers = [(b"content-length", b"9999999"), (b"content-type", b"text/plain")]
    twice: Headers = [(b"authorization", b"x"), (b"authorization", b"x")]
    evil_host: Headers = [(b"host", b"evil.example")]
    steps: list[tuple[str, str, Headers, int]] = [
        ("PUT", "nope", [*evil_host, *twice, *EVIL, *wrong], 400),
        ("PUT", "/nope", [*evil_host, *twice, *EVIL, *wrong], 421),
        ("PUT", "/nope", [*HOST, *twice, *EVIL, *wrong], 400),
        ("PUT", "/nope", [*HOST, *EVIL, *wrong], 403),
        ("PUT", "/nope", [*HOST, *wrong], 401),
        ("PUT", "/nope", [*HOST, *AUTH, *wrong], 404),
        ("PUT", "/api/jobs", [*HOST, *AUTH, *wrong], 405),
        ("POST", "/api/jobs", [*HOST, *AUTH, *wrong], 415),
        ("POST", "/api/jobs", [*HOST, *AUTH, *wrong[:1]], 413),
        ("POST", "/api/jobs", [*HOST, *AUTH], 200),
    ]
    told = [judged(scope(method, path, headers))[0] for method, path, headers, _ in steps]
    assert told == [status for *_, status in steps]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_but_health_needs_the_token(route: Any) -> None:  # noqa: ANN401
    """Whoever adds a route cannot forget it."""
    path = route.path.replace("{job_id}", "x")
    if route.method is SOCKET:
        assert judged(socket(path, headers=HOST)) == (403, "token_missing_or_invalid")
        assert judged(socket(path)) == (200, None)
        return
    without = judged(scope(route.method, path, headers=HOST))
    open_to_all = route.name == "health"
    assert without == ((200, None) if open_to_all else (401, "token_missing_or_invalid"))
    assert judged(scope(route.method, path)) == (200, None)


def test_configured_prefixes_are_guarded_alike() -> None:
    """A second name is no back door."""
    rules = Rules.of(settings(base_path="/v", api_root="/rest", ws_job_path="/ws/one"))
    for path in ("/v/rest/jobs", "/v/api/jobs", "/api/jobs"):
        assert judged(scope(path=path, headers=HOST), rules)[0] == 401
        assert judged(scope(path=path), rules)[0] == 200
    assert judged(scope(path="/v", headers=HOST), rules)[0] == 200
    assert judged(socket("/v/ws/one/x"), rules)[0] == 200
    assert judged(socket("/v/ws/one/x", headers=HOST), rules)[0] == 403


@pytest.mark.parametrize(
    ("query", "rest"),
    [
        (b"", b""),
        (b"token=s", b""),
        (b"a=b&token=s&c=d", b"a=b&c=d"),
        (b"%74oken=s&token&a", b"a"),
        (b"tokens=s&Token=s", b"tokens=s&Token=s"),
        (b"token=a&token=b", b""),
    ],
)
def test_the_token_leaves_the_query(query: bytes, rest: bytes) -> None:
    """In whatever spelling; everything else stays."""
    assert without_token(query) == rest


_BYTES = st.binary(max_size=30)
_NAMES = st.sampled_from(
    [b"host", b"authorization", b"x-api-token", b"origin", b"sec-fetch-site", b"content-length",
     b"content-type", b"transfer-encoding", b"content-encoding"]
)  # fmt: skip


@given(
    st.text(max_size=30),
    st.lists(st.tuples(_NAMES, _BYTES)),
    _BYTES,
    st.sampled_from([scope, socket]),
)
def test_no_head_raises(path: str, given: Headers, query: bytes, asked: Any) -> None:  # noqa: ANN401
    """Whatever a head holds, there is a decision; and nobody comes in by chance."""
    for headers in (given, [*HOST, *given]):
        verdict = examine(asked(path="/" + path, headers=headers, query_string=query), RULES)
        without_token(query)
        if isinstance(verdict, Found):
            assert verdict.path == "/"
