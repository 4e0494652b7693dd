"""From exceptions to codes and messages."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl

import pytest
import yt_dlp.cookies
import yt_dlp.networking.exceptions
import yt_dlp.utils
import yt_dlp.utils._utils
from yt_dlp.utils import DownloadError, ExtractorError, PostProcessingError

from vidra_trio.core.stall import Phase
from vidra_trio.engine.errors import (
    FAULTS,
    NAMES,
    OF_THIS_MACHINE,
    EngineTooOld,
    ItemFailed,
    cause_of,
    plain,
)

STDLIB = {
    "ConnectionError",
    "ConnectionRefusedError",
    "MemoryError",
    "SSLEOFError",
    "SSLZeroReturnError",
    "TimeoutError",
    "gaierror",
}
UPSTREAM = (yt_dlp.networking.exceptions, yt_dlp.utils, yt_dlp.utils._utils, yt_dlp.cookies)
FOREIGN = {"Timeout", "NewConnectionError"}  # requests, urllib3


class HTTPError(Exception):
    """Shaped like yt-dlp's."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP Error {status}: Reason")
        self.status = status


def wrapped(cause: BaseException, message: str = "ERROR: unable to download") -> DownloadError:
    return DownloadError(message, (type(cause), cause, None))


@pytest.mark.parametrize("name", sorted(NAMES - STDLIB - FOREIGN))
def test_every_name_exists_in_the_installed_version(name: str) -> None:
    """A renamed exception upstream is noticed here, not by users."""
    assert any(hasattr(module, name) for module in UPSTREAM)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (403, "http_403", False),
        (404, "http_404", False),
        (408, "http_error", True),
        (410, "http_410", False),
        (416, "http_error", False),
        (418, "http_error", False),
        (429, "http_429", True),
        (500, "http_error", True),
        (503, "http_error", True),
    ],
)
def test_an_http_status_is_the_code(status: int, code: str, retryable: bool) -> None:
    """However deep yt-dlp buried the answer, and also when only its words are left."""
    for error in (
        wrapped(HTTPError(status)),
        wrapped(ExtractorError("x", cause=HTTPError(status))),
        DownloadError(f"Got error: HTTP Error {status}: X. Giving up after 3 retries"),
    ):
        cause = cause_of(error)
        assert (cause.code, cause.retryable) == (code, retryable)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (wrapped(yt_dlp.utils.UnsupportedError("http://x")), "unsupported_url"),
        (wrapped(yt_dlp.utils.GeoRestrictedError("no")), "geo_restricted"),
        (wrapped(yt_dlp.utils.UserNotLive()), "unavailable"),
        (wrapped(ExtractorError("Private video", expected=True)), "unavailable"),
        (ExtractorError("This video is DRM protected", expected=True), "drm_protected"),
        (ExtractorError("Requested format is not available", expected=True), "format_unavailable"),
        (ExtractorError("Use --cookies to log in", expected=True), "login_required"),
        (DownloadError("No suitable extractor found for URL x"), "unsupported_url"),
        (wrapped(TimeoutError()), "timeout"),
        (yt_dlp.networking.exceptions.TransportError("Read timed out."), "timeout"),
        (yt_dlp.networking.exceptions.TransportError("reset"), "network_error"),
        (yt_dlp.networking.exceptions.CertificateVerifyError("self-signed"), "tls_error"),
        (wrapped(ConnectionRefusedError()), "network_error"),
        (
            DownloadError("2 bytes read, 3 more expected. Giving up after 1 retries"),
            "network_error",
        ),
        (wrapped(OSError(errno.ENOSPC, "No space left on device")), "disk_full"),
        (PostProcessingError("Conversion failed!"), "postprocessing_failed"),
        (ItemFailed("path_not_allowed", "no"), "path_not_allowed"),
        (wrapped(socket.gaierror(socket.EAI_NONAME, "Name or service not known")), "network_error"),
        (wrapped(ConnectionResetError(errno.ECONNRESET, "reset by peer")), "network_error"),
        (yt_dlp.networking.exceptions.SSLError(cause=ssl.SSLEOFError(8, "EOF")), "network_error"),
        (yt_dlp.networking.exceptions.SSLError("handshake failure"), "tls_error"),
        (yt_dlp.networking.exceptions.ProxyError("no tunnel"), "network_error"),
        (yt_dlp.networking.exceptions.IncompleteRead(5, 10), "network_error"),
        (yt_dlp.networking.exceptions.NoSupportingHandlers([], []), "unsupported_url"),
        (yt_dlp.utils.ContentTooShortError(1, 2), "network_error"),
        (yt_dlp.utils.UnavailableVideoError("no"), "engine_error"),
        (yt_dlp.utils.UnavailableVideoError(OSError(errno.EIO, "no")), "engine_error"),
        (yt_dlp.utils.EntryNotInPlaylist(), "nothing_downloaded"),
        (yt_dlp.utils.DownloadCancelled(), "nothing_downloaded"),
        (yt_dlp.cookies.CookieLoadError("failed to load cookies"), "cookies_unreadable"),
        (wrapped(yt_dlp.utils._utils._UnsafeExtensionError("exe")), "unsafe_extension"),
        (PostProcessingError("ffmpeg not found. Please install"), "ffmpeg_missing"),
        (PostProcessingError("x.mp4: No space left on device"), "disk_full"),
        (DownloadError("Did not get any data blocks"), "nothing_downloaded"),
        (DownloadError("fragment 1 not found, unable to continue"), "unavailable"),
        (RuntimeError("can't start new thread"), "out_of_resources"),
        (MemoryError(), "out_of_resources"),
        (wrapped(OSError(errno.EDQUOT, "Disk quota exceeded")), "disk_full"),
        (wrapped(OSError(errno.EACCES, "Permission denied")), "destination_unavailable"),
        (wrapped(OSError(errno.EROFS, "Read-only file system")), "destination_unavailable"),
        (wrapped(OSError(errno.ENAMETOOLONG, "File name too long")), "name_too_long"),
        (wrapped(OSError(errno.EMFILE, "Too many open files")), "out_of_resources"),
        (wrapped(OSError(errno.EIO, "Input/output error")), "disk_error"),
        (wrapped(FileNotFoundError(errno.ENOENT, "No such file")), "engine_error"),
        (
            yt_dlp.networking.exceptions.TransportError(cause=PermissionError(errno.EACCES, "no")),
            "network_error",  # a firewall, not a folder
        ),
        (KeyError("formats"), "engine_error"),
        (SystemExit(2), "engine_error"),
        (KeyboardInterrupt(), "engine_error"),
        (RecursionError(), "engine_error"),
    ],
)
def test_every_cause_has_its_code(error: BaseException, code: str) -> None:
    """The table holds for the exceptions that yt-dlp really raises."""
    cause = cause_of(error)
    assert cause.code == code
    assert code in FAULTS
    assert cause.message


