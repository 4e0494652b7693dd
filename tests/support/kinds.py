"""The kinds of downloads that tests kill: real media, slow enough to be met in the middle.

    kind = kinds()["hls8"]
    url = kind.url(origin)
    ...
    assert digest(folder / kind.file) == digest_of_an_undisturbed_run

What comes out of ffmpeg (a merge, a repair of the container) is compared with the
file of an undisturbed run: its copies of the same streams are the same bytes.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.support.origin import Origin, media_root
from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE: Final = 1_000_000
CHUNK: Final = 150_000
RATE: Final = 1_000_000
"""Bytes a second: an undisturbed run takes about one."""

SLOW: Final = 8
"""Times slower, where several runs share a machine."""

NAMES: Final = ("direct", "chunked", "hls1", "hls8", "dash")
THROUGH_FFMPEG: Final = ("hls1", "hls8", "dash")


@dataclass(frozen=True)
class Kind:
    """One kind of download: where it is, and how an engine and a server are asked for it."""

    name: str
    path: str
    rate: int
    params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """What is published."""
        return f"{self.name}.mp4"

    def url(self, origin: Origin) -> str:
        """Return where it is."""
        if self.path.startswith("/media"):
            _make()
        return origin.at(self.path, rate=self.rate)

    def traffic(self, origin: Origin) -> int:
        """Return how many bytes of it the origin has sent so far."""
        return origin.traffic(self.path.rpartition("/")[0] + "/").sent


def kinds(slower: int = 1) -> dict[str, Kind]:
    """Return all kinds, by name; `slower` is 1 or `SLOW`."""
    rate = RATE // slower
    merged = {"merge_output_format": "mp4"}
    found = (
        Kind("direct", f"/file/{SIZE}/direct.mp4", rate),
        Kind("chunked", f"/file/{SIZE + 1}/chunked.mp4", rate, {"http_chunk_size": CHUNK}),
        _hls(1, rate),
        _hls(8, rate),
        Kind("dash", f"/media/kinds/dash{slower}/dash.mpd", rate, merged, merged),
    )
    return {kind.name: kind for kind in found}


def _hls(connections: int, rate: int) -> Kind:
    return Kind(
        f"hls{connections}",
        f"/media/kinds/hls{connections}/hls{connections}.m3u8",
        rate // connections,
        {"concurrent_fragment_downloads": connections},
        {"concurrent_fragments": connections},
    )


def tiny(origin: Origin, name: str) -> str:
    """Return the URL of `hls.m3u8` or `dash.mpd` with a second and a half of picture and sound."""
    _make()
    return origin.media(f"kinds/tiny/{name}")


@functools.cache
def _make() -> None:
    """Make 10 s of picture and sound, in pieces of half a second (about 700 KB)."""
    root = media_root() / "kinds"
    for name in ("hls1", "hls8", "dash1", f"dash{SLOW}", "tiny"):
        (root / name).mkdir(parents=True)
    clip = str(root / "clip.mp4")
    picture, sound = "testsrc2=s=320x180:r=24:d=10", "sine=frequency=330:d=10"
    _ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "mpeg4",
            "-b:v", "400k", "-g", "12", "-c:a", "aac", "-b:a", "64k", clip)  # fmt: skip
    _make_hls(root / "hls1" / "hls1.m3u8", "-i", clip)
    _make_hls(root / "hls8" / "hls8.m3u8", "-i", clip)
    _make_hls(root / "tiny" / "hls.m3u8", "-t", "1.5", "-i", clip)
    _make_dash(root / "dash1" / "dash.mpd", RATE, "-i", clip)
    _make_dash(root / f"dash{SLOW}" / "dash.mpd", RATE // SLOW, "-i", clip)
    _make_dash(root / "tiny" / "dash.mpd", 0, "-t", "1.5", "-i", clip)


def _make_hls(playlist: Path, *source: str) -> None:
    _ffmpeg(*source, "-c", "copy", "-f", "hls", "-hls_time", "0.5",
            "-hls_playlist_type", "vod", str(playlist))  # fmt: skip


def _make_dash(manifest: Path, rate: int, *source: str) -> None:
    """Make a manifest whose segments come at `rate`: they do not inherit its query."""
    _ffmpeg(*source, "-c", "copy", "-f", "dash", "-seg_duration", "0.5",
            "-adaptation_sets", "id=0,streams=v id=1,streams=a", str(manifest))  # fmt: skip
    manifest.write_text(manifest.read_text().replace('.m4s"', f'.m4s?rate={rate}"'))


def _ffmpeg(*arguments: str) -> None:
    head = (find_ffmpeg().path, "-hide_banner", "-loglevel", "error", "-nostdin", "-y")
    subprocess.run([*head, *arguments], check=True)
