"""Why an item failed: one table of codes, and the way from an exception to a code.

1. A code is stable and goes to clients; a message is for people and may change.
2. Exceptions are recognised by class name along their chain of causes, so that
   this module needs no yt-dlp and works on both sides of the pipe. A contract
   test holds the names against the installed yt-dlp.
3. The message is the real cause in one line: no prefix, no "caused by", no
   request to report a bug to somebody else.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vidra_trio.core.errors import ConfigurationError, VidraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FAULTS: Final[Mapping[str, bool]] = {
    # code -> is it worth another try without changing anything?
    "http_401": False,
    "http_403": False,
    "http_404": False,
    "http_410": False,
    "http_429": True,
    "http_error": False,  # any other answer of 400 and up; 500 and up are worth a retry
    "network_error": True,
    "timeout": True,
    "tls_error": False,
    "unsupported_url": False,
    "unavailable": False,  # the site says no: private, removed, not live
    "geo_restricted": False,
    "login_required": False,
    "drm_protected": False,
    "format_unavailable": False,
    "playlist_not_supported": False,
    "nothing_downloaded": False,
    "cookies_unreadable": False,
    "disk_full": False,
    "postprocessing_failed": False,
    "path_not_allowed": False,
    "destination_unavailable": False,
    "engine_died": True,
    "engine_error": False,
}

_MAX_MESSAGE: Final = 1000
_MAX_CHAIN: Final = 20

# Class names (of an exception or one of its bases) -> code, in three steps: what is
# certain, what only looks like a timeout, and the rest. The first that fits wins.
_CERTAIN: Final = (
    ("GeoRestrictedError", "geo_restricted"),
    ("UnsupportedError", "unsupported_url"),
)
_REFUSED: Final = (
    ("NewConnectionError", "network_error"),  # urllib3: a timeout by inheritance only
    ("ConnectionRefusedError", "network_error"),
)
_LIKELY: Final = (
    ("UserNotLive", "unavailable"),
    ("CertificateVerifyError", "tls_error"),
    ("SSLError", "tls_error"),
    ("TimeoutError", "timeout"),
    ("Timeout", "timeout"),
    ("IncompleteRead", "network_error"),
    ("ContentTooShortError", "network_error"),
    ("TransportError", "network_error"),
    ("ConnectionError", "network_error"),
    ("PostProcessingError", "postprocessing_failed"),
)
NAMES: Final = frozenset({"HTTPError", "ExtractorError"}).union(
    name for table in (_CERTAIN, _REFUSED, _LIKELY) for name, _ in table
)

_SAID: Final = (
    (re.compile(r"DRM protected", re.IGNORECASE), "drm_protected"),
    (re.compile(r"Requested format is not available", re.IGNORECASE), "format_unavailable"),
    (re.compile(r"--cookies|--username|only available for registered users"), "login_required"),
    (re.compile(r"No suitable extractor"), "unsupported_url"),
    (re.compile(r"timed out", re.IGNORECASE), "timeout"),
)

# After its last retry yt-dlp reports words, without the exception.
_SAID_STATUS = re.compile(r"HTTP Error (\d{3})")
_SAID_AT_LAST: Final = (
    (re.compile(r"Giving up after \d+ retries|more expected"), "network_error"),
)

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_PREFIX = re.compile(r"^\s*(?:ERROR|WARNING):\s*")
_CAUSED_BY = re.compile(r"\s*\(caused by .*$", re.DOTALL)
_BUG_REPORT = re.compile(r"[;.]?\s*please report this issue on .*$", re.IGNORECASE | re.DOTALL)


class ItemFailed(VidraError):
    """An item cannot be had, for a reason that we found ourselves."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.fault = code


class EngineTooOld(ConfigurationError):
    """The installed yt-dlp is older than its last advisory that reaches us."""

    code = "engine_too_old"

    def __init__(self, found: str, floor: str) -> None:
        super().__init__("yt-dlp", f"{floor} or newer is needed, {found} is installed")


@dataclass(frozen=True, slots=True)
class Cause:
    """A classified failure."""

    code: str
    message: str
    retryable: bool = False


def cause_of(error: BaseException) -> Cause:
    """Classify `error`; never raises, whatever the exception is made of."""
    if isinstance(error, ItemFailed):
        return Cause(error.fault, plain(str(error)), FAULTS.get(error.fault, False))
    chain = list(_chain(error))
    code, retryable = _code(chain)
    return Cause(code, _message(error, chain), retryable)


def plain(text: str) -> str:
    """Return `text` as one line for people: what happened, and nothing around it."""
    text = _PREFIX.sub("", _ANSI.sub("", text))
    text = _BUG_REPORT.sub("", _CAUSED_BY.sub("", text))
    return " ".join(text.split())[:_MAX_MESSAGE]


def _message(error: BaseException, chain: list[BaseException]) -> str:
    if _disk_full(chain):
        return "no space is left on the disk"
    text = plain(str(error))
    if isinstance(error, OSError) or not text or type(error).__module__ == "builtins":
        # A bare `KeyError('x')` says nothing without its name.
        return plain(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return text


def _code(chain: list[BaseException]) -> tuple[str, bool]:
    names = {base.__name__ for error in chain for base in type(error).__mro__}
    texts = [str(error) for error in chain]
    status = _status(chain, texts)
    code = (
        ("disk_full" if _disk_full(chain) else None)
        or _named(_CERTAIN, names)
        or _http(status)
        or _named(_REFUSED, names)
        or _said(_SAID, texts)
        or _named(_LIKELY, names)
        or _said(_SAID_AT_LAST, texts)
        or ("unavailable" if _expected(chain) else "engine_error")
    )
    served_badly = code == "http_error" and status is not None and status >= 500
    return code, FAULTS[code] or served_badly


def _named(table: Iterable[tuple[str, str]], names: set[str]) -> str | None:
    return next((code for name, code in table if name in names), None)


def _said(table: Iterable[tuple[re.Pattern[str], str]], texts: list[str]) -> str | None:
    found = (code for pattern, code in table if any(pattern.search(text) for text in texts))
    return next(found, None)


def _http(status: int | None) -> str | None:
    if status is None:
        return None
    return f"http_{status}" if f"http_{status}" in FAULTS else "http_error"


def _status(chain: list[BaseException], texts: list[str]) -> int | None:
    for error in chain:
        status = getattr(error, "status", None)
        if type(error).__name__ == "HTTPError" and isinstance(status, int):
            return status
    said = (match for text in texts if (match := _SAID_STATUS.search(text)))
    return int(match[1]) if (match := next(said, None)) else None


def _expected(chain: list[BaseException]) -> bool:
    """The extractor knew this answer: the site's business, no defect."""
    return any(getattr(error, "expected", False) is True for error in chain)


def _disk_full(chain: list[BaseException]) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(error, OSError) and error.errno in full for error in chain)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was made of: yt-dlp keeps causes in three places."""
    queue: list[object] = [error]
    seen: list[object] = []
    while queue and len(seen) < _MAX_CHAIN:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or any(current is one for one in seen):
            continue
        seen.append(current)
        yield current
        exc_info = getattr(current, "exc_info", None)
        queue += [
            exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else None,
            getattr(current, "cause", None),
            getattr(current, "reason", None),
            current.__cause__,
            current.__context__,
        ]
