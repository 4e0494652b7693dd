"""One item, run by yt-dlp. The only module that imports it.

1. One extraction: what the page said is followed (`url` results, a playlist of
   one) and handed on to the download; nothing is asked twice.
2. Everything happens in the run's private directory. Names made from metadata
   are confined to it; publishing is the server's business.
3. Whatever goes wrong ends as one `Failed` with the real cause. A post-processor
   that only decorates (tags, covers, subtitles, chapters) costs a warning, not
   the file.
4. Names that yt-dlp calls private are used here only, and a contract test holds
   each of them against the installed version.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os.path
import re
import sys
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yt_dlp
from yt_dlp.downloader import get_suitable_downloader
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.downloader.http import HttpFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import UnsupportedURLIE
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.networking.impersonate import ImpersonateTarget
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import (
    DownloadError,
    ExistingVideoReached,
    MaxDownloadsReached,
    PlaylistEntries,
    ReExtractInfo,
    RejectedVideoReached,
    UserNotLive,
    sanitize_path,
)
from yt_dlp.utils import prepend_extension as with_prefix
from yt_dlp.utils.networking import HTTPHeaderDict
from yt_dlp.version import __version__

from vidra_trio.core.report import Failed, Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine import hooks, resume, upcoming
from vidra_trio.engine.control import CURRENT, Control, Interrupted
from vidra_trio.engine.errors import OF_THIS_MACHINE, ItemFailed, cause_of, chain, plain
from vidra_trio.engine.holes import Holes
from vidra_trio.engine.names import confine
from vidra_trio.engine.params import SMALLEST_BLOCK, build, secrets_of
from vidra_trio.engine.pipe import Ended, Produced
from vidra_trio.engine.places import out_of, tmp_of
from vidra_trio.engine.reporting import Reporter
from vidra_trio.engine.validators import Memory, StartOver, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vidra_trio.engine.pipe import Start
    from vidra_trio.engine.reporting import Emit

    Info = dict[str, Any]

ESSENTIAL: Final = frozenset(
    {"Merger", "ExtractAudio", "VideoRemuxer", "VideoConvertor", "CopyStream", "MoveFiles"}
)
"""Post-processors that make the file what was asked for; the others decorate it."""

PARTIAL_CONTENT: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416
MAX_HOPS: Final = 10
MAX_EXTRACTIONS: Final = 3
BLOCKS_PER_SECOND: Final = 20
LARGEST_BLOCK: Final = 1 << 19

_SHAKEN: Final = (MemoryError, RecursionError)  # with SystemExit and its kin: replace the process
_ENOUGH: Final = (ExistingVideoReached, MaxDownloadsReached, RejectedVideoReached)
"""Limits that the user set. Their base, DownloadCancelled, says no more than "stop": a failure."""

_HOLE: Final = re.compile(r"^\[download\].* Skipping fragment (\d+)")


class AlreadyThere(Exception):  # a good ending
    """The file is at the destination from before and is to stay."""

    def __init__(self, relative: str) -> None:
        super().__init__(relative)
        self.relative = relative


def installed(*, own_groups: bool) -> contextlib.AbstractContextManager[None]:
    """Keep our repairs (resume.py has the reasons) and hooks in this process's yt-dlp meanwhile.

    They do nothing to a yt-dlp that works for somebody else in the same process.
    """
    return hooks.installed(_REPAIRS, own_groups=own_groups)


def version() -> str:
    """Return yt-dlp's version."""
    return str(__version__)


def best_block_size(elapsed: float, size: int) -> int:
    """Return how much to read next: what 1/20 s brings, at most twice the last block.

    `read` returns when the block is full. yt-dlp's own sizing grows blocks to
    4 MB (2 hooks a second at 4 MB/s); a fixed 128 KiB gives one sign of life in 13 s at
    10 KB/s. On a fast line 512 KiB cost no more CPU than 4 MB do (measured: 0.07 s per
    100 MB; 128 KiB 0.085), and should it drop to 10 KB/s, the one block under way is
    there before that looks like a stall. Doubling at most: what had piled up in the
    socket says nothing about the line.
    """
    brings = size / max(elapsed, 1e-6) / BLOCKS_PER_SECOND
    return int(max(SMALLEST_BLOCK, min(LARGEST_BLOCK, 2 * size, brings)))


