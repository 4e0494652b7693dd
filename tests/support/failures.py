"""Every exception that yt-dlp can meet, and an item that raises it where one likes.

    with failures.installed():
        end = run(failures.url(origin, "extractor", "KeyError"))

Places: `extractor`; `progress` and `fragment`, the hook of a direct file and of four
fragments at a time, in the threads that fetch them; `fragment_file`, where a fragment
is written; `essential` and `decorating`, a post-processor of either kind; `step`, the
hook of one; `none`. In a worker process: `python -m tests.support.failures`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import yt_dlp.downloader.common
from yt_dlp.cookies import CookieLoadError
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.globals import extractors
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import (
    CertificateVerifyError,
    HTTPError,
    IncompleteRead,
    TransportError,
)
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import (
    ContentTooShortError,
    DownloadCancelled,
    DownloadError,
    ExistingVideoReached,
    ExtractorError,
    GeoRestrictedError,
    MaxDownloadsReached,
    PostProcessingError,
    RejectedVideoReached,
    UnavailableVideoError,
    UnsupportedError,
    UserNotLive,
)
from yt_dlp.utils._utils import _UnsafeExtensionError

from vidra_trio.engine import worker
from vidra_trio.engine.reporting import Reporter
from vidra_trio.engine.ytdlp import driver, warming
from vidra_trio.engine.ytdlp.steps import ESSENTIAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.origin import Origin

COMMAND = (sys.executable, "-m", "tests.support.failures")
SKIPPED = "skipped"
SIZE = 5000

POSTPROCESSORS = [
    {"key": "FFmpegMetadata", "add_metadata": True},
    {"key": "FFmpegVideoRemuxer", "preferedformat": "mkv"},
]
"""One that decorates, one that is essential; none of them gets to run ffmpeg."""


@dataclass(frozen=True)
class Failure:
    """An exception, and what is to become of it."""

    make: Callable[[], BaseException]
    code: str
    retryable: bool = False
    reusable: bool = True


def _http(status: int) -> HTTPError:
    return HTTPError(Response(io.BytesIO(), "http://x", {}, status=status))


def _os(number: int) -> Callable[[], BaseException]:
    return lambda: OSError(number, os.strerror(number), "/x/secret")


def _recurse() -> BaseException:
    """Return one that really happened."""
    try:
        return _recurse()
    except RecursionError as error:
        return error.with_traceback(None)


FAILURES = {
    "UnsupportedError": Failure(lambda: UnsupportedError("http://x"), "unsupported_url"),
    "GeoRestrictedError": Failure(lambda: GeoRestrictedError("not here"), "geo_restricted"),
    "UserNotLive": Failure(UserNotLive, "unavailable"),
    "ExtractorError": Failure(lambda: ExtractorError("odd page"), "engine_error"),
    "ExtractorError expected": Failure(
        lambda: ExtractorError("Private video", expected=True), "unavailable"
    ),
    "DownloadError": Failure(lambda: DownloadError("ERROR: no"), "engine_error"),
    "PostProcessingError": Failure(
        lambda: PostProcessingError("Conversion failed!"), "postprocessing_failed"
    ),
    "ContentTooShortError": Failure(
        lambda: ContentTooShortError(1, 2), "network_error", retryable=True
    ),
    "UnavailableVideoError": Failure(lambda: UnavailableVideoError("no"), "engine_error"),
    "MaxDownloadsReached": Failure(MaxDownloadsReached, SKIPPED),
    "ExistingVideoReached": Failure(ExistingVideoReached, SKIPPED),
    "RejectedVideoReached": Failure(RejectedVideoReached, SKIPPED),
    "DownloadCancelled": Failure(DownloadCancelled, "nothing_downloaded"),
    "CookieLoadError": Failure(lambda: CookieLoadError("no cookies"), "cookies_unreadable"),
    "UnsafeExtension": Failure(lambda: _UnsafeExtensionError("exe"), "unsafe_extension"),
    "HTTPError 403": Failure(lambda: _http(403), "http_403"),
    "HTTPError 408": Failure(lambda: _http(408), "http_error", retryable=True),
    "HTTPError 503": Failure(lambda: _http(503), "http_error", retryable=True),
    "TransportError": Failure(lambda: TransportError("reset"), "network_error", retryable=True),
    "IncompleteRead": Failure(lambda: IncompleteRead(1, 2), "network_error", retryable=True),
    "CertificateVerifyError": Failure(lambda: CertificateVerifyError("unknown"), "tls_error"),
    "gaierror": Failure(
        lambda: socket.gaierror(socket.EAI_AGAIN, "try again"), "network_error", retryable=True
    ),
    "TimeoutError": Failure(TimeoutError, "timeout", retryable=True),
    "ConnectionResetError": Failure(
        lambda: ConnectionResetError(errno.ECONNRESET, "reset"), "network_error", retryable=True
    ),
    "ENOSPC": Failure(_os(errno.ENOSPC), "disk_full"),
    "EDQUOT": Failure(_os(errno.EDQUOT), "disk_full"),
    "EACCES": Failure(_os(errno.EACCES), "destination_unavailable"),
    "EROFS": Failure(_os(errno.EROFS), "destination_unavailable"),
    "ENAMETOOLONG": Failure(_os(errno.ENAMETOOLONG), "name_too_long"),
    "EIO": Failure(_os(errno.EIO), "disk_error"),
    "EMFILE": Failure(_os(errno.EMFILE), "out_of_resources", retryable=True, reusable=False),
    "MemoryError": Failure(MemoryError, "out_of_resources", retryable=True, reusable=False),
    "RecursionError": Failure(_recurse, "engine_error", reusable=False),
    "SystemExit": Failure(lambda: SystemExit(3), "engine_error", reusable=False),
    "KeyboardInterrupt": Failure(KeyboardInterrupt, "engine_error", reusable=False),
    "GeneratorExit": Failure(GeneratorExit, "engine_error", reusable=False),
    "StopIteration": Failure(StopIteration, "engine_error"),
    "KeyError": Failure(lambda: KeyError("formats"), "engine_error"),
    "UnicodeError": Failure(
        lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        "engine_error",
    ),
    "Exception": Failure(lambda: Exception("\x1b[31mred\x1b[0m\nand two lines"), "engine_error"),
}

_armed = ("none", "none")
"""What the extractor was last asked for: one run at a time."""


def url(origin: Origin, place: str, name: str) -> str:
    """Return the URL of an item that raises `name` at `place`."""
    return f"{origin.url}/fail/{place}/{name.replace(' ', '_')}"


def _fail(place: str) -> None:
    if _armed[0] == place:
        raise FAILURES[_armed[1]].make()


class FailingIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """Fails, or returns what fails later."""

    IE_NAME = "test:failing"
    _VALID_URL = r"(?P<base>https?://[^/]+)/fail/(?P<place>\w+)/(?P<id>\w+)"

    def _real_extract(self, url: str) -> dict[str, Any]:
        global _armed
        base, place, name = self._match_valid_url(url).group("base", "place", "id")
        _armed = (place, name.replace("_", " "))
        _fail("extractor")
        video = {"id": name, "title": f"{place}-{name}", "ext": "mp4"}
        if "fragment" in place:
            link = f"{base}/hls/6x{SIZE}/{place}-{name}/index.m3u8"
            return {**video, "url": link, "protocol": "m3u8_native"}
        return {**video, "url": f"{base}/file/{SIZE}/{place}-{name}.mp4"}


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Have the extractor, and only that, and its hooks, for the length of the block."""
    progress, open_file = Reporter.progress, yt_dlp.downloader.common.sanitize_open
    step = Reporter.postprocessing

    def on_progress(self: Reporter, hook: dict[str, Any]) -> None:
        if hook["status"] == "downloading":
            _fail("progress")
            _fail("fragment")
        progress(self, hook)

    def on_step(self: Reporter, name: str, *, finished: bool) -> None:
        if not finished:
            _fail("step")
        step(self, name, finished=finished)

    def on_open(name: str, mode: str) -> object:
        if "-Frag3" in name and "w" in mode:
            _fail("fragment_file")
        return open_file(name, mode)

    def on_ffmpeg(pp: Any, *_: object, **__: object) -> None:  # noqa: ANN401
        essential = pp.pp_key() in ESSENTIAL
        _fail("essential" if essential else "decorating")

    gen_extractor_classes()  # fills the table that is patched below
    with (
        mock.patch.dict(extractors.value, {FailingIE.__name__: FailingIE}),
        mock.patch.object(driver, "gen_extractor_classes", return_value=[FailingIE]),
        mock.patch.object(warming, "gen_extractor_classes", return_value=[FailingIE]),
        mock.patch.object(Reporter, "progress", on_progress),
        mock.patch.object(Reporter, "postprocessing", on_step),
        mock.patch.object(yt_dlp.downloader.common, "sanitize_open", on_open),
        mock.patch.object(FFmpegPostProcessor, "real_run_ffmpeg", on_ffmpeg),
    ):
        yield


if __name__ == "__main__":
    from tests.support import failures  # not `__main__`: its globals are what is patched

    with failures.installed():
        worker.main()
