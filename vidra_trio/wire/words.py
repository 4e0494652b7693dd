"""The wire's spelling of the small things: states, instants, JSON.

1. JSON out is compact UTF-8, non-ASCII as it is, and always valid: what is not
   finite becomes null, what is not a character becomes U+FFFD. A file name from
   the disk may hold such bytes, and one of them must not silence a socket.
2. JSON in is strict: what could not be written out again is refused at the door.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vidra_trio.core.redact import SURROGATES
from vidra_trio.core.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH: Final = 100
"""Levels of arrays and objects; the deepest body that a client sends has five."""

_INT_RANGE: Final = range(-(2**63), 2**63)
"""What every reader of our JSON can hold, the Dart client included."""

_SPELLINGS: Final = {
    state: "starting" if state is JobState.SELECTING else state.value for state in JobState
}
_STATES: Final = {word: state for state, word in _SPELLINGS.items() if word == state.value}


def status_word(state: JobState) -> str:
    """Spell a state; who waits for a selection is `starting` to the world."""
    return _SPELLINGS[state]


def parse_status(word: str) -> JobState | None:
    """Read a status word of the wire in any case; None for an unknown one."""
    return _STATES.get(word.strip().lower())


def iso(moment: datetime) -> str:
    """Spell an instant: UTC, ISO 8601, `Z`, microseconds unless they are zero."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def parse_iso(text: str) -> datetime | None:
    """Read an instant, UTC unless it says otherwise; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def dumps(value: object) -> bytes:
    """Write JSON. Never fails on strings, whatever they hold."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_writable(msgspec.to_builtins(value)))


def loads(body: bytes) -> Any:  # noqa: ANN401 - JSON is genuinely open
    """Read strict JSON.

    Raises:
        ValueError: not JSON, not UTF-8, NaN or Infinity, half a surrogate pair, a number
            that nobody can hold, or more than `MAX_DEPTH` levels.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise ValueError("too many levels") from None
    _check(value)
    return value


def _check(value: object) -> None:
    """Look at every level without recursion: the depth is the sender's choice."""
    level = [value]
    depth = 0
    while level:
        if any(type(item) is int and item not in _INT_RANGE for item in level):
            raise ValueError("a number is out of range")
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += 1
        if containers and depth > MAX_DEPTH:
            raise ValueError("too many levels")
        level = [child for item in containers for child in _children(item)]


def _children(container: dict[str, object] | list[object]) -> Iterable[object]:
    return container.values() if isinstance(container, dict) else container


def _writable(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value
