"""What the origin serves as real media, and an ffmpeg with bad manners."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from pathlib import Path

_PICTURE: Final = "testsrc2=s=1280x720:r=25:d=12"
_SOUND: Final = "sine=frequency=330:d=12"
_MPEG4: Final = ("-c:v", "mpeg4", "-q:v", "8")

_STUBBORN: Final = """\
#!/bin/sh
# Answers questions as ffmpeg does; asked to work it sleeps, and ignores polite signals.
case " $* " in *" -i "*) trap '' TERM INT HUP; exec sleep 600;; esac
exec {program} "$@"
"""


def make_media(folder: Path) -> None:
    """Make `clip.mp4`, and its two halves: 12 seconds that take longer than that to encode."""
    _ffmpeg("-f", "lavfi", "-i", _PICTURE, *_MPEG4, str(folder / "picture.mp4"))
    _ffmpeg("-f", "lavfi", "-i", _SOUND, "-c:a", "aac", str(folder / "sound.m4a"))
    _ffmpeg("-i", str(folder / "picture.mp4"), "-i", str(folder / "sound.m4a"),
            "-c", "copy", str(folder / "clip.mp4"))  # fmt: skip


def make_stubborn_ffmpeg(folder: Path) -> Path:
    """Make a program that yt-dlp takes for an ffmpeg; only SIGKILL ends it."""
    program = folder / "ffmpeg-stubborn"
    program.write_text(_STUBBORN.format(program=find_ffmpeg().path))
    program.chmod(0o700)
    return program


def _ffmpeg(*arguments: str) -> None:
    head = (find_ffmpeg().path, "-hide_banner", "-loglevel", "error", "-nostdin", "-y")
    subprocess.run([*head, *arguments], check=True)  # noqa: S603  # the project's own
