"""The programs that the engine needs beside itself: yt-dlp's version, an ffmpeg.

1. ffmpeg is the one on PATH, else the one in the imageio-ffmpeg wheel. yt-dlp
   takes a program's path whatever its name, as long as `ffmpeg` is in it
   (measured with the wheel's `ffmpeg-linux-x86_64-v7.0.2`): no link, no copy.
2. The wheel has no ffprobe. What needs it is skipped with a warning.
3. Asking for yt-dlp's version imports nothing of it.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import imageio_ffmpeg

from vidra_trio.engine.errors import EngineTooOld

FLOOR: Final = (2026, 7, 4)
"""The last advisory that reaches us is fixed here (CVE-2026-55404)."""

_ASK_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """An ffmpeg. `source` is `path`, `wheel`, or `none` (then `path` is empty)."""

    path: str
    version: str
    source: str
    has_ffprobe: bool

    @property
    def location(self) -> str | None:
        """What yt-dlp is told: None means that it looks on PATH itself."""
        return self.path if self.source == "wheel" else None


def find_ffmpeg() -> Ffmpeg:
    """Find the ffmpeg to use, ask it for its version. Blocks for some 50 ms; never raises."""
    on_path = shutil.which("ffmpeg")
    if on_path and (version := _version_of(on_path)):
        return Ffmpeg(on_path, version, "path", shutil.which("ffprobe") is not None)
    try:
        bundled = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # the wheel of this platform brings no binary
        return Ffmpeg("", "", "none", has_ffprobe=False)
    return Ffmpeg(bundled, _version_of(bundled) or "unknown", "wheel", has_ffprobe(bundled))


def has_ffprobe(location: str) -> bool:
    """Return whether yt-dlp finds an ffprobe when told to use this program or folder."""
    path = Path(location)
    folder = path if path.is_dir() else path.parent
    names = {"ffprobe", path.name.replace("ffmpeg", "ffprobe")}
    return any(shutil.which(name, path=str(folder)) for name in names)


def engine_version() -> str:
    """Return the version of the installed yt-dlp; empty when there is none."""
    try:
        return importlib.metadata.version("yt-dlp")
    except importlib.metadata.PackageNotFoundError:
        return ""


def assert_engine_version() -> None:
    """Check the floor.

    Raises:
        EngineTooOld: yt-dlp is missing or older than `FLOOR`.
    """
    found = engine_version()
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if numbers < FLOOR:
        raise EngineTooOld(found or "none", ".".join(map(str, FLOOR)))


def _version_of(program: str) -> str | None:
    try:
        answer = subprocess.run(  # noqa: S603  # a program found on PATH or in our own wheel
            [program, "-version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("VIDRA_")},
            timeout=_ASK_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(rb"ffmpeg version (\S+)", answer.stdout)
    return match[1].decode("ascii", "replace") if match else None
