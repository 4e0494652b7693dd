"""The kinds of downloads that tests kill: real media, slow enough to be met in the middle.

    kind = KINDS["hls8"]
    url = kind.url(origin)
    ...
    assert digest(folder / kind.file) == digest_of_an_undisturbed_run

What comes out of ffmpeg (a merge, a repair of the container) is compared with the
file of an undisturbed run: ffmpeg's copies of the same streams are the same bytes.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.origin import Origin, media_root
from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SIZE = 1_000_000
CHUNK = 150_000
RATE = 1_000_000
"""Bytes a second: an undisturbed run takes about one."""


@dataclass(frozen=True)
class Kind:
    """One kind of download."""

    name: str
    path: str
    file: str
    params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: int = RATE

    def url(self, origin: Origin) -> str:
        """Return where it is."""
        if self.path.startswith("/media"):
            _made()
        return origin.at(self.path, rate=self.rate)

    def traffic(self, origin: Origin) -> int:
        """Return how many bytes of it the origin has sent so far."""
        folder = self.path.rpartition("/")[0] if self.path.startswith("/media") else self.path
        return sum(one.sent for one in origin.seen(folder))


def _hls(connections: int) -> Kind:
    name = f"hls{connections}"
    return Kind(
        name,
        f"/media/kinds/{name}/{name}.m3u8",
        f"{name}.mp4",
        {"concurrent_fragment_downloads": connections},
        {"concurrent_fragments": connections},
        RATE // connections,
    )


KINDS = {
    kind.name: kind
    for kind in (
        Kind("direct", f"/file/{SIZE}/direct.mp4", "direct.mp4"),
        Kind(
            "chunked",
            f"/file/{SIZE}/chunked.mp4",
            "chunked.mp4",
            {"http_chunk_size": CHUNK},
        ),
        _hls(1),
        _hls(8),
        Kind(
            "dash",
            "/media/kinds/dash/dash.mpd",
            "dash.mp4",
            {"merge_output_format": "mp4"},
            {"merge_output_format": "mp4"},
        ),
    )
}


def tiny(origin: Origin, name: str) -> str:
    """Return the URL of `hls.m3u8` or `dash.mpd` with a second and a half of picture and sound."""
    return origin.at(f"/media/{_made()}/tiny/{name}")


@functools.cache
def _made() -> str:
    """Make 10 s of picture and sound, in pieces of half a second (about 700 KB)."""
    root = media_root() / "kinds"
    clip = str(root / "clip.mp4")
    for name in ("hls1", "hls8", "dash", "tiny"):
        (root / name).mkdir(parents=True)
    picture, sound = "testsrc2=s=320x180:r=24:d=10", "sine=frequency=330:d=10"
    _ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "mpeg4",
            "-b:v", "400k", "-g", "12", "-c:a", "aac", "-b:a", "64k", clip)  # fmt: skip
    _hls_of(root / "hls1" / "hls1.m3u8", "-i", clip)
    _hls_of(root / "hls8" / "hls8.m3u8", "-i", clip)
    _hls_of(root / "tiny" / "hls.m3u8", "-t", "1.5", "-i", clip)
    _dash_of(root / "dash" / "dash.mpd", RATE, "-i", clip)
    _dash_of(root / "tiny" / "dash.mpd", 0, "-t", "1.5", "-i", clip)
    return root.name


def _hls_of(playlist: Path, *source: str) -> None:
    _ffmpeg(*source, "-c", "copy", "-f", "hls", "-hls_time", "0.5",
            "-hls_playlist_type", "vod", str(playlist))  # fmt: skip


def _dash_of(manifest: Path, rate: int, *source: str) -> None:
    """Make a manifest whose segments come at `rate`: they do not inherit its query."""
    _ffmpeg(*source, "-c", "copy", "-f", "dash", "-seg_duration", "0.5",
            "-adaptation_sets", "id=0,streams=v id=1,streams=a", str(manifest))  # fmt: skip
    manifest.write_text(manifest.read_text().replace('.m4s"', f'.m4s?rate={rate}"'))


def _ffmpeg(*arguments: str) -> None:
    head = (find_ffmpeg().path, "-hide_banner", "-loglevel", "error", "-nostdin", "-y")
    subprocess.run([*head, *arguments], check=True)
