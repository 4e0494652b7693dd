"""Which URLs may be asked for at all.

1. Only `http` and `https` with a host, and nothing that a parser after ours could
   read as something else: no control character, no user name, no backslash.
2. A home network is fair game, this machine's other services too; this server
   itself is not, nor the addresses that only ever mean "me" or a cloud's
   metadata. Numeric hosts are read the way a resolver reads them (`127.1`,
   `0x7f000001`), or the rule would be a matter of spelling.
3. Names are not resolved here: what a name means can change before the fetch.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

MAX_URL_BYTES: Final = 8 * 1024

_PORTS: Final = {"http": 80, "https": 443}
_FORBIDDEN_IN_HOST: Final = re.compile(r"[\s\\%<>\"{}|^`]")
_OTHER_DOTS: Final = re.compile("[\u3002\uff0e\uff61]")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{0,16}|[0-9]{1,16}")
_NEVER: Final = (
    ipaddress.ip_network("0.0.0.0/32"),
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("::/128"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::254/128"),
)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """Where this server listens."""

    host: str
    port: int


def objection(url: str, own: OwnAddress | None = None) -> str | None:
    """Say why `url` is never fetched; None when nothing speaks against it."""
    if len(url.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        return f"longer than {MAX_URL_BYTES} bytes"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in url):
        return "control characters"
    if url.startswith("-"):
        return "begins with a dash"
    if "__youtubedl_smuggle" in url:
        return "carries hidden instructions"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"not a URL ({error})"
    if parts.scheme not in _PORTS:
        return "only http and https are fetched"
    return _objection_to_host(parts, port or _PORTS[parts.scheme], own)


def _objection_to_host(parts: SplitResult, port: int, own: OwnAddress | None) -> str | None:
    host = _plain(parts.hostname or "")
    if not host:
        return "no host"
    if "@" in parts.netloc:
        return "user name or password in it"
    if _FORBIDDEN_IN_HOST.search(parts.netloc):
        return "not a host name"
    address = parse_address(host)
    if address is not None and any(address in network for network in _NEVER):
        return "an address that is never fetched"
    if own is not None and port == own.port and _is_own(host, address, own.host.lower()):
        return "this server itself"
    return None


def _plain(host: str) -> str:
    """Fold what name resolution folds: wide digits, other full stops, a dot at the end."""
    return _OTHER_DOTS.sub(".", unicodedata.normalize("NFKC", host)).lower().rstrip(".")


def parse_address(host: str) -> IPAddress | None:
    """Read a numeric host as a resolver does; None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _old_style_ipv4(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or a number of this machine alone."""
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _is_own(host: str, address: IPAddress | None, own: str) -> bool:
    return host == own or is_loopback(host) or (address is not None and str(address) == own)


def _old_style_ipv4(host: str) -> ipaddress.IPv4Address | None:
    """`a`, `a.b`, `a.b.c` or `a.b.c.d`, each decimal, octal or hexadecimal; the last fills up."""
    words = host.split(".")
    if len(words) > 4 or not all(_NUMBER.fullmatch(word) for word in words):
        return None
    try:
        *high, last = [_number(word) for word in words]
    except ValueError:  # an 8 or a 9 in an octal number
        return None
    room = 4 - len(high)
    if any(number > 255 for number in high) or last >= 256**room:
        return None
    return ipaddress.IPv4Address(int.from_bytes(bytes(high)) << 8 * room | last)


def _number(word: str) -> int:
    if word[:2] in {"0x", "0X"}:
        return int(word[2:] or "0", 16)
    return int(word, 8 if word.startswith("0") else 10)
