"""What net/ writes into the log: which error, where; never what the peer sent.

An exception's message may quote the request (wsproto puts whole events into
it, h11 the request line), and with it a token. So a report names exception
types and source lines only, on one line.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING

from hypercorn.logging import Logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypercorn.typing import ResponseSummary, WWWScope

logger = logging.getLogger("vidra_trio.net")

# Enough to see the way from our code into the library that raised.
FRAMES = 5


def describe(error: BaseException) -> str:
    """`error` and what it was made of, without one word from its message."""
    return "; ".join(_name(leaf) for leaf in _leaves(error))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _name(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = " < ".join(
        f"{PurePath(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames)
    )
    return f"{type(error).__qualname__} at {places or 'an unknown place'}"


class NetLogger(Logger):
    """Hypercorn's logger, with `describe` for tracebacks and without an access log."""

    async def access(
        self, request: WWWScope, response: ResponseSummary, request_time: float
    ) -> None:
        """Nothing: an access line would carry paths, referers and agents."""

    async def exception(self, message: str, *args: object, **_: object) -> None:
        """One line about the exception being handled."""
        error = sys.exception()
        where = describe(error) if error is not None else "no exception"
        logger.error("%s: %s", message % args if args else message, where)