def prewarm(wanted: Callable[[], bool] = lambda: False) -> None:
    """Pay for what a first extraction would (0.35 s of patterns); ends early when `wanted`."""
    for extractor in gen_extractor_classes():
        if wanted():
            return
        extractor.suitable("warm:up")
    working_for = CURRENT.set(Control())  # as a run: no plug-ins
    try:
        with (
            installed(own_groups=True),
            yt_dlp.YoutubeDL({"quiet": True, "cachedir": False}) as ydl,
        ):
            ydl.get_info_extractor("Generic")
            _ = ydl._request_director
    finally:
        CURRENT.reset(working_for)


def run_item(order: Start, emit: Emit, control: Control) -> Ended:
    """Run one item to its end; blocks, raises nothing.

    Reports go to `emit` from this and other threads until this returns, none
    after. A stop asked through `control` ends as `Stopped`, whatever it provoked.
    """
    reporter = Reporter(emit, Path(order.work), secrets_of(order.params))
    control.on_wait = reporter.waiting
    working_for = CURRENT.set(control)
    item = _Item(order, reporter, control)
    try:
        return Ended(item.run(), reusable=not item.shaken)
    except Interrupted:
        return Ended(Stopped(), reusable=not item.shaken)
    except BaseException as error:  # noqa: BLE001  # the adapter's boundary
        sound = not (item.shaken or _shakes(error))
        if control.asked:
            return Ended(Stopped(), reusable=sound)
        return Ended(_failed(item.broken or error, reporter), reusable=sound)
    finally:
        item.broken = None  # it knows frames that know the item
        reporter.close()
        CURRENT.reset(working_for)


def _failed(error: BaseException, reporter: Reporter) -> Failed:
    cause = cause_of(error)
    return Failed(cause.code, reporter.last_words(cause.message), cause.retryable)


def _shakes(error: BaseException) -> bool:
    """Return whether a process in which `error` was raised is in doubt."""
    odd = any(isinstance(one, _SHAKEN) or not isinstance(one, Exception) for one in chain(error))
    return odd or cause_of(error).code == "out_of_resources"


