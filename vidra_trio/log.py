"""Where our log lines go: a private file per start, and perhaps the terminal.

1. One event is one line: what cannot be printed is spelt (`\\n`, `\\x1b`), tracebacks
   included, so no title or header can forge a line or colour a terminal.
2. Secrets are masked here, after formatting. Who logs need not think of it.
3. A log line is never worth a request: a full disk, a closed stream or a wrong
   format loses the line and nothing else.
4. Everything that is changed is put back on exit.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import sys
import time
from typing import TYPE_CHECKING, Final

from vidra_trio.core.redact import escape, redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vidra_trio.settings import Settings

TREES: Final = ("vidra_trio", "hypercorn", "quart")
"""The loggers that are ours to configure. The root logger belongs to whoever embeds us."""

SILENT: Final = "hypercorn.access"
"""Request targets carry tokens and nobody reads them: there is no access log."""

_LINE_LIMIT: Final = 16 * 1024
"""One event; a page that a site put into an error message is longer."""

_LEVELS: Final = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)  # not on Windows, nor is the next one
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def configure(settings: Settings, *, to_terminal: bool) -> Iterator[None]:
    """Log to `settings.log_file`, and to stderr too, for the length of the block.

    The file of the previous start is kept as `<name>.1`. One that cannot be opened
    costs the file, not the start.
    """
    formatter = _Formatter((settings.token,))
    with contextlib.ExitStack() as stack:
        handlers: list[logging.Handler] = []
        if to_terminal and sys.stderr is not None:
            handlers.append(logging.StreamHandler(sys.stderr))
        trouble = None
        try:
            handlers.append(stack.enter_context(_open_file(settings.log_file)))
        except OSError as error:
            trouble = error
        for handler in handlers:
            handler.setFormatter(formatter)
        stack.enter_context(_installed(handlers, _level(settings)))
        if trouble is not None:
            _log.warning("no log file: %s", trouble)
        yield


class _Formatter(logging.Formatter):
    """Time, level, logger, message; one line, no secrets."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.converter = time.gmtime
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        text = redact(super().format(record), self._secrets)
        if len(text) > _LINE_LIMIT:  # not earlier: half a secret is not recognised
            text = f"{text[:_LINE_LIMIT]}..."
        # Again: what is spelt out now may look like a secret.
        return redact(escape(text), self._secrets)


class _Lines(io.TextIOBase):
    """A stream that keeps nothing back: what a full disk refused is not tried again later."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)


def _level(settings: Settings) -> int:
    """Return what to log; VERBOSE and DEBUG raise the level, never lower it."""
    level = _LEVELS[settings.log_level]
    if settings.verbose:
        level = min(level, logging.INFO)
    return min(level, logging.DEBUG) if settings.debug else level


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[logging.Handler]:
    """Open a fresh private file; what is no plain file (a device) is appended to as it is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _rotatable(path):
        _rotate(path)
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | _NONBLOCK, 0o600
    )
    try:
        yield logging.StreamHandler(_Lines(descriptor))
    finally:
        os.close(descriptor)


def _rotatable(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


def _rotate(path: Path) -> None:
    """Keep one older file. A link is moved like a file and never followed."""
    previous = path.with_name(f"{path.name}.1")
    path.replace(previous)
    if not previous.is_symlink():
        previous.chmod(0o600)


@contextlib.contextmanager
def _installed(handlers: list[logging.Handler], level: int) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in TREES]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    silent = logging.getLogger(SILENT)
    was_disabled, raise_before = silent.disabled, logging.raiseExceptions
    logging.raiseExceptions = False
    silent.disabled = True
    for logger in loggers:
        logger.handlers[:] = handlers or [logging.NullHandler()]
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, old_handlers, old_level, propagate in before:
            logger.handlers[:] = old_handlers
            logger.setLevel(old_level)
            logger.propagate = propagate
        silent.disabled = was_disabled
        logging.raiseExceptions = raise_before
