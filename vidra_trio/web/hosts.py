"""Hosts and origins, taken apart.

Whether a name may be trusted is decided by equality on parsed parts. A pattern or
a prefix would let `127.0.0.1.evil.example` in; so would a lenient parser.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Host:
    """A `Host` header's value: a lower-case name or the usual form of a number, and a port."""

    name: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Only this machine is meant, and no name service is asked."""
        address = self.address
        return self.name == "localhost" if address is None else address.is_loopback

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The number; None for a name."""
        try:
            return ipaddress.ip_address(self.name)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who a browser says is asking; the port is always filled in."""

    scheme: str
    name: str
    port: int


def parse_host(text: str) -> Host | None:
    """Read `name`, `name:port`, `number:port` or `[number]:port`; None for anything else."""
    lowered = text.lower()
    if lowered.startswith("["):
        inner, closed, rest = lowered[1:].partition("]")
        name = _ipv6(inner) if closed else None
    else:
        plain, colon, port = lowered.partition(":")
        name, rest = (plain if _NAME.fullmatch(plain) else None), colon + port
    if name is None:
        return None
    if not rest:
        return Host(name)
    port_text = rest.removeprefix(":")
    if rest == port_text or not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        return None
    return Host(name, int(port_text))


def bound_host(text: str) -> Host:
    """Take the configured address as a `Host`, written as a client would write it."""
    return parse_host(f"[{text}]" if ":" in text else text) or Host(text.lower())


def parse_origin(text: str) -> Origin | None:
    """Read `scheme://host[:port]`; None for `null` and anything else."""
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    host = parse_host(rest) if separator and scheme in _DEFAULT_PORTS else None
    return None if host is None else own_origin(scheme, host)


def own_origin(scheme: str, host: Host) -> Origin:
    """Return the origin of a page that was served under this Host."""
    return Origin(scheme, host.name, host.port or _DEFAULT_PORTS[scheme])


def _ipv6(text: str) -> str | None:
    try:
        return None if "%" in text else str(ipaddress.IPv6Address(text))
    except ValueError:
        return None
