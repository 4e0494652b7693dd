"""What clients ask of a playlist, parsed once.

1. Entries are addressed by their position, counted from 1, or by their id; a
   position below 1 addresses none, and a null none either.
2. Nothing is expanded: what comes as a list stays as long as it came.
3. The order of checks is the endpoint's; here is what one request says by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.errors import InvalidQuery, InvalidRequest
from vidra_trio.wire import fields
from vidra_trio.wire.requests import parse_json

if TYPE_CHECKING:
    from vidra_trio.core.errors import Detail

MAX_PAGE: Final = 500
"""Entries in one answer to a client that counts; who names no limit gets all."""

_NO_LIST: Final = "indices must be a list"
_NO_INTEGERS: Final = "indices must be integers"


@dataclass(frozen=True, slots=True)
class PlaylistQuery:
    """How a playlist is asked for: with its entries or without, and which part of them."""

    entries: bool
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class EntryTargets:
    """Which entries a command is for; both together are one set."""

    indices: tuple[int, ...] = ()
    entry_ids: tuple[str, ...] = ()


def parse_playlist_query(query: Mapping[str, str]) -> PlaylistQuery:
    """Read how a playlist is asked for. A page without entries is checked, then means nothing.

    Raises:
        InvalidQuery: `offset_must_be_integer`, `offset_must_be_non_negative`,
            `limit_must_be_integer` or `limit_greater_than_zero`.
    """
    words = {word.strip().lower() for word in query.get("include", "").split(",")}
    page = parse_items_query(query)
    return page if "entries" in words or fields.detail(query) else PlaylistQuery(entries=False)


def parse_items_query(query: Mapping[str, str]) -> PlaylistQuery:
    """Read which part of the entries is asked for.

    Raises:
        InvalidQuery: as `parse_playlist_query` does.
    """
    offset = fields.integer("offset", query["offset"]) if "offset" in query else 0
    if offset < 0:
        raise InvalidQuery("offset_must_be_non_negative", "offset: must not be negative")
    limit = fields.limit(query)
    return PlaylistQuery(True, offset, None if limit is None else min(limit, MAX_PAGE))


def parse_selection(body: bytes) -> tuple[int, ...]:
    """Read which entries the user wants, in ascending order; none means every one.

    Raises:
        InvalidRequest: whatever is wrong with the body, in one of two sentences.
    """
    try:
        given = parse_json(body).get("indices")
    except InvalidRequest:
        raise InvalidRequest(_NO_LIST) from None
    return _indices(given, _NO_LIST, _NO_INTEGERS)


def parse_entry_targets(body: Mapping[str, Any]) -> EntryTargets:
    """Read which entries are to be fetched again, or forgotten.

    Raises:
        InvalidRequest: `indices` or `entry_ids` of a wrong type.
    """
    no_list = {"indices": ["Not a valid list."]}
    indices = _indices(body.get("indices"), no_list, {"indices": ["Not a valid integer."]})
    key = fields.spelling(body, "entryIds", "entry_ids")
    return EntryTargets(indices, tuple(dict.fromkeys(fields.texts(key, body.get(key)))))


def _indices(given: object, no_list: Detail, no_integers: Detail) -> tuple[int, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise InvalidRequest(no_list)
    numbers = [_index(item) for item in given if item is not None]
    if None in numbers:
        raise InvalidRequest(no_integers)
    return tuple(sorted({number for number in numbers if number is not None and number > 0}))


def _index(item: object) -> int | None:
    if type(item) is int:
        return item
    if isinstance(item, str) and fields.INTEGER.fullmatch(item.strip()):
        return int(item)
    return None
