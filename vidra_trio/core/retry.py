"""Which failures are tried again by the server itself, and after how long.

1. Only what the network or the site broke for now: the same request may work in a
   moment. A defect, a full disk or a dead worker is nobody's weather; trying
   those again would only hide them.
2. `http_error` is any answer without a code of its own. The engine says of each
   whether it is worth another try (500 and up are), so both are asked.
3. The pause doubles, because an outage that outlasted one second rarely ends in
   the next, and each try costs a site that is overloaded already. It is capped,
   because a person watches: half a minute is as long as a standing bar can be
   explained. No jitter: one server with a handful of slots is no stampede.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeGuard

from vidra_trio.core.report import Failed

if TYPE_CHECKING:
    from vidra_trio.core.report import Terminal

NETWORK: Final = frozenset(
    {
        "http_429",
        "http_error",
        "network_error",
        "remote_changed",
        "stalled_connect",
        "stalled_extract",
        "stalled_transfer",
        "timeout",
    }
)
"""Codes of failures that the network, or a site under load, brings about."""

PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before each further try; the last one stands for all that follow."""


def passing(end: Terminal) -> TypeGuard[Failed]:
    """Say whether `end` is a failure that may be gone by itself in a moment."""
    return isinstance(end, Failed) and end.retryable and end.code in NETWORK


def pause(number: int) -> float:
    """Return the seconds to wait after try `number` (from 1) failed."""
    return PAUSES[min(number, len(PAUSES)) - 1]
