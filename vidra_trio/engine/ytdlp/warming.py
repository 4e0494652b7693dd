"""Before the first item: which yt-dlp this is, and what can be paid for in advance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yt_dlp
from yt_dlp.extractor import gen_extractor_classes
from yt_dlp.version import __version__

from vidra_trio.engine.control import CURRENT, Control
from vidra_trio.engine.ytdlp.repairs import installed

if TYPE_CHECKING:
    from collections.abc import Callable


def version() -> str:
    """Return yt-dlp's version."""
    return str(__version__)


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