def test_a_full_disk_is_a_full_disk_whatever_came_of_it() -> None:
    """Also when yt-dlp made "unavailable" of it on the way."""
    full = OSError(errno.ENOSPC, "No space left on device")
    unavailable = yt_dlp.utils.UnavailableVideoError(full)
    unavailable.__context__ = full
    assert cause_of(unavailable).code == "disk_full"


def test_the_codes_of_this_machine_are_codes() -> None:
    """And so is every code that the watchdog gives; only a dead post-processor stays dead."""
    assert set(FAULTS) >= OF_THIS_MACHINE
    retryable = {phase: FAULTS[phase.fault] for phase in Phase}
    assert retryable == {phase: phase is not Phase.POSTPROCESS for phase in Phase}
    assert FAULTS["engine_exhausted"]


BUG = "; please report this issue on  https://x/y , filling out the template. Confirm  yt-dlp -U"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "\x1b[0;31mERROR:\x1b[0m [x] abc: Unable to\n download (caused by <HTTPError 404: No>)",
            "[x] abc: Unable to download",
        ),
        (f"ERROR: ERROR: odd{BUG}", "odd"),
        (
            f"The extension ('exe') is unusual. If you believe this is an error{BUG}",
            "The extension ('exe') is unusual.",
        ),
        ("ERROR: \r[download] Got error: HTTP Error 503: No", "HTTP Error 503: No"),
        (
            "HTTPSConnection(host='a.b', port=443): Failed to resolve 'a.b' ([Errno -2] Unknown)",
            "a.b:443: Failed to resolve 'a.b' (Unknown)",
        ),
        (
            "<urllib3.connection.HTTPConnection object at 0x7f1>: Failed: [Errno 111] Refused",
            "Failed: Refused",
        ),
        (
            "('Connection aborted.', RemoteDisconnected('Remote end closed'))",
            "Connection aborted. Remote end closed",
        ),
        (
            "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
            "Connection aborted. Connection reset by peer",
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unknown (_ssl.c:1006)",
            "certificate verify failed: unknown",
        ),
    ],
)
def test_the_message_is_the_cause_in_one_line(text: str, words: str) -> None:
    """Prefix, colours, nested notation and the request to report a bug are gone; for good."""
    assert plain(text) == words
    assert plain(words) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("formats"), "KeyError: 'formats'"),
        (ValueError(), "ValueError"),
        (MemoryError(), "not enough memory"),
        (KeyboardInterrupt(), "interrupted from outside"),
        (SystemExit(2), "the extractor wanted to end the program (exit code 2)"),
        (RecursionError("x"), "the extractor went round in circles (too deep a recursion)"),
        (OSError(errno.ENOSPC, "No space", "/secret/place"), "no space is left on the disk"),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), "Permission denied: /a/b"),
        (OSError("odd"), "OSError: odd"),
        (http.client.IncompleteRead(b"", 5), "IncompleteRead(0 bytes read, 5 more expected)"),
        (
            ExtractorError("An extractor error has occurred.", cause=KeyError("url"), ie="x"),
            "[x] An extractor error has occurred: KeyError: 'url'",
        ),
        (
            ExtractorError("Failed to parse", cause=json.JSONDecodeError("Expected {", "", 0)),
            "Failed to parse: Expected {: line 1 column 1 (char 0)",
        ),
        (
            ExtractorError("Unable to download: HTTP Error 404: Reason", cause=HTTPError(404)),
            "Unable to download: HTTP Error 404: Reason",
        ),
        (wrapped(OSError(errno.EIO, "x"), "ERROR: unable to write: [Errno 5] x"), None),
    ],
)
def test_an_exception_says_what_happened(error: BaseException, words: str | None) -> None:
    """In words; one that has none says its name, one that hides its cause says that, too."""
    assert cause_of(error).message == (words or "unable to write: x")


def test_an_exception_that_cannot_be_spelt_is_a_failure() -> None:
    """Whatever a site made an extractor raise."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert cause_of(Odd()).message == "Odd"


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that name each other are classified all the same."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first).code == "engine_error"


def test_too_old_is_a_configuration_error_with_its_own_code() -> None:
    """The one line names both versions."""
    error = EngineTooOld("2026.1.1", "2026.7.4")
    assert error.code == "engine_too_old"
    assert str(error) == "yt-dlp: 2026.7.4 or newer is needed, 2026.1.1 is installed"
