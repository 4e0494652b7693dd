"""Extractors of the tests, for what no real page can be made to do at will.

They answer for URLs of a test origin (`url`), in this process inside `installed`, in a
worker that was started as `python -m tests.support.worker`. Each first asks the origin
whether it is mended (`Origin.mend`); if so it behaves, else it does what its kind says:

- `file`: nothing special, a direct link that carries the URL's faults;
- `loop`: computes for ever, without a system call;
- `nap`: sleeps for ten minutes, and has an answer in its hands that it did not read;
- `greedy`: asks a page that never answers, and catches `Exception` around it for ever;
- `list`: a playlist, read page by page, of which the first page is slow to come;
- `merge`: picture and sound as two formats.

Inside `hanging_resolver(name)` the host name `<name>.hangs.test` is not resolved: whoever
asks blocks in C, for a file that somebody else has locked, until it is mended.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.globals import extractors
from yt_dlp.utils import OnDemandPagedList

from vidra_trio.engine.ytdlp import driver, warming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.origin import Origin

HANGING = ".hangs.test"
PAGE = 2
TEN_MINUTES = 600

_THIS_MACHINE = "127.0.0.1"


def url(origin: Origin, kind: str, name: str, size: int = 0, **faults: object) -> str:
    """Return a URL that the extractors here answer for; `faults` are the origin's."""
    return origin.at(f"/plugin/{kind}/{size}/{name}", **faults)


@contextlib.contextmanager
def hanging_resolver(name: str) -> Iterator[Callable[[], None]]:
    """Let `<name>.hangs.test` be a name that cannot be resolved; yields what ends that."""
    locked, unasked = _resolver(name)
    with locked.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        unasked.touch()
        yield file.close
    unasked.unlink(missing_ok=True)
    locked.unlink()


def resolver_asked(name: str) -> bool:
    """Return whether somebody waits for that name."""
    return not _resolver(name)[1].exists()


def _resolver(name: str) -> tuple[Path, Path]:
    folder = Path(tempfile.gettempdir())
    return folder / f"resolver-{name}", folder / f"resolver-{name}-unasked"


class TestSiteIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """Does what the path says."""

    __test__ = False  # pytest: not a class of tests
    IE_NAME = "test:site"
    _VALID_URL = (
        r"(?P<base>https?://[^/]+)/plugin/(?P<kind>[a-z]+)/(?P<file>\d+/(?P<id>[^/?]+))"
        r"(?P<faults>\?.+)?$"
    )

    def _real_extract(self, url: str) -> dict[str, Any]:
        base, kind, file, name, faults = self._match_valid_url(url).group(
            "base", "kind", "file", "id", "faults"
        )
        well = self._download_json(f"{base}/ask/{kind}/{file}", name)["well"]
        video = {"id": name, "title": Path(name).stem, "ext": "mp4"}
        match kind:
            case "loop" if not well:
                self.to_screen("computing")
                compute()
            case "nap" if not well:
                self.kept = self._request_webpage(f"{base}/file/{file}", name)
                self.to_screen("sleeping")
                time.sleep(TEN_MINUTES)
            case "greedy" if not well:
                self._try_for_ever(f"{base}/hang/{file}", name)
            case "list":
                return self._playlist(f"{base}/list", file, faults or "")
            case "merge":
                return {**video, "formats": _tracks(f"{base}/clip/{name}")}
            case _:
                pass
        return {**video, "url": f"{base}/file/{file}{faults or ''}"}

    def _try_for_ever(self, page: str, name: str) -> None:
        while True:
            try:
                self._download_webpage(page, name)
            except Exception:  # noqa: BLE001 - as real ones do
                continue
            return

    def _playlist(self, base: str, file: str, faults: str) -> dict[str, Any]:
        def page(number: int) -> Iterator[dict[str, Any]]:
            links = self._download_json(f"{base}/{number + 1}/{file}{faults}", file)
            yield from (self.url_result(link) for link in links)

        found: dict[str, Any] = self.playlist_result(OnDemandPagedList(page, PAGE), file, "A list")
        return found


def compute() -> None:
    """Compute for ten minutes: nothing here waits, asks or logs."""
    end, number = time.monotonic() + TEN_MINUTES, 0
    while time.monotonic() < end:
        number += sum(character == "a" for character in "abc" * 500)


def _tracks(base: str) -> list[dict[str, Any]]:
    return [
        {
            "format_id": "picture",
            "url": f"{base}/video.mp4",
            "ext": "mp4",
            "vcodec": "mp4v",
            "acodec": "none",
        },
        {
            "format_id": "sound",
            "url": f"{base}/sound.m4a",
            "ext": "m4a",
            "vcodec": "none",
            "acodec": "mp4a",
        },
    ]


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Have the extractors and the resolver here for the length of the block."""
    gen_extractor_classes()  # fills the table that is patched below
    with (
        mock.patch.dict(extractors.value, {TestSiteIE.__name__: TestSiteIE}),
        mock.patch.object(driver, "gen_extractor_classes", _with_ours(gen_extractor_classes)),
        mock.patch.object(warming, "gen_extractor_classes", _with_ours(gen_extractor_classes)),
        mock.patch.object(socket, "getaddrinfo", _hanging(socket.getaddrinfo)),
    ):
        yield


def _with_ours(original: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
    return lambda: [TestSiteIE, *original()]


def hanging(url: str, name: str) -> str:
    """Return a URL of the origin with a host name whose resolution hangs."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}{HANGING}:{parts.port}").geturl()


def _hanging(resolve: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(resolve)
    def look_up(host: Any, *more: Any, **options: Any) -> Any:  # noqa: ANN401
        if isinstance(host, str) and host.endswith(HANGING):
            locked, unasked = _resolver(host.removesuffix(HANGING))
            with locked.open("rb") as file:
                unasked.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            host = _THIS_MACHINE
        return resolve(host, *more, **options)

    return look_up
