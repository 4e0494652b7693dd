"""yt-dlp's driver, as an item needs it."""

from __future__ import annotations

import os.path
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yt_dlp
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import UnsupportedURLIE
from yt_dlp.networking import Request
from yt_dlp.utils import DownloadError, sanitize_path

from vidra_trio.core.states import Level
from vidra_trio.engine.errors import OF_THIS_MACHINE, ItemFailed, cause_of, plain
from vidra_trio.engine.names import confine
from vidra_trio.engine.validators import StartOver
from vidra_trio.engine.ytdlp import steps
from vidra_trio.engine.ytdlp.endings import AlreadyThere, shakes
from vidra_trio.engine.ytdlp.requesting import open_any, open_piece, transfer_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vidra_trio.engine.validators import Transfer
    from vidra_trio.engine.ytdlp.item import Info, Item


class ItemYDL(yt_dlp.YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's driver, kept inside one item's directory and one item's control."""

    def __init__(self, params: Info, item: Item) -> None:
        self.item = item
        self._transfer: Transfer | None = None
        super().__init__(params)

    def add_default_info_extractors(self) -> None:
        """Add the extractors in 3 ms; upstream's ordering costs 48 ms of CPU each time."""
        chosen = self.params.get("allowed_extractors") or ["default"]
        if chosen not in (["default"], ["all"]):
            super().add_default_info_extractors()
            return
        for extractor in gen_extractor_classes():
            if chosen == ["all"] or extractor._ENABLED:
                self.add_info_extractor(extractor)
        if chosen == ["all"]:
            self.add_info_extractor(UnsupportedURLIE())

    def urlopen(self, req: object) -> Any:  # noqa: ANN401
        """Open a URL, unless the run is to end; also called from fragment threads."""
        self.item.control.enter()
        if self._transfer is not None and isinstance(req, Request):
            response = open_piece(req, self._transfer, self.item, super().urlopen)
        else:
            response = open_any(req, self.item, super().urlopen)
        self.item.opened(response)
        self.item.control.check()
        return response

    def trouble(
        self, message: str | None = None, tb: str | None = None, is_error: bool = True
    ) -> None:
        """Raise what ends the item: it is told once, at its end. What does not is a warning.

        Upstream logs first; who then catches the exception (a fragment may be skipped)
        or raises another one leaves a line that is not why the item failed.

        Raises:
            ItemFailed: this machine cannot; so that nobody skips it.
            DownloadError: anything else.
        """
        if not is_error or self.params.get("ignoreerrors"):
            self.report_warning(plain(message or ""))
            super().trouble(None, tb, is_error)
            return
        failure = self._failure(message or "")
        try:
            cause = cause_of(failure)
            if cause.code in OF_THIS_MACHINE:
                raise ItemFailed(cause.code, cause.message) from sys.exception()
            raise failure
        finally:
            del failure  # it knows this frame: a circle would keep its answer's socket open

    def _failure(self, message: str) -> DownloadError:
        """Return the exception for `message`, with what it was made of."""
        error = sys.exception()
        if error is None and (error := self.item.failing):
            # "Giving up", "is empty": the reason was handled, and forgotten, before.
            words = cause_of(error).message
            message = message if words in plain(message) else f"{message}: {words}"
        carried = getattr(error, "exc_info", None)
        made_of = (type(error), error, None) if error is not None else None
        return DownloadError(message, carried if carried and carried[0] else made_of)

    def save_cookies(self) -> None:
        """Leave the client's file alone: runs share it, and a stop may cut a rewrite short."""

    def get_output_path(self, dir_type: str = "", filename: str | None = None) -> str:
        """Return where a file goes: below `tmp` while in work, else below `out`.

        Raises:
            ItemFailed: the name leads out of there.
        """
        root = str(self.item.tmp if dir_type == "temp" else self.item.out)
        if not filename:
            return root
        return confine(sanitize_path(filename, force=self.params.get("windowsfilenames")), root)

    def prepare_filename(self, *args: Any, **kwargs: Any) -> str:  # noqa: ANN401
        """Return a file's name; the standard output is no file."""
        name: str = super().prepare_filename(*args, **kwargs)
        if name == "-":
            raise ItemFailed("path_not_allowed", "the output template names no file")
        return name

    def process_info(self, info_dict: Info) -> None:
        """Tell what the item is, formats chosen, before the first byte of it is fetched."""
        self.item.reporter.identify(info_dict, datetime.now(UTC))
        super().process_info(info_dict)

    def existing_file(self, filepaths: Iterable[str], *, default_overwrite: bool = True) -> Any:  # noqa: ANN401
        """Look for a file from before, for a video also at the destination."""
        paths = list(filepaths)
        if not default_overwrite and not self.item.order.overwrite:
            for path in paths:
                self._look_at_destination(Path(path))
        return super().existing_file(paths, default_overwrite=default_overwrite)

    def _look_at_destination(self, path: Path) -> None:
        if path.is_relative_to(self.item.out):
            relative = path.relative_to(self.item.out)
            if Path(self.item.order.destination, relative).is_file():
                raise AlreadyThere(str(relative))

    def in_download_archive(self, info_dict: Info) -> bool:
        """Look into the archive, and remember that it was the reason."""
        found = bool(super().in_download_archive(info_dict))
        if found:
            self.item.skipped = "recorded in the download archive"
        return found

    def _match_entry(self, info_dict: Info, incomplete: Any = False, silent: bool = False) -> Any:  # noqa: ANN401
        reason = super()._match_entry(info_dict, incomplete, silent)
        if reason is not None:
            self.item.skipped = str(reason)
        return reason

    def dl(self, name: str, info: Info, subtitle: bool = False, test: bool = False) -> Any:  # noqa: ANN401
        """Download one file; subtitles are too small for ticks of their own."""
        self.item.silent = subtitle
        self.item.stream = os.path.relpath(name, self.item.tmp)
        work = Path(self.item.order.work)
        self._transfer = None if test else transfer_of(name, info, self.params, work)
        try:
            while True:
                try:
                    return super().dl(name, info, subtitle, test)
                except StartOver as reason:
                    self._start_over(reason)
        finally:
            self.item.silent = False
            self.item.failing = None
            self._transfer = None

    def _start_over(self, reason: StartOver) -> None:
        assert self._transfer is not None  # noqa: S101  # nobody else raises it
        self.item.control.check()
        self.item.reporter.line(Level.INFO, f"{reason}: starting over")
        self._transfer.restart()

    def _write_subtitles(self, info_dict: Info, filename: str) -> Any:  # noqa: ANN401
        """Write subtitles; one that cannot be had is a warning (upstream: the end)."""
        self.params["ignoreerrors"] = True
        try:
            return super()._write_subtitles(info_dict, filename)
        finally:
            self.params["ignoreerrors"] = False

    def run_pp(self, pp: Any, infodict: Info) -> Info:  # noqa: ANN401
        """Run a post-processor; one that only decorates may fail."""
        name = pp.pp_key()
        steps.spare_ffprobe(self, name, pp, infodict)
        try:
            result: Info = super().run_pp(pp, infodict)
        except ItemFailed:
            raise
        except Exception as error:  # the adapter's boundary
            self.item.reporter.postprocessing(name, finished=True)
            if name in steps.ESSENTIAL:
                raise
            self.item.shaken = self.item.shaken or shakes(error)
            self.report_warning(f"{name} was skipped: {cause_of(error).message}")
            steps.sweep(self, name, pp, infodict)
            return infodict
        return result
