"""Output templates: the name of a file, with fields that yt-dlp fills in.

A template reaches yt-dlp relative, with `/` between folders and the extension
at its end: what is downloaded can then never be called `.sh` or `.desktop`.
What fields become is only known later: a site may send `..` as an uploader's
name (measured: yt-dlp writes it as it is), so the engine looks at real paths.
"""

from __future__ import annotations

import re
from typing import Final

from vidra_trio.core.readers import NOT_STRING, TEXT_LIMIT, TOO_LONG, BadValue, plain

DEFAULT_TEMPLATE: Final = "%(title)s [%(id)s].%(ext)s"
EXTENSION: Final = ".%(ext)s"
SEGMENTS_LIMIT: Final = 256

# What a list of segments may name without %(...)s round it.
_FIELD_NAMES: Final = """
    id title fulltitle alt_title display_id ext description uploader uploader_id uploader_url
    channel channel_id channel_url creator creators license artist artists album album_artist
    album_type composer genre genres track track_id track_number disc_number release_date
    release_year release_timestamp upload_date timestamp modified_date duration duration_string
    view_count like_count comment_count average_rating age_limit live_status is_live was_live
    availability language series series_id season season_id season_number episode episode_id
    episode_number chapter chapter_id chapter_number section_title section_number location
    format format_id format_note resolution width height fps dynamic_range vcodec acodec vbr abr
    tbr asr filesize filesize_approx protocol container extractor extractor_key epoch autonumber
    video_autonumber playlist playlist_id playlist_title playlist_index playlist_autonumber
    playlist_count playlist_uploader playlist_uploader_id playlist_channel playlist_channel_id
    n_entries webpage_url webpage_url_basename webpage_url_domain original_url
"""
FIELDS: Final = frozenset(_FIELD_NAMES.split())

# Three digits of width: a gigabyte of blanks is one short template otherwise.
_CONVERSION: Final = r"[#0\-+ ]*[0-9]{0,3}(?:\.[0-9]{1,3})?[hlL]?[diouxXeEfFgGcrsaljhqBUDS]"
_OPEN_FIELD: Final = re.compile(rf"%\((?![^()]*\){_CONVERSION})")
# The same through a date format (`>`) or a replacement (`&`), which have widths, too.
_HUGE: Final = re.compile(r"%\([^()]*[>&][^)]*[0-9]{4,}")
_MEDIA_EXTENSION: Final = re.compile(
    r"\.(?:mp4|mkv|webm|mov|avi|flv|m4v|mp3|m4a|opus|ogg|oga|aac|flac|wav|mka|ts|3gp|ext)$",
    re.IGNORECASE,
)


def output(value: object) -> str | None:
    """Read `output`: a template, or a list of segments to be joined to one."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        value = _join(value)
    template = plain(value)
    fields = template.replace("%%", "")
    if _OPEN_FIELD.search(fields) or _HUGE.search(fields):
        raise BadValue("Not a valid output template.")
    return template or None


def _join(segments: list[object] | tuple[object, ...]) -> str:
    if not all(isinstance(segment, str) for segment in segments):
        raise BadValue(NOT_STRING)
    if len(segments) > SEGMENTS_LIMIT:
        raise BadValue(TOO_LONG)
    joined = "".join(f"%({s})s" if s in FIELDS else str(s) for s in segments)
    return joined[: TEXT_LIMIT + 1]


def with_extension(name: str) -> str:
    """Return the last part of a template with `.%(ext)s` at its end, once."""
    if name.endswith(EXTENSION):
        return name
    return _MEDIA_EXTENSION.sub("", name).rstrip(". ") + EXTENSION
