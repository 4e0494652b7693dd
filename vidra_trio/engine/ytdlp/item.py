"""One item while yt-dlp works on it: where it is, how it fares, and what yt-dlp calls."""

from __future__ import annotations

import contextlib
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.states import Level
from vidra_trio.engine import resume
from vidra_trio.engine.holes import Holes
from vidra_trio.engine.places import out_of, tmp_of
from vidra_trio.engine.ytdlp.endings import ENOUGH

if TYPE_CHECKING:
    from vidra_trio.engine.control import Control
    from vidra_trio.engine.pipe import Start
    from vidra_trio.engine.reporting import Reporter

    Info = dict[str, Any]

HOLE: Final = re.compile(r"^\[download\].* Skipping fragment (\d+)")


class Item:
    """One execution of one order."""

    def __init__(self, order: Start, reporter: Reporter, control: Control) -> None:
        self.order = order
        self.reporter = reporter
        self.control = control
        self.out = out_of(Path(order.work))
        self.tmp = tmp_of(Path(order.work))
        self.ledger = resume.Ledger(Path(order.work))
        self.skipped: str | None = None
        self.silent = False  # what is transferred is a side file: no ticks
        self.shaken = False  # this process is in doubt, whatever becomes of the item
        self.failing: Exception | None = None  # why the last try of the current file failed
        self.broken: Exception | None = None  # a hook of ours failed: yt-dlp may have skipped that
        self.holes = Holes(Path(order.work))
        self.stream = ""  # what is downloaded now, by its name in `tmp`
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()

    def opened(self, closeable: Any) -> Any:  # noqa: ANN401  # a file or an answer of a site
        """Note what yt-dlp leaves to the garbage collector when it is interrupted."""
        self._opened.add(closeable)
        return closeable

    def close_all(self) -> None:
        """Close all of that."""
        for closeable in tuple(self._opened):
            with contextlib.suppress(Exception):  # whatever state a stop left it in
                closeable.close()

    # What yt-dlp calls. The order in `on_progress` matters: nothing is vouched for
    # after a stop (a stream that a stop cut off may pass for a whole one), and a file
    # is vouched for before anyone hears of it.

    def on_progress(self, hook: Info) -> None:
        self.control.check()
        try:
            if hook["status"] == "finished" and hook.get("filename"):
                self.ledger.record(Path(hook["filename"]))
            if not self.silent:
                self.reporter.progress(hook)
        except ENOUGH:
            raise
        except Exception as error:
            self.broken = self.broken or error
            raise

    def on_postprocessing(self, hook: Info) -> None:
        finished = hook["status"] == "finished"
        if not finished:
            self.control.check()
        self.reporter.postprocessing(hook["postprocessor"], finished=finished)

    # yt-dlp's logger.

    def debug(self, message: str) -> None:
        self.control.check()
        level = Level.DEBUG if message.startswith("[debug] ") else Level.INFO
        if hole := HOLE.match(message):
            self.holes.add(self.stream, int(hole[1]))
        self.reporter.line(level, message)

    def info(self, message: str) -> None:
        self.debug(message)

    def warning(self, message: str) -> None:
        self.control.check()
        self.reporter.line(Level.WARNING, message)

    def error(self, message: str) -> None:
        """Take what goes to stderr, all but errors: those go through `ItemYDL.trouble`."""
        if not message.startswith("Deprecated Feature:"):  # comes as a warning, too
            self.warning(message)