class _Item:
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

    def run(self) -> Produced:
        """Do it; every way out but success is an exception."""
        resume.heal(Path(self.order.work))
        for folder in (self.out, self.tmp):
            folder.mkdir(parents=True, exist_ok=True)
        params = build(self.order, self, self.out, self.tmp)
        if isinstance(target := params.get("impersonate"), str):
            params["impersonate"] = ImpersonateTarget.from_str(target)
        location = FFmpegPostProcessor._ffmpeg_location.set(params["ffmpeg_location"])
        try:
            with ItemYDL(params, self) as ydl:
                info = self._download(ydl)
        except AlreadyThere as found:
            self.reporter.line(Level.INFO, f"{found.relative} is there already")
            return Produced(already=(found.relative,))
        except _ENOUGH as reason:
            self.skipped, info = str(reason), None
        finally:
            FFmpegPostProcessor._ffmpeg_location.reset(location)
            self._close_all()
        return self._produced(info)

    def opened(self, closeable: Any) -> Any:  # noqa: ANN401  # a file or an answer of a site
        """Note what yt-dlp leaves to the garbage collector when it is interrupted."""
        self._opened.add(closeable)
        return closeable

    def _close_all(self) -> None:
        for closeable in tuple(self._opened):
            with contextlib.suppress(Exception):  # whatever state a stop left it in
                closeable.close()

    def _download(self, ydl: ItemYDL) -> Info | None:
        for _ in range(MAX_EXTRACTIONS):
            with contextlib.suppress(ReExtractInfo):
                found = self._resolve(ydl)
                if found is None:
                    return None
                result: Info | None = ydl.process_ie_result(found, download=True)
                return result
        raise ItemFailed("engine_error", "the site asks to be read again and again")

    def _resolve(self, ydl: ItemYDL) -> Info | None:
        """Extract, and follow references, until there is one video."""
        found = self._extract(ydl, self.order.url)
        for _ in range(MAX_HOPS):
            if found is None:
                return None
            match found.get("_type", "video"):
                case "video":
                    return found
                case "playlist" | "multi_video":
                    found = _only_entry(ydl, found)
                case "url" | "url_transparent":
                    found = self._follow(ydl, found)
                case other:
                    raise ItemFailed("engine_error", f"the extractor returned a {other!r}")
        raise ItemFailed("engine_error", "the page refers to another one again and again")

    def _follow(self, ydl: ItemYDL, found: Info) -> Info | None:
        inner = self._extract(ydl, found["url"], found.get("ie_key"))
        if inner is None or found["_type"] == "url":
            return inner
        outer = {k: v for k, v in found.items() if v is not None and k not in _OF_THE_INNER}
        kind = "url_transparent" if inner.get("_type") == "url" else inner.get("_type", "video")
        return {**inner, **outer, "_type": kind}

    def _extract(self, ydl: ItemYDL, url: str, ie_key: str | None = None) -> Info | None:
        limits = ydl.params.get("wait_for_video")
        while True:
            self.control.check()
            found = self._ask(ydl, url, ie_key, patient=bool(limits))
            seconds = upcoming.seconds_until(found, limits) if found is not None and limits else 0.0
            if seconds <= 0:
                break
            self.reporter.line(Level.INFO, f"nothing to download yet: waiting {seconds:.0f} s")
            upcoming.wait(seconds, self.control.sleep)
        if found is None and self.skipped is None:
            raise ItemFailed("nothing_downloaded", "the extractor found nothing")
        return found

    def _ask(self, ydl: ItemYDL, url: str, ie_key: str | None, *, patient: bool) -> Info | None:
        """Extract once; for a `patient` user "not live yet" is an answer without formats."""
        try:
            found: Info | None = ydl.extract_info(
                url,
                ie_key=ie_key,
                download=False,
                process=False,
                extra_info={"original_url": self.order.url},
            )
        except DownloadError as error:
            if patient and any(isinstance(one, UserNotLive) for one in chain(error)):
                return {}
            raise
        return found

    def _produced(self, info: Info | None) -> Produced:
        if self.broken is not None:
            raise self.broken
        downloads = (info or {}).get("requested_downloads") or []
        paths = [Path(one["filepath"]) for one in downloads if one.get("filepath")]
        media = [path for path in paths if path.is_file() and path.is_relative_to(self.out)]
        if media:
            if holes := len(self.holes):  # perhaps it was asked for, but never silently
                self.reporter.line(Level.ERROR, f"the file has holes: {holes} fragments")
            return Produced(main=str(media[0].relative_to(self.out)))
        if self.skipped is None:
            raise ItemFailed("nothing_downloaded", "yt-dlp ended without a file")
        self.reporter.line(Level.INFO, self.skipped)
        return Produced(skipped=self.reporter.clean(self.skipped))

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
        except _ENOUGH:
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
        if hole := _HOLE.match(message):
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


