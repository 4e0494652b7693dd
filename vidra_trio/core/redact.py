"""Text that may be shown: without secrets, and on one line.

1. `redact` works on plain text, after everything else has been formatted: who
   logs does not have to think of it.
2. It repeats until nothing changes. Cutting a secret out can join its two sides
   to a new one; each pass that changes anything removes characters that are not
   asterisks, so it ends.
3. Rather too much than too little: a masked word costs a guess, a token the lot.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

MASK: Final = "***"

_NAME: Final = r"(?:token|passw(?:or)?d|secret|api[_-]?key|twofactor)"
_HEADER: Final = r"(?:authorization|x-api-token|x-api-key|(?:set-)?cookie)"

# Every repetition is bounded or cannot meet itself again: a hostile line costs linear time.
_PATTERNS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # A query or an environment: token=..., VIDRA_SERVER_TOKEN=..., access_token=...
        rf"(?P<keep>{_NAME}=)(?P<hide>[^&\s\"'<>;,)}}\]]+)",
        # JSON and repr: "password": "..."
        rf"(?P<keep>{_NAME}[\"']\s{{0,3}}:\s{{0,3}}\")(?P<hide>(?:[^\"\\\r\n]|\\.){{1,4096}})",
        rf"(?P<keep>{_NAME}[\"']\s{{0,3}}:\s{{0,3}}')(?P<hide>(?:[^'\\\r\n]|\\.){{1,4096}})",
        # A header: as sent, as JSON, or as a pair of (byte) strings.
        rf"(?P<keep>{_HEADER}[\"']?\s{{0,3}}[:=]\s{{0,3}}(?:b?[\"'])?)(?P<hide>[^\s\"'][^\r\n\"']*)",
        rf"(?P<keep>{_HEADER}[\"']\s{{0,3}},\s{{0,3}}b?[\"'])(?P<hide>[^\r\n\"']+)",
        r"(?P<keep>\bbearer\s{1,3})(?P<hide>[^\s\"',;]+)",
        r"(?P<keep>\bbasic\s{1,3})(?P<hide>[a-z0-9+/]{8,}={0,2})",
        # Who logs in where: https://user:password@host
        r"(?P<keep>://)(?P<hide>[^\s/?#\"'<>]{1,512})(?=@)",
    )
)

_NEWLINES: Final = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_SEQUENCES: Final = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # colours, cursor
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])"  # window titles, links
    "[^\x07\x1b\x9c\r\n]{0,4096}(?:\x07|\x1b\\\\|\x9c)"
    "|\x1b[ -/]{0,8}[0-~]"
)
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_BIDI: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SURROGATES: Final = re.compile("[\ud800-\udfff]")
"""Half a character: JSON and UTF-8 cannot hold it."""

_UNPRINTABLE: Final = re.compile(
    f"{_CONTROLS.pattern}|{_BIDI.pattern}|{SURROGATES.pattern}|[\u2028\u2029]"
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets` and without what looks like one.

    A secret goes as it is and as it looks in a URL. One made of asterisks only
    cannot be told from the mask and stays.
    """
    forms = _forms(secrets)
    while True:
        shown = text
        for pattern in _PATTERNS:
            shown = pattern.sub(_hidden, shown)
        for form in forms:
            shown = shown.replace(form, MASK)
        if shown == text:
            return shown
        text = shown


def one_line(text: str) -> str:
    """Return `text` as one printable line.

    ANSI sequences, control and bidi characters are gone, runs of line breaks and
    tabs are one space, half a surrogate pair is U+FFFD, the ends are trimmed.
    """
    if text.isprintable():
        return text.strip()
    text = _SEQUENCES.sub("", text)
    text = _NEWLINES.sub(" ", text)
    text = _BIDI.sub("", _CONTROLS.sub("", text))
    return SURROGATES.sub("\ufffd", text).strip()


def escape(text: str) -> str:
    r"""Return `text` as one line that hides nothing: what cannot be printed is spelt `\x1b`."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub(_spelt, text)


def _hidden(match: re.Match[str]) -> str:
    if not match["hide"].strip("*"):
        return match[0]
    return match["keep"] + MASK


def _spelt(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _forms(secrets: Iterable[str]) -> list[str]:
    """Every spelling of every secret, the longest first: one may be part of another."""
    forms = {
        form
        for secret in secrets
        for form in (
            secret,
            quote(secret, safe="", errors="replace"),
            quote_plus(secret, errors="replace"),
        )
        if form.strip("*")
    }
    return sorted(forms, key=lambda form: (-len(form), form))
