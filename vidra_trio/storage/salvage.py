"""JSON from a disk that may have been damaged, or written by somebody careless.

A value that we could not write out again (NaN, Infinity, half a surrogate pair,
a number of thousands of digits, a thousand levels) costs itself, and the one
who asked is told. Only what is no JSON at all is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from vidra_trio.core.redact import SURROGATES
from vidra_trio.wire.words import MAX_DEPTH

_REPLACEMENT: Final = "\ufffd"
_INTEGERS: Final = range(-(2**63), 2**64)

Dropped: Final = object()
"""What `sound` returns for a value that cannot stay."""


@dataclass(slots=True)
class Damage:
    """How many values were dropped so far."""

    values: int = 0


def parse(data: bytes) -> tuple[Any, bool]:
    """Read JSON; say whether it is sound as it is or has to go through `sound`.

    What msgspec takes holds no NaN and no half character: a sound file costs its
    decoding and nothing else.

    Raises:
        ValueError: it is not JSON, or nested without end.
    """
    try:
        return msgspec.json.decode(data), True
    except (ValueError, RecursionError):
        return _parse_leniently(data), False


def sound(value: object, damage: Damage, depth: int = 0) -> Any:  # noqa: ANN401 - JSON is open
    """Return `value` as JSON can hold it, or `Dropped`; `damage` counts what went."""
    match value:
        case None | bool():
            return value
        case str():
            return _sound_text(value, damage)
        case int() if value in _INTEGERS:
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping() if depth < MAX_DEPTH:
            pairs = (
                (_sound_text(str(key), damage), sound(item, damage, depth + 1))
                for key, item in value.items()
            )
            return {key: item for key, item in pairs if item is not Dropped}
        case list() | tuple() if depth < MAX_DEPTH:
            items = (sound(item, damage, depth + 1) for item in value)
            return [item for item in items if item is not Dropped]
    damage.values += 1
    return Dropped


def _sound_text(text: str, damage: Damage) -> str:
    whole, count = SURROGATES.subn(_REPLACEMENT, text)
    damage.values += count > 0
    return whole


def _parse_leniently(data: bytes) -> Any:  # noqa: ANN401 - JSON is open
    try:
        return json.loads(data.decode("utf-8-sig"), parse_int=_integer)
    except RecursionError:
        raise ValueError("nested without end") from None


def _integer(digits: str) -> int | float:
    """Read what is too long for any integer of ours as the infinity that `sound` drops."""
    return int(digits) if len(digits) < 40 else math.inf