class ItemYDL(yt_dlp.YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's driver, kept inside one item's directory and one item's control."""

    def __init__(self, params: Info, item: _Item) -> None:
        self._item = item
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
        self._item.control.enter()
        if self._transfer is not None and isinstance(req, Request):
            response = self._continue(req, self._transfer)
        else:
            response = self._open(req)
        self._item.opened(response)
        self._item.control.check()
        return response

    def _open(self, req: object) -> Any:  # noqa: ANN401
        try:
            return super().urlopen(req)
        except HTTPError as error:
            self._item.opened(error.response)  # an extractor may read it: closed at the end
            if error.status == RANGE_NOT_SATISFIABLE and isinstance(req, Request):
                _forget_range(req)
            raise

    def _continue(self, req: Request, transfer: Transfer) -> Any:  # noqa: ANN401
        """Open the URL of a direct download, or a piece of it, if it is still the same file."""
        transfer.ask(req.headers)
        try:
            response = super().urlopen(req)
        except HTTPError as error:
            error.close()
            if error.status == RANGE_NOT_SATISFIABLE:
                transfer.refuse(req.headers)
            raise
        try:
            self._item.control.check()
            partial = response.status == PARTIAL_CONTENT
            transfer.take(req.headers, response.headers, partial=partial)
        except BaseException:
            response.close()
            raise
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
        if error is None and (error := self._item.failing):
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
        root = str(self._item.tmp if dir_type == "temp" else self._item.out)
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
        self._item.reporter.identify(info_dict, datetime.now(UTC))
        super().process_info(info_dict)

    def existing_file(self, filepaths: Iterable[str], *, default_overwrite: bool = True) -> Any:  # noqa: ANN401
        """Look for a file from before, for a video also at the destination."""
        paths = list(filepaths)
        if not default_overwrite and not self._item.order.overwrite:
            for path in paths:
                self._look_at_destination(Path(path))
        return super().existing_file(paths, default_overwrite=default_overwrite)

    def _look_at_destination(self, path: Path) -> None:
        if path.is_relative_to(self._item.out):
            relative = path.relative_to(self._item.out)
            if Path(self._item.order.destination, relative).is_file():
                raise AlreadyThere(str(relative))

    def in_download_archive(self, info_dict: Info) -> bool:
        """Look into the archive, and remember that it was the reason."""
        found = bool(super().in_download_archive(info_dict))
        if found:
            self._item.skipped = "recorded in the download archive"
        return found

    def _match_entry(self, info_dict: Info, incomplete: Any = False, silent: bool = False) -> Any:  # noqa: ANN401
        reason = super()._match_entry(info_dict, incomplete, silent)
        if reason is not None:
            self._item.skipped = str(reason)
        return reason

    def dl(self, name: str, info: Info, subtitle: bool = False, test: bool = False) -> Any:  # noqa: ANN401
        """Download one file; subtitles are too small for ticks of their own."""
        self._item.silent = subtitle
        self._item.stream = os.path.relpath(name, self._item.tmp)
        self._transfer = None if test else self._transfer_of(name, info)
        try:
            while True:
                try:
                    return super().dl(name, info, subtitle, test)
                except StartOver as reason:
                    self._start_over(reason)
        finally:
            self._item.silent = False
            self._item.failing = None
            self._transfer = None

    def _transfer_of(self, name: str, info: Info) -> Transfer | None:
        """Return what watches over a direct download; None for any other one."""
        if not info.get("url") or get_suitable_downloader(info, self.params) is not HttpFD:
            return None
        mine = self.params.get("http_chunk_size")
        theirs = (info.get("downloader_options") or {}).get("http_chunk_size")
        resume.make_way_for_direct(Path(name))
        return Transfer(
            Path(self._item.order.work),
            name,
            own=HTTPHeaderDict(info.get("http_headers")).get("Range"),
            chunked=bool(mine or theirs),
        )

    def _start_over(self, reason: StartOver) -> None:
        assert self._transfer is not None  # noqa: S101  # nobody else raises it
        self._item.control.check()
        self._item.reporter.line(Level.INFO, f"{reason}: starting over")
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
        self._spare_ffprobe(name, pp, infodict)
        try:
            result: Info = super().run_pp(pp, infodict)
        except ItemFailed:
            raise
        except Exception as error:  # the adapter's boundary
            self._item.reporter.postprocessing(name, finished=True)
            if name in ESSENTIAL:
                raise
            self._item.shaken = self._item.shaken or _shakes(error)
            self.report_warning(f"{name} was skipped: {cause_of(error).message}")
            self._sweep(name, pp, infodict)
            return infodict
        return result

    def _spare_ffprobe(self, name: str, pp: Any, infodict: Info) -> None:  # noqa: ANN401
        """Without ffprobe the info.json would take all tags of a Matroska file down with it."""
        wants = name == "Metadata" and pp._add_infojson and infodict.get("ext") in ("mkv", "mka")
        if wants and not pp.probe_available:
            pp._add_infojson = False
            self.report_warning("the info.json is not embedded: that needs ffprobe")

    def _sweep(self, name: str, pp: Any, infodict: Info) -> None:  # noqa: ANN401
        """Remove what a failed post-processor left half done."""
        if path := infodict.get("filepath"):
            Path(with_prefix(path, "temp")).unlink(missing_ok=True)
        if name == "EmbedThumbnail" and not pp._already_have_thumbnail:
            covers = [one.pop("filepath", None) for one in infodict.get("thumbnails") or []]
            there = [cover for cover in covers if cover and Path(cover).exists()]
            self._delete_downloaded_files(*there, info=infodict)


_OF_THE_INNER: Final = frozenset({"_type", "url", "ie_key", "id", "extractor", "extractor_key"})
"""What an embedded page keeps of its own when the embedding one describes it."""

_OF_THE_HEADER: Final = (
    "extractor",
    "extractor_key",
    "webpage_url",
    "original_url",
    "webpage_url_basename",
    "webpage_url_domain",
)


def _forget_range(request: Request) -> None:
    """Let the whole file be asked for next, when a Range "from there on" was refused.

    yt-dlp means to do so, but with this very mapping: it would be refused for ever when
    the site's file became shorter. A range with an end is the format's own: without it
    the whole file would pass for a part of it.
    """
    if request.headers.get("Range", "").endswith("-"):
        del request.headers["Range"]


def _only_entry(ydl: ItemYDL, playlist: Info) -> Info:
    """Return the entry of a playlist of one; looks at two at most."""
    entries: Iterator[tuple[int, Info]] = PlaylistEntries(ydl, playlist).get_requested_items()
    found = [entry for _, entry in itertools.islice(entries, 2) if entry]
    if len(found) > 1:
        message = "this URL is a playlist; playlists come with a later version"
        raise ItemFailed("playlist_not_supported", message)
    if not found:
        raise ItemFailed("nothing_downloaded", "the playlist is empty")
    header = {key: playlist[key] for key in _OF_THE_HEADER if playlist.get(key)}
    return found[0] if "url" in str(found[0].get("_type")) else {**header, **found[0]}


# The repairs; each leaves alone what is none of ours.


def _state_writer(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def write(fd: FragmentFD, ctx: Info) -> None:
        if isinstance(fd.ydl, ItemYDL):
            resume.write_state(fd, ctx)
        else:
            original(fd, ctx)

    return write


def _preparer(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def prepare(fd: FragmentFD, ctx: Info) -> None:
        if isinstance(fd.ydl, ItemYDL) and resume.make_way_for_fragments(fd, ctx):
            # What they leave is nothing that a direct download of that name could vouch for.
            Memory(Path(fd.ydl._item.order.work)).remember(ctx["filename"], None)
        original(fd, ctx)

    return prepare


def _appender(original: Callable[[FragmentFD, Info, bytes], None]) -> Callable[..., None]:
    def append(fd: FragmentFD, ctx: Info, content: bytes) -> None:
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl._item.control.check()  # a fragment that a stop cut off may pass for a whole one
            resume.append_fragment(fd, ctx, content)
        else:
            original(fd, ctx, content)

    return append


def _state_reader(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def read(fd: FragmentFD, ctx: Info) -> None:
        original(fd, ctx)
        if isinstance(fd.ydl, ItemYDL) and resume.of_another_length(fd, ctx):
            ctx["ytdl_corrupt"] = True  # yt-dlp's word for "start over"

    return read


def _opener(original: Callable[..., tuple[Any, str]]) -> Callable[..., tuple[Any, str]]:
    def sanitize_open(fd: FileDownloader, filename: str, open_mode: str) -> tuple[Any, str]:
        stream, name = original(fd, filename, open_mode)
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl._item.opened(stream)
        return stream, name

    return sanitize_open


def _retry_reporter(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def report(fd: FileDownloader, err: Exception, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl._item.failing = err
            if isinstance(err, HTTPError):
                err.close()  # nobody reads it any more, and a circle keeps it open
        original(fd, err, *args, **kwargs)

    return report


def _progress_writer(original: Callable[..., None]) -> Callable[..., None]:
    """Spare the words for a terminal that is not there: 0.13 ms of CPU for each hook."""

    @functools.wraps(original)
    def report(fd: FileDownloader, status: Info) -> None:
        if not isinstance(fd.ydl, ItemYDL) or status["status"] != "downloading":
            original(fd, status)

    return report


def _block_sizer(original: Callable[[float, int], int]) -> object:
    def size(elapsed: float, last: int) -> int:
        return original(elapsed, last) if CURRENT.get() is None else best_block_size(elapsed, last)

    return staticmethod(size)


def _plugin_loader(original: Callable[[], None]) -> Callable[[], None]:
    def load() -> None:
        if CURRENT.get() is None:
            original()

    return load


_REPAIRS: Final = (
    hooks.Patch(FragmentFD, "_prepare_frag_download", _preparer),
    hooks.Patch(FragmentFD, "_read_ytdl_file", _state_reader),
    hooks.Patch(FragmentFD, "_write_ytdl_file", _state_writer),
    hooks.Patch(FragmentFD, "_append_fragment", _appender),
    hooks.Patch(FileDownloader, "report_retry", _retry_reporter),
    hooks.Patch(FileDownloader, "report_progress", _progress_writer),
    hooks.Patch(FileDownloader, "best_block_size", _block_sizer),
    hooks.Patch(FileDownloader, "sanitize_open", _opener),
    hooks.Patch(sys.modules[yt_dlp.YoutubeDL.__module__], "load_all_plugins", _plugin_loader),
)
