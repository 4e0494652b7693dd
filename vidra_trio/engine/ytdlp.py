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
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.extractor.common import UnsupportedURLIE
from yt_dlp.globals import plugin_dirs
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.networking.impersonate import ImpersonateTarget
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import DownloadCancelled, PlaylistEntries, ReExtractInfo, sanitize_path
from yt_dlp.utils import prepend_extension as with_prefix
from yt_dlp.version import __version__

from vidra_trio.core.report import Failed, Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine import resume
from vidra_trio.engine.control import Interrupted
from vidra_trio.engine.errors import ItemFailed, cause_of, plain
from vidra_trio.engine.names import confine
from vidra_trio.engine.params import SMALLEST_BLOCK, build, secrets_of
from vidra_trio.engine.pipe import Ended, Produced
from vidra_trio.engine.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vidra_trio.engine.control import Control
    from vidra_trio.engine.pipe import Start
    from vidra_trio.engine.reporting import Emit

    Info = dict[str, Any]

ESSENTIAL: Final = frozenset(
    {"Merger", "ExtractAudio", "VideoRemuxer", "VideoConvertor", "CopyStream", "MoveFiles"}
)
"""Post-processors that make the file what was asked for; the others decorate it."""

RANGE_NOT_SATISFIABLE: Final = 416
MAX_HOPS: Final = 10
MAX_EXTRACTIONS: Final = 3
BLOCKS_PER_SECOND: Final = 20
LARGEST_BLOCK: Final = 1 << 17

_SHAKEN: Final = (MemoryError, RecursionError)  # with SystemExit and its kin: replace the process


class AlreadyThere(Exception):  # a good ending
    """The file is at the destination from before and is to stay."""

    def __init__(self, relative: str) -> None:
        super().__init__(relative)
        self.relative = relative


def install() -> None:
    """Put our repairs (resume.py has the reasons) into this process's yt-dlp; twice is once."""
    FragmentFD._write_ytdl_file = resume.write_state
    FragmentFD._append_fragment = resume.append_fragment
    FileDownloader.best_block_size = staticmethod(best_block_size)
    plugin_dirs.value = []


def version() -> str:
    """Return yt-dlp's version."""
    return str(__version__)


def best_block_size(elapsed: float, size: int) -> int:
    """Return how much to read next: what 1/20 s brings, at most twice the last block.

    `read` returns when the block is full. yt-dlp's own sizing grows blocks to
    4 MB (2 hooks a second at 4 MB/s); a fixed 128 KiB is as fast as that on a fast
    line but gives one sign of life in 13 s at 10 KB/s. Doubling at most: what had
    piled up in the socket says nothing about the line.
    """
    brings = size / max(elapsed, 1e-6) / BLOCKS_PER_SECOND
    return int(max(SMALLEST_BLOCK, min(LARGEST_BLOCK, 2 * size, brings)))


def prewarm(wanted: Callable[[], bool] = lambda: False) -> None:
    """Pay for what a first extraction would (0.35 s of patterns); ends early when `wanted`."""
    for extractor in gen_extractor_classes():
        if wanted():
            return
        extractor.suitable("warm:up")
    with yt_dlp.YoutubeDL({"quiet": True, "cachedir": False}) as ydl:
        ydl.get_info_extractor("Generic")
        _ = ydl._request_director


def run_item(order: Start, emit: Emit, control: Control) -> Ended:
    """Run one item to its end; blocks, raises nothing.

    Reports go to `emit` from this and other threads until this returns, none
    after. A stop asked through `control` ends as `Stopped`, whatever it provoked.
    """
    reporter = Reporter(emit, Path(order.work), secrets_of(order.params))
    try:
        return Ended(_Item(order, reporter, control).run())
    except Interrupted:
        return Ended(Stopped())
    except BaseException as error:  # noqa: BLE001  # the adapter's boundary
        sound = isinstance(error, Exception) and not isinstance(error, _SHAKEN)
        if control.asked:
            return Ended(Stopped(), reusable=sound)
        return Ended(_failed(error, reporter), reusable=sound)
    finally:
        reporter.close()


