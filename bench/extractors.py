"""Extractors as plug-ins have them: the phases that no generic page has.

`registered` makes them part of this process's yt-dlp; a worker of the bench enters
it, too (bench/worker.py), and so do the peers (bench/peer.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from typing import TYPE_CHECKING, Any

from yt_dlp.extractor import import_extractors
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.globals import extractors
from yt_dlp.utils import OnDemandPagedList

if TYPE_CHECKING:
    from collections.abc import Iterator

    Info = dict[str, Any]

PAGES = 60


class BenchIE(InfoExtractor):  # type: ignore[misc]  # yt-dlp has no types
    """`<origin>/<token>/x/<what>/<number>`: see the methods."""

    _VALID_URL = r"(?P<base>https?://127\.0\.0\.1:\d+/[^/]+)/x/(?P<what>\w+)/(?P<id>\d+)"

    def _real_extract(self, url: str) -> Info:
        base, what, number = self._match_valid_url(url).group("base", "what", "id")
        if what != "list":
            self._request_webpage(f"{base}/beacon", number)
        made: Info = getattr(self, f"_{what}")(base, number)
        return {"id": number, "title": f"{what} {number}", **made}

    def _cpu(self, base: str, seconds: str) -> Info:
        """Compute for some seconds."""
        end, total = time.monotonic() + float(seconds), 0
        while time.monotonic() < end:
            total += sum(ord(character) for character in "abc" * 500)
        return {"url": f"{base}/file/1000000/cpu.mp4", "ext": "mp4", "like_count": total}

    def _native(self, base: str, seconds: str) -> Info:
        """Be in C for some seconds, as in a resolver that gets no answer: nothing interrupts it."""
        ctypes.CDLL(None).sleep(int(seconds))
        return {"url": f"{base}/file/1000000/native.mp4", "ext": "mp4"}

    def _list(self, base: str, delay: str) -> Info:
        """Be a playlist that has one entry a page, each page taking its time."""

        def page(n: int) -> Iterator[Info]:
            found = self._download_json(f"{base}/page/{n}?delay={int(delay) / 1000}", delay)
            for entry in found["ids"] if n < PAGES else []:
                yield self.url_result(f"{base}/file/1000000/{entry}.mp4", video_id=str(entry))

        listed: Info = self.playlist_result(OnDemandPagedList(page, 1), delay)
        return listed

    def _busy(self, base: str, code: str) -> Info:
        """Be found, and then answered with an error."""
        return {"url": f"{base}/status/{code}", "ext": "mp4"}

    def _streams(self, base: str, _number: str) -> Info:
        """Be two files that are merged."""
        picture = {"format_id": "v", "url": f"{base}/media/picture.mp4", "ext": "mp4"}
        sound = {"format_id": "a", "url": f"{base}/media/sound.m4a", "ext": "m4a"}
        return {
            "formats": [
                {**picture, "vcodec": "mp4v", "acodec": "none"},
                {**sound, "vcodec": "none", "acodec": "mp4a"},
            ]
        }


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Have the extractors in this process's yt-dlp, before all others, while in the block."""
    import_extractors()
    before = extractors.value
    extractors.value = {"BenchIE": BenchIE, **before}
    try:
        yield
    finally:
        extractors.value = before
