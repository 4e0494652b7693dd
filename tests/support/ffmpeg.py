"""Programs called ffmpeg that take their time, for what has to be stopped in the middle.

Each is a script that ends in the project's real ffmpeg. While the file `mended` does not
exist it makes a show of it first; `begun` appears once it was asked to encode something.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from pathlib import Path

_HEAD = """#!/bin/sh
case "$*" in *-bsfs*) exec {real} "$@" ;; esac
: > {begun}
"""

# Every input is read at twice the speed that it plays at.
_SLOW = """
[ -e {mended} ] && exec {real} "$@"
count=$#
for word in "$@"; do
    [ "$word" = -i ] && set -- "$@" -readrate 2
    set -- "$@" "$word"
done
shift $count
exec {real} "$@"
"""

# What is ignored here, children ignore as well.
_DEAF = """
trap '' TERM INT HUP
for output in "$@"; do :; done
while [ ! -e {mended} ]; do
    head -c 4096 /dev/zero >> "${{output#file:}}"
    sleep 0.05
done
exec {real} "$@"
"""


class FakeFfmpeg:
    """A program below `folder`; `path` goes into `ffmpeg_location`."""

    def __init__(self, folder: Path, body: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path = folder / "ffmpeg"
        self._mended, self._begun = folder / "mended", folder / "begun"
        names = {"real": _real(), "mended": self._mended, "begun": self._begun}
        self.path.write_text((_HEAD + body).format(**names))
        self.path.chmod(0o755)

    @property
    def begun(self) -> bool:
        """Whether it was asked to encode something."""
        return self._begun.exists()

    def mend(self) -> None:
        """Let it be the real one, from now on."""
        self._mended.touch()


def slow_ffmpeg(folder: Path) -> FakeFfmpeg:
    """Return the real one, with half a second of work for every second of media."""
    return FakeFfmpeg(folder, _SLOW)


def deaf_ffmpeg(folder: Path) -> FakeFfmpeg:
    """Return one that writes for ever, and does not listen to SIGTERM."""
    return FakeFfmpeg(folder, _DEAF)


@functools.cache
def _real() -> str:
    return find_ffmpeg().path