def _failed(error: BaseException, reporter: Reporter) -> Failed:
    cause = cause_of(error)
    message = reporter.clean(cause.message)
    if not reporter.errors:
        reporter.line(Level.ERROR, message)
    return Failed(cause.code, message, cause.retryable)


class _Item:
    """One execution of one order."""

    def __init__(self, order: Start, reporter: Reporter, control: Control) -> None:
        self.order = order
        self.reporter = reporter
        self.control = control
        self.out = resume.out_of(Path(order.work))
        self.tmp = resume.tmp_of(Path(order.work))
        self.ledger = resume.Ledger(Path(order.work))
        self.skipped: str | None = None
        self.silent = False  # what is transferred is a side file: no ticks

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
        except DownloadCancelled as reason:  # break_on_existing and its kin
            self.skipped, info = str(reason), None
        finally:
            FFmpegPostProcessor._ffmpeg_location.reset(location)
        return self._produced(info)

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
        self.control.check()
        found: Info | None = ydl.extract_info(
            url,
            ie_key=ie_key,
            download=False,
            process=False,
            extra_info={"original_url": self.order.url},
        )
        if found is None and self.skipped is None:
            raise ItemFailed("nothing_downloaded", "the extractor found nothing")
        return found

    def _produced(self, info: Info | None) -> Produced:
        downloads = (info or {}).get("requested_downloads") or []
        paths = [Path(one["filepath"]) for one in downloads if one.get("filepath")]
        media = [path for path in paths if path.is_file() and path.is_relative_to(self.out)]
        if media:
            return Produced(main=str(media[0].relative_to(self.out)))
        if self.skipped is None:
            raise ItemFailed("nothing_downloaded", "yt-dlp ended without a file")
        self.reporter.line(Level.INFO, self.skipped)
        return Produced(skipped=self.reporter.clean(self.skipped))

    # What yt-dlp calls. The order in `on_progress` matters: a file is vouched for
    # before anyone hears of it, and a file that is whole is not interrupted
    # between its last byte and its final name.

    def on_progress(self, hook: Info) -> None:
        if hook["status"] == "finished" and hook.get("filename"):
            self.ledger.record(Path(hook["filename"]))
        if not self.silent:
            self.reporter.progress(hook)
        if hook["status"] != "finished" and hook.get("downloaded_bytes") != hook.get("total_bytes"):
            self.control.check()

    def on_postprocessing(self, hook: Info) -> None:
        finished = hook["status"] == "finished"
        if not finished:
            self.control.check()
        self.reporter.postprocessing(hook["postprocessor"], finished=finished)

    # yt-dlp's logger.

    def debug(self, message: str) -> None:
        self.control.check()
        level = Level.DEBUG if message.startswith("[debug] ") else Level.INFO
        self.reporter.line(level, message)

    def info(self, message: str) -> None:
        self.debug(message)

    def warning(self, message: str) -> None:
        self.control.check()
        self.reporter.line(Level.WARNING, message)

    def error(self, message: str) -> None:
        if not message.startswith("Deprecated Feature:"):  # comes as a warning, too
            self.reporter.line(Level.ERROR, message)


class ItemYDL(yt_dlp.YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
    """yt-dlp's driver, kept inside one item's directory and one item's control."""

    def __init__(self, params: Info, item: _Item) -> None:
        self._item = item
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
        self._item.control.check()
        try:
            response = super().urlopen(req)
        except HTTPError as error:
            if error.status == RANGE_NOT_SATISFIABLE and isinstance(req, Request):
                _forget_range(req)
            raise
        self._item.control.check()
        return response

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
        try:
            return super().dl(name, info, subtitle, test)
        finally:
            self._item.silent = False

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
            self.report_warning(f"{name} was skipped: {plain(str(error) or type(error).__name__)}")
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
