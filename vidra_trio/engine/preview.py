"""yt-dlp's picture of a video as the preview that clients know. Pure.

Everything in it came from a site: strings are made strings, numbers numbers,
lists are cut to what a client can use, and what is empty is left out. The whole
stays far below one line of the worker's pipe.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    Info = Mapping[str, Any]

MAX_DESCRIPTION: Final = 800
MAX_TEXT: Final = 500
MAX_URL: Final = 4096
MAX_TAGS: Final = 50
MAX_THUMBNAILS: Final = 20


def preview_of(info: Info, collected_at: datetime) -> dict[str, Any]:
    """Return the preview of one video in wire form."""
    thumbnails = list(_thumbnails(info))
    duration = _integer(info.get("duration"))
    preview = {
        **{key: reader(info.get(source)) for key, source, reader in _MEMBERS},
        "description": _cut(_text_of_any(info.get("description")), MAX_DESCRIPTION),
        "duration_seconds": duration,
        "duration_text": _text(info.get("duration_string")) or _clock(duration),
        "thumbnail_url": _best(thumbnails) or _url(info.get("thumbnail")),
        "thumbnails": thumbnails[-MAX_THUMBNAILS:],
        "channel_is_verified": _flag(info.get("channel_is_verified")),
        "upload_date_iso": _date(info.get("upload_date")),
        "tags": [tag for tag in map(_text, _list(info.get("tags"))) if tag][:MAX_TAGS],
        "collected_at": collected_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {key: value for key, value in preview.items() if value not in (None, "", [], {})}


def total_bytes(info: Info) -> int | None:
    """Return the size of all streams of the chosen format together, when each is known."""
    formats = _list(info.get("requested_formats"))
    if not formats:
        return _integer(info.get("filesize"))
    sizes = [_integer(one.get("filesize") or one.get("filesize_approx")) for one in formats]
    known = [size for size in sizes if size]
    return sum(known) if len(known) == len(sizes) else None


def text(value: object, limit: int = MAX_TEXT) -> str | None:
    """Return what a site calls a text as one: a str without lone surrogates, not too long."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    cleaned = str(value).encode("utf-8", "replace").decode().replace("\0", "").strip()
    return cleaned[:limit] or None


def _text(value: object) -> str | None:
    return text(value)


def _text_of_any(value: object) -> str | None:
    return text(value, limit=100_000)


def _url(value: object) -> str | None:
    url = text(value, limit=MAX_URL + 1)
    return url if url and len(url) <= MAX_URL else None  # half a URL is none


def _integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value < 2**63 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _date(value: object) -> str | None:
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})", str(value or ""))
    return "-".join(match.groups()) if match else None


def _clock(seconds: int | None) -> str | None:
    if seconds is None:
        return None
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _cut(value: str | None, limit: int) -> str | None:
    return value if value is None or len(value) <= limit else value[: limit - 3] + "..."


def _thumbnails(info: Info) -> Iterator[dict[str, Any]]:
    for one in _list(info.get("thumbnails")):
        url = _url(one.get("url")) if isinstance(one, dict) else None
        if url is not None:
            found = {
                "url": url,
                "width": _integer(one.get("width")),
                "height": _integer(one.get("height")),
                "id": _text(one.get("id")),
            }
            yield {key: value for key, value in found.items() if value is not None}


def _best(thumbnails: list[dict[str, Any]]) -> str | None:
    """The largest; yt-dlp's own choice (the last) when none tells its size."""
    if not thumbnails:
        return None
    largest = max(thumbnails, key=lambda one: (one.get("width", 0), one.get("height", 0)))
    chosen = largest if "width" in largest else thumbnails[-1]
    return str(chosen["url"])


_MEMBERS: Final[tuple[tuple[str, str, Callable[[object], Any]], ...]] = (
    ("title", "title", _text),
    ("webpage_url", "webpage_url", _url),
    ("original_url", "original_url", _url),
    ("webpage_url_basename", "webpage_url_basename", _text),
    ("webpage_url_domain", "webpage_url_domain", _text),
    ("uploader", "uploader", _text),
    ("uploader_id", "uploader_id", _text),
    ("uploader_url", "uploader_url", _url),
    ("channel", "channel", _text),
    ("channel_id", "channel_id", _text),
    ("channel_url", "channel_url", _url),
    ("channel_follower_count", "channel_follower_count", _integer),
    ("extractor", "extractor", _text),
    ("extractor_id", "extractor_key", _text),
    ("entry_id", "id", _text),
    ("view_count", "view_count", _integer),
    ("like_count", "like_count", _integer),
    ("availability", "availability", _text),
    ("live_status", "live_status", _text),
)
