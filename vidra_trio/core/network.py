"""Options that say how to reach a site: proxy, headers, address, cookies, rate."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from vidra_trio.core.readers import NOT_MAPPING, BadValue, matching, plain, text, unset

HEADER_LIMIT: Final = 64
PROXY_SCHEMES: Final = ("http", "https", "socks", "socks4", "socks4a", "socks5", "socks5h")
BROWSERS: Final = (
    "brave",
    "chrome",
    "chromium",
    "edge",
    "firefox",
    "opera",
    "safari",
    "vivaldi",
    "whale",
)
BROWSER_LIMIT: Final = 256
KEYRINGS: Final = ("BASICTEXT", "GNOMEKEYRING", "KWALLET", "KWALLET5", "KWALLET6")
ANY_TARGET: Final = ""
"""What `impersonate: true` becomes: whichever client can be impersonated."""

# These frame the request or choose its host; a client of ours has no business there.
_NOT_FROM_CLIENTS: Final = ("host", "content-length", "transfer-encoding")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RATE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *([KMGT]?)(?:I?B)?(?:/S)?")
_BROWSER: Final = re.compile(
    r"(?P<name>[^+:]+?)(?:\s*\+\s*(?P<keyring>[^:]+?))?"
    r"(?:\s*:\s*(?!:)(?P<profile>.+?))?(?:\s*::\s*(?P<container>.+))?"
)
# A profile may be a path for yt-dlp, which then reads (and copies) that file.
_PATHLIKE: Final = re.compile(r"[/\\~$]|^\.")

impersonate: Final = matching(
    r"[A-Za-z][A-Za-z0-9.\-]*(?::[A-Za-z0-9.\-]+)?",
    "a client such as chrome or chrome:windows-10",
    true=ANY_TARGET,
)


def proxy(value: object) -> str | None:
    """Read a proxy's URL; a bare `host:port` speaks http."""
    word = text(value)
    if word is None:
        return None
    url = word if "://" in word else f"http://{word}"
    try:
        parts = urlsplit(url)
        known = parts.scheme.lower() in PROXY_SCHEMES and parts.hostname and parts.port != 0
    except ValueError:  # a port or an IPv6 literal that is none
        known = False
    if not known or re.search(r"\s", url) or parts.path.strip("/") or parts.query or parts.fragment:
        raise BadValue("Must be a URL such as http://host:port or socks5://host:port.")
    return url


def source_address(value: object) -> str | None:
    """Read an IP address of this machine."""
    word = text(value)
    try:
        return None if word is None else str(ipaddress.ip_address(word))
    except ValueError:
        raise BadValue("Must be an IP address.") from None


def forwarded_for(value: object) -> str | None:
    """Read `xff`: default, never, a country's two letters, or an IPv4 block."""
    word = text(value)
    if word is None or word.casefold() in ("default", "never"):
        return word and word.casefold()
    if re.fullmatch(r"[A-Za-z]{2}", word):
        return word.upper()
    try:
        if "/" in word:
            return str(ipaddress.IPv4Network(word, strict=False))
    except ValueError:
        pass
    raise BadValue("Must be default, never, a two-letter country code or an IPv4 block.")


def rate(value: object) -> int | None:
    """Read bytes a second: a number, `500K`, `4.2M`; 0 is no limit."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{value:f}" if 0 <= value < 10**15 else "out of range"
    word = text(value)
    if word is None:
        return None
    found = _RATE.fullmatch(word.upper())
    if not found:
        raise BadValue("Must be bytes per second, such as 500K or 4.2M.")
    return round(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) or None


def browser_cookies(value: object) -> list[str | None] | None:
    """Read `browser[+keyring][:profile][::container]` as the list that yt-dlp takes.

    True names no browser, so there is nothing to read cookies from: it says nothing.
    """
    word = None if value is True else text(value)
    if word is None:
        return None
    found = _BROWSER.fullmatch(word) if len(word) <= BROWSER_LIMIT else None
    name = found["name"].lower() if found else ""
    if not found or name not in BROWSERS:
        raise BadValue("Must be one of: " + ", ".join(BROWSERS) + ".")
    keyring = found["keyring"].upper() if found["keyring"] else None
    if keyring is not None and keyring not in KEYRINGS:
        raise BadValue("The keyring must be one of: " + ", ".join(KEYRINGS) + ".")
    if any(_PATHLIKE.search(found[part] or "") for part in ("profile", "container")):
        raise BadValue("The profile must be a name, not a path.")
    return [name, found["profile"], keyring, found["container"]]


def headers(value: object) -> dict[str, str] | None:
    """Read headers: an object, `Name: value` lines, or a list of such lines."""
    if value is False or unset(value):
        return None
    named = {str(name): _header(name, content) for name, content in _header_pairs(value)}
    if len(named) > HEADER_LIMIT:
        raise BadValue(f"At most {HEADER_LIMIT} headers.")
    return named or None


def _header_pairs(value: object) -> list[tuple[object, object]]:
    if isinstance(value, Mapping):
        return [(name, content) for name, content in value.items() if content is not None]
    lines = value.splitlines() if isinstance(value, str) else value
    if not isinstance(lines, (list, tuple)):
        raise BadValue(NOT_MAPPING)
    pairs: list[tuple[object, object]] = []
    for line in lines:
        name, colon, content = plain(line).partition(":")
        if colon:
            pairs.append((name.strip(), content))
        elif name:
            raise BadValue("Must be lines of the form Name: value.")
    return pairs


def _header(name: object, content: object) -> str:
    if isinstance(content, int) and not isinstance(content, bool):
        content = str(content) if abs(content) < 10**18 else content
    label = plain(name)
    if label != name or not _HEADER_NAME.fullmatch(label):
        raise BadValue("A header's name must be a token.")
    if label.lower() in _NOT_FROM_CLIENTS or label.lower().startswith("ytdl-"):
        raise BadValue(f"{label} may not be set.")
    word = plain(content)
    if any(ord(char) > 0xFF for char in word):
        raise BadValue("A header's value must be Latin-1.")
    return word


def params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the yt-dlp parameters that two options or more decide together."""
    out: dict[str, Any] = {"geo_bypass": values["xff"] != "never"}
    if values["force_ipv4"] or values["force_ipv6"]:
        # As on yt-dlp's command line, binding to "any" of a family is how to force it.
        out["source_address"] = "::" if values["force_ipv6"] else "0.0.0.0"  # noqa: S104
    if values["xff"] not in (None, "default", "never"):
        block = "geo_bypass_ip_block" if "/" in values["xff"] else "geo_bypass_country"
        out[block] = values["xff"]
    if values["username"] is not None:
        # An extractor that finds a name without a password would ask on a terminal.
        out["username"] = values["username"]
        out["password"] = values["password"] or ""
    return out
