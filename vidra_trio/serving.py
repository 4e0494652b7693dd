"""`vidra-trio serve`: a server in the foreground, until a signal comes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from vidra_trio import log
from vidra_trio.bars import say
from vidra_trio.interrupts import interrupts
from vidra_trio.server import serve

if TYPE_CHECKING:
    from rich.console import Console

    from vidra_trio.settings import Settings


async def serve_until_stopped(settings: Settings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; then stop in order.

    Raises:
        ConfigurationError, DataDirInUse, PortBusy: as `serve` does.
    """
    with (
        trio.CancelScope() as scope,
        interrupts(partial(scope.cancel, "asked to stop")),
    ):
        async with serve(settings) as server:
            # Not earlier: the log file belongs to whoever holds the data directory.
            with log.configure(settings, to_terminal=console.is_terminal):
                say(console, f"listening on {server.url}")
                say(console, f"logging to {settings.log_file}")
                await trio.sleep_forever()
    say(console, "stopped")
