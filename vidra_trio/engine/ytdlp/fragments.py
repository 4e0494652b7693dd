"""The state of a fragmented download, written and read our way; resume.py has the reasons.

Each of these makes the stand-in for a method of yt-dlp's, and leaves alone what is none of ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vidra_trio.engine import resume
from vidra_trio.engine.validators import Memory
from vidra_trio.engine.ytdlp.driver import ItemYDL

if TYPE_CHECKING:
    from collections.abc import Callable

    from yt_dlp.downloader.fragment import FragmentFD

    from vidra_trio.engine.ytdlp.item import Info


def state_writer(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def write(fd: FragmentFD, ctx: Info) -> None:
        if isinstance(fd.ydl, ItemYDL):
            resume.write_state(fd, ctx)
        else:
            original(fd, ctx)

    return write


def preparer(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def prepare(fd: FragmentFD, ctx: Info) -> None:
        if isinstance(fd.ydl, ItemYDL) and resume.make_way_for_fragments(fd, ctx):
            # What they leave is nothing that a direct download of that name could vouch for.
            Memory(Path(fd.ydl.item.order.work)).remember(ctx["filename"], None)
        original(fd, ctx)

    return prepare


def appender(original: Callable[[FragmentFD, Info, bytes], None]) -> Callable[..., None]:
    def append(fd: FragmentFD, ctx: Info, content: bytes) -> None:
        if isinstance(fd.ydl, ItemYDL):
            fd.ydl.item.control.check()  # a fragment that a stop cut off may pass for a whole one
            resume.append_fragment(fd, ctx, content)
        else:
            original(fd, ctx, content)

    return append


def state_reader(original: Callable[[FragmentFD, Info], None]) -> Callable[..., None]:
    def read(fd: FragmentFD, ctx: Info) -> None:
        original(fd, ctx)
        if isinstance(fd.ydl, ItemYDL) and resume.of_another_length(fd, ctx):
            ctx["ytdl_corrupt"] = True  # yt-dlp's word for "start over"

    return read
