"""Extraction: from the order's URL to the one video that it means."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from yt_dlp.utils import DownloadError, PlaylistEntries, UserNotLive

from vidra_trio.core.states import Level
from vidra_trio.engine import upcoming
from vidra_trio.engine.errors import ItemFailed, chain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidra_trio.engine.ytdlp.driver import ItemYDL
    from vidra_trio.engine.ytdlp.item import Info

MAX_HOPS: Final = 10

_OF_THE_INNER: Final = frozenset({"_type", "url", "ie_key", "id", "extractor", "extractor_key"})
"""What an embedded page keeps of its own when the embedding one describes it."""

_OF_THE_HEADER: Final = (
    "extractor",
    "extractor_key",
    "webpage_url",
    "original_url",
    "webpage_url_basename",
    "webpage_url_domain",
)


def resolve(ydl: ItemYDL) -> Info | None:
    """Extract, and follow references, until there is one video."""
    found = _extract(ydl, ydl.item.order.url)
    for _ in range(MAX_HOPS):
        if found is None:
            return None
        match found.get("_type", "video"):
            case "video":
                return found
            case "playlist" | "multi_video":
                found = _only_entry(ydl, found)
            case "url" | "url_transparent":
                found = _follow(ydl, found)
            case other:
                raise ItemFailed("engine_error", f"the extractor returned a {other!r}")
    raise ItemFailed("engine_error", "the page refers to another one again and again")


def _follow(ydl: ItemYDL, found: Info) -> Info | None:
    inner = _extract(ydl, found["url"], found.get("ie_key"))
    if inner is None or found["_type"] == "url":
        return inner
    outer = {k: v for k, v in found.items() if v is not None and k not in _OF_THE_INNER}
    kind = "url_transparent" if inner.get("_type") == "url" else inner.get("_type", "video")
    return {**inner, **outer, "_type": kind}


def _extract(ydl: ItemYDL, url: str, ie_key: str | None = None) -> Info | None:
    limits = ydl.params.get("wait_for_video")
    while True:
        ydl.item.control.check()
        found = _ask(ydl, url, ie_key, patient=bool(limits))
        seconds = upcoming.seconds_until(found, limits) if found is not None and limits else 0.0
        if seconds <= 0:
            break
        ydl.item.reporter.line(Level.INFO, f"nothing to download yet: waiting {seconds:.0f} s")
        upcoming.wait(seconds, ydl.item.control.sleep)
    if found is None and ydl.item.skipped is None:
        raise ItemFailed("nothing_downloaded", "the extractor found nothing")
    return found


def _ask(ydl: ItemYDL, url: str, ie_key: str | None, *, patient: bool) -> Info | None:
    """Extract once; for a `patient` user "not live yet" is an answer without formats."""
    try:
        found: Info | None = ydl.extract_info(
            url,
            ie_key=ie_key,
            download=False,
            process=False,
            extra_info={"original_url": ydl.item.order.url},
        )
    except DownloadError as error:
        if patient and any(isinstance(one, UserNotLive) for one in chain(error)):
            return {}
        raise
    return found


def _only_entry(ydl: ItemYDL, playlist: Info) -> Info:
    """Return the entry of a playlist of one; looks at two at most."""
    entries: Iterator[tuple[int, Info]] = PlaylistEntries(ydl, playlist).get_requested_items()
    found = [entry for _, entry in itertools.islice(entries, 2) if entry]
    if len(found) > 1:
        message = "this URL is a playlist; playlists come with a later version"
        raise ItemFailed("playlist_not_supported", message)
    if not found:
        raise ItemFailed("nothing_downloaded", "the playlist is empty")
    header = {key: playlist[key] for key in _OF_THE_HEADER if playlist.get(key)}
    return found[0] if "url" in str(found[0].get("_type")) else {**header, **found[0]}
