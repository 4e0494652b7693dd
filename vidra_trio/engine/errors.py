"""Why an item failed: one table of codes, and the way from an exception to a code.

1. A code is stable and goes to clients; a message is for people and may change.
2. Exceptions are recognised by class name along their chain of causes, so that
   this module needs no yt-dlp and works on both sides of the pipe. A contract
   test holds the names against the installed yt-dlp.
3. The message is the real cause in one line: no prefix, no "caused by", no Python
   notation of nested exceptions, no request to report a bug to somebody else.
4. What this machine cannot do (a full disk, no more descriptors) is told from what
   a site or the network does not give: the first must never pass for the second,
   because yt-dlp skips a fragment that cannot be had.
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
    "remote_changed": True,  # the site's file became another one again and again
    "unsupported_url": False,
    "unavailable": False,  # the site says no: private, removed, not live
    "geo_restricted": False,
    "login_required": False,
    "drm_protected": False,
    "format_unavailable": False,
    "playlist_not_supported": False,
    "nothing_downloaded": False,
    "cookies_unreadable": False,
    "unsafe_extension": False,  # the site wants a file type that could be run
    "disk_full": False,
    "disk_error": False,
    "name_too_long": False,
    "out_of_resources": True,  # memory, file descriptors, threads
    "ffmpeg_missing": False,
    "postprocessing_failed": False,
    "path_not_allowed": False,
    "destination_unavailable": False,
    "stalled_extract": True,
    "stalled_connect": True,
    "stalled_transfer": True,
    "stalled_postprocess": False,
    "engine_died": True,
    "engine_exhausted": True,  # too many threads that could not be stopped
    "engine_error": False,
}

OF_THIS_MACHINE: Final = frozenset(
    {"destination_unavailable", "disk_error", "disk_full", "name_too_long", "out_of_resources"}
)
"""No site is to blame, and another one would fare no better."""

_MAX_MESSAGE: Final = 1000
_MAX_CHAIN: Final = 20

# Class names (of an exception or one of its bases) -> code, in three steps: what is
# certain, what only looks like a timeout, and the rest. The first that fits wins.
_CERTAIN: Final = (
    ("GeoRestrictedError", "geo_restricted"),
    ("UnsupportedError", "unsupported_url"),
    ("_UnsafeExtensionError", "unsafe_extension"),
    ("CookieLoadError", "cookies_unreadable"),
)
_REFUSED: Final = (
    ("NewConnectionError", "network_error"),  # urllib3: a timeout by inheritance only
    ("ConnectionRefusedError", "network_error"),
    ("gaierror", "network_error"),
    ("SSLEOFError", "network_error"),  # the line broke; no word about certificates
    ("SSLZeroReturnError", "network_error"),
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
    ("NoSupportingHandlers", "unsupported_url"),
    ("PostProcessingError", "postprocessing_failed"),
    ("EntryNotInPlaylist", "nothing_downloaded"),
    ("DownloadCancelled", "nothing_downloaded"),
    ("MemoryError", "out_of_resources"),
)
NAMES: Final = frozenset({"HTTPError", "ExtractorError"}).union(
    name for table in (_CERTAIN, _REFUSED, _LIKELY) for name, _ in table
)

_ERRNO: Final = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EACCES: "destination_unavailable",
    errno.EPERM: "destination_unavailable",
    errno.EROFS: "destination_unavailable",
    errno.EIO: "disk_error",
    errno.EFBIG: "disk_error",
    errno.ENODEV: "disk_error",
    errno.ENXIO: "disk_error",
    errno.ESTALE: "disk_error",
    errno.ENAMETOOLONG: "name_too_long",
    errno.EMFILE: "out_of_resources",
    errno.ENFILE: "out_of_resources",
    errno.ENOMEM: "out_of_resources",
    errno.EAGAIN: "out_of_resources",
}

_SAID: Final = (
    (re.compile(r"No space left on device|Disk quota exceeded"), "disk_full"),  # ffmpeg's words
    (re.compile(r"DRM protected", re.IGNORECASE), "drm_protected"),
    (re.compile(r"Requested format is not available", re.IGNORECASE), "format_unavailable"),
    (re.compile(r"--cookies|--username|only available for registered users"), "login_required"),
    (re.compile(r"No suitable extractor"), "unsupported_url"),
    (re.compile(r"ffmpeg (?:is not installed|not found)|ffprobe and ffmpeg"), "ffmpeg_missing"),
    (re.compile(r"timed out", re.IGNORECASE), "timeout"),
)

# After its last retry yt-dlp reports words, without the exception.
_SAID_STATUS = re.compile(r"HTTP Error (\d{3})")
_SAID_AT_LAST: Final = (
    (re.compile(r"Giving up after \d+ retries|more expected"), "network_error"),
    (re.compile(r"Did not get any data blocks|downloaded file is empty"), "nothing_downloaded"),
    (re.compile(r"fragment \d+ not found"), "unavailable"),
    (re.compile(r"can't start new thread"), "out_of_resources"),
)

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])")
_CAUSED_BY = re.compile(r"\s*\(caused by .*$", re.DOTALL | re.IGNORECASE)
_BUG_REPORT = re.compile(
    r"(?:\s*If you believe this is an error)?[;,.]?\s*please report this issue on .*$",
    re.IGNORECASE | re.DOTALL,
)
_NOTATION: Final = (  # what Python and its libraries put around words
    (re.compile(r"^(?:\s*(?:ERROR|WARNING):)*\s*(?:\[download\] Got error:)?\s*"), ""),
    (re.compile(r"\[Errno -?\d+\] ?|\[SSL: \w+\] ?|\s*\(_ssl\.c:\d+\)"), ""),
    (re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>:? ?"), ""),
    (re.compile(r"\bHTTPS?Connection(?:Pool)?\(host='([^']*)', port=(\d+)\)"), r"\1:\2"),
    (re.compile(r"\(['\"]([^'\"]*)['\"], \w+\((?:\d+, )?['\"]([^'\"]*)['\"]\)\)"), r"\1 \2"),
)


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
    found = list(chain(error))
    code, retryable = _code(found)
    return Cause(code, _message(error, found, code), retryable)


def plain(text: str) -> str:
    """Return `text` as one line for people: what happened, and nothing around it."""
    text = _BUG_REPORT.sub("", _CAUSED_BY.sub("", _ANSI.sub("", text)))
    for pattern, words in _NOTATION:
        text = pattern.sub(words, text)
    return " ".join(text.split())[:_MAX_MESSAGE]


def _message(error: BaseException, found: list[BaseException], code: str) -> str:
    if code == "disk_full":
        return "no space is left on the disk"
    text = _words(error)
    for cause in (getattr(one, "cause", None) for one in found):
        # "Unable to parse", caused by something that it does not repeat.
        words = _words(cause) if isinstance(cause, BaseException) else ""
        if words not in text:
            return f"{text.rstrip('.')}: {words}"[:_MAX_MESSAGE]
    return text


def _words(error: BaseException) -> str:
    """Return what one exception says, made readable for those that say little."""
    match error:
        case SystemExit():
            return plain(f"the extractor wanted to end the program (exit code {error.code})")
        case KeyboardInterrupt():
            return "interrupted from outside"
        case MemoryError():
            return "not enough memory"
        case RecursionError():
            return "the extractor went round in circles (too deep a recursion)"
        case OSError(strerror=str(reason)) if reason:
            return plain(reason if error.filename is None else f"{reason}: {error.filename}")
    text = plain(_text(error))
    if not text or type(error).__module__ == "builtins":
        # A bare `KeyError('x')` says nothing without its name.
        return plain(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return text


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # the adapter's boundary: an exception that cannot be spelt
        return ""


def _code(found: list[BaseException]) -> tuple[str, bool]:
    names = {base.__name__ for error in found for base in type(error).__mro__}
    texts = [_text(error) for error in found]
    status = _status(found, texts)
    code = (
        ("disk_full" if "disk_full" in _numbered(found) else None)
        or _named(_CERTAIN, names)
        or _http(status)
        or _named(_REFUSED, names)
        or _said(_SAID, texts)
        or _named(_LIKELY, names)
        or next(iter(_numbered(found)), None)
        or _said(_SAID_AT_LAST, texts)
        or ("unavailable" if _expected(found) else "engine_error")
    )
    may_pass = code == "http_error" and status is not None and (status == 408 or status >= 500)
    return code, FAULTS[code] or may_pass


def _numbered(found: list[BaseException]) -> list[str]:
    """Return the codes of what the operating system said."""
    numbers = (error.errno for error in found if isinstance(error, OSError))
    return [_ERRNO[number] for number in numbers if number in _ERRNO]


def _named(table: Iterable[tuple[str, str]], names: set[str]) -> str | None:
    return next((code for name, code in table if name in names), None)


def _said(table: Iterable[tuple[re.Pattern[str], str]], texts: list[str]) -> str | None:
    found = (code for pattern, code in table if any(pattern.search(text) for text in texts))
    return next(found, None)


def _http(status: int | None) -> str | None:
    if status is None:
        return None
    return f"http_{status}" if f"http_{status}" in FAULTS else "http_error"


def _status(found: list[BaseException], texts: list[str]) -> int | None:
    for error in found:
        status = getattr(error, "status", None)
        if type(error).__name__ == "HTTPError" and isinstance(status, int):
            return status
    said = (match for text in texts if (match := _SAID_STATUS.search(text)))
    return int(match[1]) if (match := next(said, None)) else None


def _expected(found: list[BaseException]) -> bool:
    """The extractor knew this answer: the site's business, no defect."""
    return any(getattr(error, "expected", False) is True for error in found)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was made of; yt-dlp keeps causes in three places."""
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
