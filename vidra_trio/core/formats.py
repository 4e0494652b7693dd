"""Which streams to take: three friendly options and `format` become one selector.

1. An axis (video, audio) is None when the client said nothing, `()` for "none
   of it", else the wishes in order of preference; `BEST` is "whatever is best".
2. What the wishes select comes first, the client's `format` is the fallback: a
   site without the wished height or language still gives a file.
3. Said nothing about either axis, `format` stands alone: a client that knows
   yt-dlp gets exactly what it wrote.
4. `all` is BEST: alternatives are tried in order, so a list of every language
   there is would pick the alphabetically first one, not all of them.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.readers import NOT_STRING, BadValue, text, unset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Axis = tuple[str, ...]

BEST: Final = "best"
DEFAULT_FORMAT: Final = "bestvideo+bestaudio/best"
AXIS_LIMIT: Final = 32

_HEIGHT: Final = re.compile(r"([0-9]{2,5})(?:[pP](?:[0-9]{2,3})?)?")
_NAMED_HEIGHTS: Final = {"8k": "4320", "4k": "2160", "2k": "1440"}
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8})*")
_ANY: Final = ("best", "all", "any", "true", "default")


def video(value: object) -> Axis | None:
    """Read `video_resolution`: best, all, none, or heights (`720`, `"1080p"`)."""
    return _axis(value, _height)


def audio(value: object) -> Axis | None:
    """Read `audio_language`: best, all, none, or languages, one or with commas or as a list."""
    return _axis(value, _language)


def subtitles(value: object) -> Axis | None:
    """Read `video_subtitles`: languages, or `("all",)`.

    None, False, True and `none` choose no language: `sub_langs` decides then.
    """
    if value == "all":
        return ("all",)
    languages = _axis(value, _language)
    return None if languages in (None, (), (BEST,)) else languages


def _axis(value: object, parse: Callable[[str], str]) -> Axis | None:
    if isinstance(value, bool):
        return (BEST,)
    if unset(value):
        return None
    if isinstance(value, int):
        value = [value]
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise BadValue(NOT_STRING)
    if len(items) > AXIS_LIMIT:
        raise BadValue(f"Longer than maximum length {AXIS_LIMIT}.")
    wishes = [word for item in items if (word := _word(item)) is not None]
    if [word.casefold() for word in wishes] == ["none"]:
        return ()
    return tuple(BEST if word.casefold() in _ANY else parse(word) for word in wishes) or None


def _word(item: object) -> str | None:
    if isinstance(item, int) and not isinstance(item, bool):
        return str(item) if 0 <= item < 10**6 else "out of range"
    return text(item)


def _height(word: str) -> str:
    found = _HEIGHT.fullmatch(_NAMED_HEIGHTS.get(word.casefold(), word))
    if not found:
        raise BadValue("Must be best, all, none or a height such as 720.")
    return found[1]


def _language(word: str) -> str:
    if not _LANGUAGE.fullmatch(word):
        raise BadValue("Must be best, all, none or a language code such as es.")
    return word


def selector(values: Mapping[str, Any]) -> str:
    """Return yt-dlp's `format` for parsed options."""
    picture, sound = values["video_resolution"], values["audio_language"]
    if values["extract_audio"]:
        return _sound_only(sound)
    given = values["format"] or DEFAULT_FORMAT
    if picture is None and sound is None and values["format"]:
        return given
    heights = (BEST,) if picture is None else picture
    wished = [
        "+".join(part for part in pair if part)
        for pair in product(_pictures(heights), _sounds((BEST,) if sound is None else sound))
    ]
    # Sites with ready-made files only: the wished height before any other.
    whole = [f"best[height<={height}]" for height in heights if height != BEST and sound != ()]
    return "/".join([*dict.fromkeys(part for part in (*wished, *whole) if part), given])


def _pictures(heights: Axis) -> list[str]:
    parts = ["bestvideo" if h == BEST else f"bestvideo[height<={h}]" for h in heights]
    return parts or [""]


def _sounds(languages: Axis) -> list[str]:
    if not languages:
        return [""]
    wished = [_in_language("bestaudio[acodec!=none]", word) for word in languages]
    return list(dict.fromkeys([*wished, "bestaudio[acodec!=none]"]))


def _sound_only(languages: Axis | None) -> str:
    wished = [_in_language("bestaudio", word) for word in languages or ()]
    # `?`: a direct link to a file says nothing of its codecs, yet has sound as a rule.
    return "/".join(dict.fromkeys([*wished, "bestaudio", "best[acodec!=?none]", "best"]))


def _in_language(part: str, word: str) -> str:
    return part if word == BEST else f"{part}[language^={word}]"


def subtitle_params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return which subtitles yt-dlp gets. Embedding implies getting them (as with yt-dlp)."""
    if values["extract_audio"]:
        return {"writesubtitles": False, "writeautomaticsub": False}
    chosen = values["video_subtitles"]
    if chosen == ("all",):
        languages = ["all", "-live_chat"]  # the chat is no subtitle, and can be huge
    elif chosen:
        languages = [f"{word}.*" for word in chosen]
    else:
        languages = list(values["sub_langs"] or ())
    auto = values["write_auto_subs"]
    return {
        "writesubtitles": values["write_subs"] or (values["embed_subs"] and not auto),
        "writeautomaticsub": auto,
        "subtitleslangs": languages,
        "subtitlesformat": values["sub_format"],
    }
