"""Readers: one option's value as it came in -> what we work with.

1. A reader takes any JSON value and returns the parsed value, or None when the
   client said nothing: null, blank and empty always mean that, and so does
   False wherever a text or a number is expected (clients send False for "not
   set"). Zero is a value.
2. What cannot be meant is a `BadValue`, in the words that clients know.
3. Readers are pure and total: for no JSON value do they raise anything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.redact import SURROGATES

if TYPE_CHECKING:
    from vidra_trio.core.errors import Detail

Reader = Callable[[object], Any]

TEXT_LIMIT: Final = 4096
"""Longest text we take: a `format` of 4 KiB is beyond anything a person writes."""
WORDS_LIMIT: Final = 256
FOREVER: Final = 1_000_000_000
"""Retries for `infinite`: JSON has no infinity, and one a second makes this 31 years."""
WAIT_FOR_VIDEO: Final = 30
"""Seconds between two looks when a client says just `wait_for_video: true`."""

NOT_STRING: Final = "Not a valid string."
NOT_BOOLEAN: Final = "Not a valid boolean."
NOT_INTEGER: Final = "Not a valid integer."
NOT_MAPPING: Final = "Not a valid mapping type."
NOT_FINITE: Final = "Special numeric values (nan or infinity) are not permitted."
NOT_UTF8: Final = "Not a valid utf-8 string."
CONTROL: Final = "Control characters are not allowed."
TOO_LONG: Final = f"Longer than maximum length {TEXT_LIMIT}."

_TRUE: Final = ("t", "true", "on", "y", "yes", "1", 1)
_FALSE: Final = ("f", "false", "off", "n", "no", "0", 0)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,12}")


class BadValue(ValueError):
    """A value that cannot be meant; `detail` is what the client is told about its key."""

    def __init__(self, detail: str | Mapping[str, Detail]) -> None:
        super().__init__(detail)
        self.detail: Detail = [detail] if isinstance(detail, str) else detail


def unset(value: object) -> bool:
    """Say whether `value` says nothing: null, blank text, an empty list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, (list, tuple, Mapping)) and not value)


def flag(value: object) -> bool | None:
    """Read a boolean, or one of the usual words for one."""
    if isinstance(value, bool):
        return value
    if unset(value):
        return None
    word = value.strip().casefold() if isinstance(value, str) else value
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadValue(NOT_BOOLEAN)


def plain(value: object) -> str:
    """Return `value` trimmed, when it is text of a sane length without control characters."""
    if not isinstance(value, str):
        raise BadValue(NOT_STRING)
    word = value.strip()
    if _CONTROL.search(word):
        raise BadValue(CONTROL)
    if SURROGATES.search(word):
        raise BadValue(NOT_UTF8)
    if len(word) > TEXT_LIMIT:
        raise BadValue(TOO_LONG)
    return word


def strict_text(value: object) -> str | None:
    """Read text, where nothing but text ever was allowed (`format`)."""
    return None if value is None else plain(value) or None


def text(value: object) -> str | None:
    """Read text."""
    return None if value is False or unset(value) else plain(value)


def verbatim(value: object) -> str | None:
    """Read text whose outer spaces count (passwords)."""
    return value if isinstance(value, str) and text(value) else text(value)


def matching(pattern: str, expected: str, *, true: str | None = NOT_STRING) -> Reader:
    """Read text that `pattern` matches as a whole; True means `true`, if that is given."""
    shape = re.compile(pattern)

    def read(value: object) -> str | None:
        if value is True and true is not NOT_STRING:
            return true
        word = text(value)
        if word is not None and not shape.fullmatch(word):
            raise BadValue(f"Must be {expected}.")
        return word

    return read


def choice(*names: str) -> Reader:
    """Read one of `names`."""
    return matching("|".join(map(re.escape, names)), "one of: " + ", ".join(names))


def conversion(*names: str) -> Reader:
    """Read a target (`mp4`) or rules (`webm>mkv/mp4`); `none`, as True, converts nothing."""
    target = "|".join(map(re.escape, names))
    rule = rf"(?:\s*\w+\s*>)?\s*(?:{target})\s*"
    read_rules = matching(rf"none|{rule}(?:/{rule})*", "of: " + ", ".join(names), true=None)

    def read(value: object) -> str | None:
        rules: str | None = read_rules(value)
        return None if rules == "none" else rules

    return read


def words(pattern: str, expected: str) -> Reader:
    """Read a list of words, or one text with commas between them."""
    word_of = matching(pattern, expected)

    def read(value: object) -> tuple[str, ...] | None:
        if value is False or unset(value):
            return None
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise BadValue(NOT_STRING)
        if len(items) > WORDS_LIMIT:
            raise BadValue(f"Longer than maximum length {WORDS_LIMIT}.")
        return tuple(word for item in items if (word := word_of(item)) is not None) or None

    return read


def integer(value: object) -> int:
    """Return `value` as a whole number, when it is one or spells one."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise BadValue(NOT_INTEGER)


def whole(low: int, high: int, *, zero_is_blank: bool = False) -> Reader:
    """Read a whole number from `low` to `high`."""

    def read(value: object) -> int | None:
        if value is False or unset(value):
            return None
        number = integer(value)
        if number == 0 and zero_is_blank:
            return None
        if not low <= number <= high:
            raise BadValue(f"Must be at least {low} and at most {high}.")
        return number

    return read


def retries(value: object) -> int | None:
    """Read 0 to 100, or `infinite`."""
    if isinstance(value, str) and value.strip().casefold() in ("inf", "infinite"):
        return FOREVER
    number: int | None = whole(0, 100)(value)
    return number


def audio_quality(value: object) -> str | None:
    """Read 0 (best) to 10 (worst), or a bit rate: `128K`, `192`."""
    if isinstance(value, str):
        value = value.strip().removesuffix("K").removesuffix("k")
    number: int | None = whole(0, 1024)(value)
    return None if number is None else str(number)


def wait_for_video(value: object) -> list[int | None] | None:
    """Read `[min, max]` seconds from `15`, `"15-60"` or True."""
    if value is True:
        return [WAIT_FOR_VIDEO, None]
    second = whole(1, 86_400, zero_is_blank=True)
    if isinstance(value, str) and "-" in value:
        low, high = (integer(part) for part in value.split("-", 1))
        if not 1 <= low <= high <= 86_400:
            raise BadValue("Must be a range of seconds such as 15-60.")
        return [low, high]
    number: int | None = second(value)
    return None if number is None else [number, None]


def playlist_items(value: object) -> str | None:
    """Read `1:3,7,-5::2`: numbers and ranges, which stay ranges."""
    items: str | None = _playlist_items(value)
    return None if items is None else items.replace(" ", "")


_NUMBER: Final = r"-?[0-9]{1,9}"
_ITEM: Final = rf" *(?:{_NUMBER}|(?:{_NUMBER})?[:-](?:{_NUMBER})?(?::-?0*[1-9][0-9]{{0,8}})?) *"
_playlist_items: Final = matching(
    rf"(?=.{{1,512}}$){_ITEM}(?:,{_ITEM})*", "items and ranges such as 1:3,7"
)
