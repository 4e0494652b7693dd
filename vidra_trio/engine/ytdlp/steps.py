"""Post-processing: which steps may fail, and what is done about one that does, or would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from yt_dlp.utils import prepend_extension as with_prefix

if TYPE_CHECKING:
    from yt_dlp import YoutubeDL

    from vidra_trio.engine.ytdlp.item import Info

ESSENTIAL: Final = frozenset(
    {"Merger", "ExtractAudio", "VideoRemuxer", "VideoConvertor", "CopyStream", "MoveFiles"}
)
"""Post-processors that make the file what was asked for; the others decorate it."""


def spare_ffprobe(ydl: YoutubeDL, name: str, pp: Any, infodict: Info) -> None:  # noqa: ANN401
    """Without ffprobe the info.json would take all tags of a Matroska file down with it."""
    wants = name == "Metadata" and pp._add_infojson and infodict.get("ext") in ("mkv", "mka")
    if wants and not pp.probe_available:
        pp._add_infojson = False
        ydl.report_warning("the info.json is not embedded: that needs ffprobe")


def sweep(ydl: YoutubeDL, name: str, pp: Any, infodict: Info) -> None:  # noqa: ANN401
    """Remove what a failed post-processor left half done."""
    if path := infodict.get("filepath"):
        Path(with_prefix(path, "temp")).unlink(missing_ok=True)
    if name == "EmbedThumbnail" and not pp._already_have_thumbnail:
        covers = [one.pop("filepath", None) for one in infodict.get("thumbnails") or []]
        there = [cover for cover in covers if cover and Path(cover).exists()]
        ydl._delete_downloaded_files(*there, info=infodict)
