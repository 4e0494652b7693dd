"""From exceptions to codes and messages."""

from __future__ import annotations

import errno

import pytest
import yt_dlp.networking.exceptions
import yt_dlp.utils
from yt_dlp.utils import DownloadError, ExtractorError, PostProcessingError

from vidra_trio.engine.errors import FAULTS, NAMES, EngineTooOld, ItemFailed, cause_of, plain

STDLIB = {"TimeoutError", "ConnectionError", "ConnectionRefusedError"}
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
    assert hasattr(yt_dlp.networking.exceptions, name) or hasattr(yt_dlp.utils, name)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (403, "http_403", False),
        (404, "http_404", False),
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
        (KeyError("formats"), "engine_error"),
        (SystemExit(2), "engine_error"),
        (RecursionError(), "engine_error"),
    ],
)
def test_every_cause_has_its_code(error: BaseException, code: str) -> None:
    """The table holds for the exceptions that yt-dlp really raises."""
    cause = cause_of(error)
    assert cause.code == code
    assert code in FAULTS
    assert cause.message


def test_the_message_is_the_cause_in_one_line() -> None:
    """Prefix, colours, nested repr and the request to report a bug are gone."""
    text = "\x1b[0;31mERROR:\x1b[0m [x] abc: Unable to\n download (caused by <HTTPError 404: No>)"
    assert plain(text) == "[x] abc: Unable to download"
    assert plain(str(ExtractorError("odd"))) == "odd"


def test_a_bare_exception_says_its_name() -> None:
    """`'formats'` alone tells nobody anything."""
    assert cause_of(KeyError("formats")).message == "KeyError: 'formats'"
    assert cause_of(MemoryError()).message == "MemoryError"
    full = cause_of(OSError(errno.ENOSPC, "No space left on device", "/secret/place"))
    assert full.message == "no space is left on the disk"


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
