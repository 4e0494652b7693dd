"""Who may come in: one pure decision over a request's head.

The order is part of the contract, so that answers are predictable: shape of the
target > exactly one Host, and a known one > no header twice that carries a token
> Origin > token > path > method > media type > size. The health check skips the
token step, and so does OPTIONS; nothing skips any other.

The token travels in headers. Sockets take `?token=` too, because a browser or an
unchanged client has no other way; there it comes first, and a wrong one is not
rescued by a header.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from vidra_trio.web.hosts import Host, Origin, bound_host, own_origin, parse_host, parse_origin
from vidra_trio.wire.routes import HEALTH, Found, Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypercorn.typing import HTTPScope, WebsocketScope

    from vidra_trio.settings import Settings

    WebScope = HTTPScope | WebsocketScope

_TOKEN_HEADERS: Final = (b"authorization", b"x-api-token")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_FOREIGN_SITES: Final = frozenset({b"cross-site", b"same-site"})
_NOTHING: Final = (b"", b"identity")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer given at the door. Without `code` it is OPTIONS' empty one."""

    status: int
    code: str | None = None
    detail: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the decision depends on besides the request."""

    token: bytes = field(repr=False)
    bound: Host
    """Where the server listens. Not loopback: then any of our numbers may be used to reach it."""
    table: Table = field(default_factory=Table)
    hosts: frozenset[Host] = frozenset()
    """Further names; a port of None means any, as behind a tunnel or a proxy."""
    origins: frozenset[Origin] = frozenset()
    max_body: int = 1024 * 1024

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Read the rules off the settings."""
        hosts = map(parse_host, settings.allowed_hosts)
        origins = map(parse_origin, settings.allowed_origins)
        return cls(
            token=settings.token.encode(),
            bound=bound_host(settings.host),
            table=Table.named(_second_names(settings)),
            hosts=frozenset(host for host in hosts if host is not None),
            origins=frozenset(origin for origin in origins if origin is not None),
            max_body=settings.max_body,
        )


def examine(scope: WebScope, rules: Rules) -> Refusal | Found:
    """Let a request in, or say why not."""
    if not scope["path"].startswith("/"):
        return Refusal(400, "bad_request", "the request target is not a path")
    host = _host(scope, rules)
    if isinstance(host, Refusal):
        return host
    found = rules.table.find(scope["path"], socket=scope["type"] == "websocket")
    refusal = _refuse_duplicates(scope) or _refuse_origin(scope, rules, host)
    if refusal is None and not _needs_no_token(scope, found):
        refusal = _refuse_token(scope, rules)
    if refusal is not None:
        return refusal
    if found is None:
        return Refusal(404, "not_found")
    return _refuse_request(scope, rules, found) or found


def without_token(query: bytes) -> bytes:
    """Return a query string without its `token` members, for whoever reads or logs it next."""
    kept = [member for member in query.split(b"&") if _member_name(member) != b"token"]
    return b"&".join(kept)


# -- the steps, in their order


def _host(scope: WebScope, rules: Rules) -> Host | Refusal:
    given = _values(scope, b"host")
    host = parse_host(given[0].decode("latin-1")) if len(given) == 1 else None
    if host is None or not _is_known(host, scope, rules):
        return Refusal(421, "host_not_allowed")
    return host


def _is_known(host: Host, scope: WebScope, rules: Rules) -> bool:
    if host in rules.hosts or Host(host.name) in rules.hosts:
        return True
    server = scope.get("server")
    if host.port is not None and server is not None and server[1] != host.port:
        return False
    if host.name == rules.bound.name or host.is_loopback:
        return True
    return not rules.bound.is_loopback and host.address is not None


def _refuse_duplicates(scope: WebScope) -> Refusal | None:
    for name in _TOKEN_HEADERS:
        if len(_values(scope, name)) > 1:
            return Refusal(400, "duplicate_header", f"{name.decode()} was sent more than once")
    return None


