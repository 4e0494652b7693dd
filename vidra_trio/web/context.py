"""What every view is given: the server's parts, and the sockets that are open."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.web.listing import Listing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from datetime import datetime

    from vidra_trio.core.diagnostics import Diagnostics
    from vidra_trio.hub import Hub
    from vidra_trio.settings import Settings
    from vidra_trio.supervisor import Supervisor

MAX_SOCKETS: Final = 1024
"""Per process. A client has one for the overview and one for each job it shows."""


class OpenSockets:
    """Counts the sockets that are open, so that a shutdown knows when all were told."""

    def __init__(self) -> None:
        self._count = 0
        self._one_less = trio.Event()

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one more for the length of the block."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._one_less.set()
            self._one_less = trio.Event()

    async def wait_none(self) -> None:
        """Wait until none is open."""
        while self._count:
            await self._one_less.wait()


@dataclass(frozen=True, slots=True)
class WebContext:
    """The parts that the views work with. `closing` is set when the server shuts down.

    `diagnose` looks at what the web does not know: the engine, and what that stands on.
    """

    settings: Settings
    supervisor: Supervisor
    hub: Hub
    closing: trio.Event
    now: Callable[[], datetime]
    diagnose: Callable[[], Awaitable[Diagnostics]]
    sockets: OpenSockets = field(default_factory=OpenSockets)
    listing: Listing = field(default_factory=Listing)


async def drain(context: WebContext) -> None:
    """Tell every socket that the server goes away, and wait until none is open.

    New ones are refused from now on. Waits as long as a peer takes its time; the
    caller bounds it.
    """
    context.hub.close()
    context.closing.set()
    await context.sockets.wait_none()
