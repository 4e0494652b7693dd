"""One member of a body or of a query, read into a value or refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.errors import InvalidQuery, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
NOT_A_STRING: Final = ["Not a valid string."]

_YES: Final = frozenset({"true", "1", "yes", "on", "full"})


# -- members of a body


def optional_text(body: Mapping[str, Any], key: str) -> str | None:
    """Return a string, trimmed; None when it is missing, null or blank.

    Raises:
        InvalidRequest: it is something else.
    """
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest({key: NOT_A_STRING})
    return value.strip() or None


def texts(key: str, value: object) -> list[str]:
    """Return a string or a list of strings as trimmed, non-blank strings.

    Raises:
        InvalidRequest: it is something else; `key` is named.
    """
    items: list[object] = value if isinstance(value, list) else ["" if value is None else value]
    found = [item.strip() for item in items if isinstance(item, str)]
    if len(found) < len(items):
        raise InvalidRequest({key: NOT_A_STRING})
    return [text for text in found if text]


def spelling(body: Mapping[str, Any], camel: str, snake: str) -> str:
    """Return the spelling under which a member came: camelCase, unless that one is null."""
    return snake if body.get(camel) is None else camel


# -- members of a query


def integer(key: str, text: str) -> int:
    """Read an integer.

    Raises:
        InvalidQuery: `<key>_must_be_integer`.
    """
    if not INTEGER.fullmatch(text.strip()):
        raise InvalidQuery(f"{key}_must_be_integer", f"{key}: an integer is needed")
    return int(text)


def since(query: Mapping[str, str]) -> int | None:
    """Read the version that the client has.

    Raises:
        InvalidQuery: `since_must_be_integer`.
    """
    return integer("since", query["since"]) if "since" in query else None


def limit(query: Mapping[str, str]) -> int | None:
    """Read how many are wanted at most; None for all.

    Raises:
        InvalidQuery: `limit_must_be_integer` or `limit_greater_than_zero`.
    """
    if "limit" not in query:
        return None
    number = integer("limit", query["limit"])
    if number <= 0:
        raise InvalidQuery("limit_greater_than_zero", "limit: must be greater than zero")
    return number


def detail(query: Mapping[str, str]) -> bool:
    """Read whether the content is wanted all the same; no word but a yes means it."""
    return query.get("detail", "").strip().lower() in _YES