def _refuse_origin(scope: WebScope, rules: Rules, host: Host) -> Refusal | None:
    """A page of somebody else's may not talk to us, not even with the right token."""
    given = _values(scope, b"origin")
    if not given:
        foreign = _FOREIGN_SITES.intersection(_values(scope, b"sec-fetch-site"))
        return Refusal(403, "origin_not_allowed") if foreign else None
    origin = parse_origin(given[0].decode("latin-1")) if len(given) == 1 else None
    own = own_origin(_SCHEMES.get(scope["scheme"], "http"), host)
    if origin is not None and (origin == own or origin in rules.origins):
        return None
    return Refusal(403, "origin_not_allowed")


def _needs_no_token(scope: WebScope, found: Found | None) -> bool:
    if scope["type"] == "websocket":
        return False
    return scope["method"] == "OPTIONS" or (found is not None and found.path == HEALTH)


def _refuse_token(scope: WebScope, rules: Rules) -> Refusal | None:
    given = _query_token(scope) if scope["type"] == "websocket" else None
    if given is None:
        given = _header_token(scope)
    if given and hmac.compare_digest(given, rules.token):
        return None
    if scope["type"] == "websocket":  # what a client sees of a close before the handshake
        return Refusal(403, "token_missing_or_invalid")
    challenge = (b"www-authenticate", b"Bearer")
    return Refusal(401, "token_missing_or_invalid", headers=(challenge,))


def _refuse_request(scope: WebScope, rules: Rules, found: Found) -> Refusal | None:
    if scope["type"] == "websocket":
        return None
    allow = (b"allow", ", ".join(sorted(found.methods)).encode())
    if scope["method"] == "OPTIONS":
        return Refusal(204, headers=(allow,))
    if scope["method"] not in found.methods:
        return Refusal(405, "method_not_allowed", headers=(allow,))
    return _refuse_media_type(scope) or _refuse_size(scope, rules)


def _refuse_media_type(scope: WebScope) -> Refusal | None:
    """Only what a page cannot send without asking first; and nothing to unpack."""
    if not _has_body(scope):
        return None
    types = [value.partition(b";")[0].strip().lower() for value in _values(scope, b"content-type")]
    codings = [value.strip().lower() for value in _values(scope, b"content-encoding")]
    if any(given != b"application/json" for given in types):
        return Refusal(415, "unsupported_media_type", "application/json is needed")
    if any(coding not in _NOTHING for coding in codings):
        return Refusal(415, "unsupported_media_type", "no content coding is supported")
    return None


def _refuse_size(scope: WebScope, rules: Rules) -> Refusal | None:
    for value in _values(scope, b"content-length"):
        if not value.isdigit():
            return Refusal(400, "bad_request", "content-length is not a number")
        if len(value) > 18 or int(value) > rules.max_body:
            return Refusal(413, "payload_too_large", f"at most {rules.max_body} bytes are taken")
    return None


# -- what the steps look at


def _has_body(scope: WebScope) -> bool:
    lengths = _values(scope, b"content-length")
    chunked = _values(scope, b"transfer-encoding")
    return bool(chunked) or any(value.strip(b"0") for value in lengths)


def _values(scope: WebScope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


def _header_token(scope: WebScope) -> bytes:
    """`Authorization`, with or without `Bearer`; only if it says nothing, `X-API-Token`."""
    given = b"".join(_values(scope, b"authorization")).strip()
    if given[:7].lower() == b"bearer ":
        given = given[7:].strip()
    return given or b"".join(_values(scope, b"x-api-token")).strip()


def _query_token(scope: WebScope) -> bytes | None:
    """The token of a socket's query; None when there is none, blank ones not counted."""
    given = {
        unquote_to_bytes(member.partition(b"=")[2].replace(b"+", b" ")).strip()
        for member in scope["query_string"].split(b"&")
        if _member_name(member) == b"token"
    } - {b""}
    # Several different ones: no guessing which was meant.
    return given.pop() if len(given) == 1 else b"" if given else None


def _member_name(member: bytes) -> bytes:
    return unquote_to_bytes(member.partition(b"=")[0].replace(b"+", b" "))


def _second_names(settings: Settings) -> Iterable[tuple[str, str]]:
    base = settings.base_path
    yield base, "/"
    yield f"{base}/{settings.api_root}", "/api"
    yield f"{base}/{settings.ws_overview_path}", "/ws/overview"
    yield f"{base}/{settings.ws_job_path}", "/ws/jobs"
