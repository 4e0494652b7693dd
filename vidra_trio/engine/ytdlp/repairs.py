"""Our repairs in yt-dlp; each leaves alone what is none of ours."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, Final

import yt_dlp
from yt_dlp.downloader.common import FileDownloader
from yt_dlp.downloader.fragment import FragmentFD
from yt_dlp.networking.exceptions import HTTPError

from vidra_trio.engine import hooks
from vidra_trio.engine.control import CURRENT
from vidra_trio.engine.params import SMALLEST_BLOCK
from vidra_trio.engine.ytdlp import fragments
from vidra_trio.engine.ytdlp.driver import ItemYDL

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from vidra_trio.engine.ytdlp.item import Info

BLOCKS_PER_SECOND: Final = 20
LARGEST_BLOCK: Final = 1 << 19


def installed(*, own_groups: bool) -> AbstractContextManager[None]:
    """Keep our repairs (resume.py has the reasons) and hooks in this process's yt-dlp meanwhile.

    They do nothing to a yt-dlp that works for somebody else in the same process.
    """
    return hooks.installed(_REPAIRS, own_groups=own_groups)


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


def _opener(original: Callable[..., tuple[Any, str]]) -> Callable[..., tuple[Any, str]]:
    def sanitize_open(fd: FileDownloader, filename: str, open_mode: str) -> tuple[Any, str]:
        stream, name = original(fd, filename, open_mode)
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl.item.opened(stream)
        return stream, name

    return sanitize_open


def _retry_reporter(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def report(fd: FileDownloader, err: Exception, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl.item.failing = err
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
    hooks.Patch(FragmentFD, "_prepare_frag_download", fragments.preparer),
    hooks.Patch(FragmentFD, "_read_ytdl_file", fragments.state_reader),
    hooks.Patch(FragmentFD, "_write_ytdl_file", fragments.state_writer),
    hooks.Patch(FragmentFD, "_append_fragment", fragments.appender),
    hooks.Patch(FileDownloader, "report_retry", _retry_reporter),
    hooks.Patch(FileDownloader, "report_progress", _progress_writer),
    hooks.Patch(FileDownloader, "best_block_size", _block_sizer),
    hooks.Patch(FileDownloader, "sanitize_open", _opener),
    hooks.Patch(sys.modules[yt_dlp.YoutubeDL.__module__], "load_all_plugins", _plugin_loader),
)
