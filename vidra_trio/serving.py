"""`vidra-trio serve`: a server in the foreground, until a signal comes."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio import log
from vidra_trio.bars import say
from vidra_trio.interrupts import interrupts
from vidra_trio.server import serve

try:
    import resource
except ImportError:  # Windows: no such limit there
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from vidra_trio.settings import Settings

WANTED_FILES: Final = 4096
"""Twice the connections, and room for state files, logs and workers."""

EARLY_LINES: Final = 1000
"""Log lines kept from before the log file is open: one per damaged job, at worst."""

_log = logging.getLogger(__name__)


def raise_open_files_limit() -> None:
    """Take as many file descriptors as the system gives without asking: one a socket.

    Half of the systems start processes with 1,024, less than the sockets we promise.
    """
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        with suppress(OSError, ValueError):  # some systems lie about the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve_until_stopped(settings: Settings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; then stop in order.

    Raises:
        ConfigurationError, DataDirInUse, PortBusy: as `serve` does.
    """
    raise_open_files_limit()
    asked = trio.Event()
    # The log file belongs to whoever holds the data directory: not opened before that.
    # It is closed after the server: a stop has things to say, too.
    with interrupts(asked.set), ExitStack() as logging_to_file:
        early = logging_to_file.enter_context(_early_lines())
        async with serve(settings) as server:
            found = await server.diagnostics()
            logging_to_file.enter_context(log.configure(settings, to_terminal=console.is_terminal))
            _repeat(early)
            _log.info("vidra-trio %s with yt-dlp %s", found.version, found.yt_dlp)
            _log.info(
                "ffmpeg %s (%s)", found.ffmpeg.version or "none", found.ffmpeg.path or "not found"
            )
            if settings.scheme == "https":
                _log.warning("plain http is served: https needs a proxy in front that does TLS")
            say(console, f"listening on {server.url}")
            say(console, f"logging to {settings.log_file}")
            await asked.wait()
            _log.info("asked to stop")
        _log.info("stopped")
    say(console, "stopped")


class _Keeper(logging.Handler):
    """Keeps records for later."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=EARLY_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _early_lines() -> Iterator[_Keeper]:
    ours, keeper = logging.getLogger("vidra_trio"), _Keeper()
    before = ours.level
    ours.addHandler(keeper)
    ours.setLevel(logging.INFO)
    try:
        yield keeper
    finally:
        ours.removeHandler(keeper)
        ours.setLevel(before)


def _repeat(keeper: _Keeper) -> None:
    """Log what was kept, now that there is somewhere to log to."""
    for record in keeper.records:
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    keeper.records.clear()
