"""What a client may say about a job besides what to fetch.

Members are recognised in both spellings and typed; the rest is dropped, for
clients send their whole surroundings along. What only the site or this server
can know (is a selection needed, the playlist's entries) is checked, not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vidra_trio.core.errors import InvalidRequest
from vidra_trio.wire.fields import INTEGER

MAX_TEXT: Final = 8 * 1024
"""Characters of one text; the longest that anybody shows is a description of 800."""

DESCRIPTION_TEXT: Final = 800

_TEXTS: Final = (
    "ctx_id", "playlist_id", "playlist_title", "title", "description",
    "thumbnail_url", "webpage_url", "original_url", "preview_collected_at",
)  # fmt: skip
_PREVIEW_TEXTS: Final = (
    "title", "description", "webpage_url", "original_url", "webpage_url_basename",
    "webpage_url_domain", "duration_text", "thumbnail_url", "uploader", "uploader_id",
    "uploader_url", "channel", "channel_id", "channel_url", "upload_date_iso", "extractor",
    "extractor_id", "entry_id", "availability", "live_status", "playlist_id", "playlist_title",
    "playlist_uploader", "collected_at",
)  # fmt: skip
_PREVIEW_NUMBERS: Final = (
    "duration_seconds", "channel_follower_count", "view_count", "like_count",
    "playlist_entry_count",
)  # fmt: skip
_PREVIEW_FLAGS: Final = ("channel_is_verified", "is_playlist")

_TRUE: Final = frozenset({"t", "true", "y", "yes", "on", "1"})
_FALSE: Final = frozenset({"f", "false", "n", "no", "off", "0"})


class _Wrong(Exception):
    """A member is not what it should be; the text is for the client."""


def parse_metadata(given: object, own_description: str) -> dict[str, Any]:
    """Read the `metadata` of a create body.

    `own_description` is this server's; clients send it back as if it were the job's.

    Raises:
        InvalidRequest: not an object, or a member of the wrong type.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidRequest({"metadata": {"_schema": ["Invalid input type."]}})
    members = {_snake(key): value for key, value in given.items() if value is not None}
    wrong: dict[str, list[str]] = {}
    known: dict[str, Any] = {}
    for key, parse in _PARSERS.items():
        if key in members:
            try:
                known[key] = parse(members[key])
            except _Wrong as error:
                wrong[key] = [str(error)]
    if wrong:
        raise InvalidRequest({"metadata": wrong})
    if known.get("description") == own_description.strip():
        del known["description"]
    return {key: value for key, value in known.items() if value not in (None, "", {})}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong("Not a valid string.")
    if len(value) > MAX_TEXT:
        raise _Wrong(f"Longer than maximum length {MAX_TEXT}.")
    return value.strip()


def _flag(value: object) -> bool:
    word = str(value).lower()
    if not isinstance(value, bool | int | str) or word not in _TRUE | _FALSE:
        raise _Wrong("Not a valid boolean.")
    return word in _TRUE


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _Wrong("Not a valid integer.")
    if not INTEGER.fullmatch(str(value)):
        raise _Wrong("Not a valid integer.")
    return int(value)


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Wrong("Not a valid mapping type.")
    return value


def _ignored_flag(value: object) -> None:
    _flag(value)


def _ignored_object(value: object) -> None:
    _object(value)


def _preview(value: object) -> dict[str, Any]:
    """Take from a preview what has the right type; it is a guess until the site answers."""
    given = {_snake(key): item for key, item in _object(value).items()}
    preview: dict[str, Any] = {}
    for key in _PREVIEW_TEXTS:
        if isinstance(given.get(key), str) and given[key].strip():
            preview[key] = given[key].strip()[:MAX_TEXT]
    for key in _PREVIEW_NUMBERS:
        if type(given.get(key)) is int:
            preview[key] = given[key]
    for key in _PREVIEW_FLAGS:
        if isinstance(given.get(key), bool):
            preview[key] = given[key]
    preview |= _lists(given)
    if len(preview.get("description", "")) > DESCRIPTION_TEXT:
        preview["description"] = preview["description"][: DESCRIPTION_TEXT - 3] + "..."
    return preview


def _lists(given: Mapping[str, Any]) -> dict[str, Any]:
    tags = [tag for tag in _items(given.get("tags")) if isinstance(tag, str) and tag]
    images = [_thumbnail(image) for image in _items(given.get("thumbnails"))]
    lists = {"tags": tags, "thumbnails": [image for image in images if image]}
    return {key: items for key, items in lists.items() if items}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _thumbnail(value: object) -> dict[str, Any] | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("url"), str):
        return None
    kinds = {"url": str, "width": int, "height": int, "id": str}
    return {key: value[key] for key, kind in kinds.items() if type(value.get(key)) is kind}


def _snake(key: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in key)


_PARSERS: Final = {
    **dict.fromkeys(_TEXTS, _text),
    "is_playlist": _flag,
    "requires_playlist_selection": _ignored_flag,
    "playlist_entry_count": _count,
    "playlist": _ignored_object,
    "preview": _preview,
}
