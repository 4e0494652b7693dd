"""The disk's word on the programs and files that a client's options name.

`core.paths` has checked the words; what lies there is looked at right before a
run, because only then it matters. Synchronous: call in a thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.engine.errors import ItemFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

FFMPEG: Final = "ffmpeg_location"
COOKIES: Final = "cookiefile"

_ROOT: Final = 0


def vet(params: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parameters that may be used, and warnings about those that may not.

    An unfit ffmpeg is left out: the engine has one of its own, and a client that
    names one that is gone still gets its file.

    Raises:
        ItemFailed: the cookie file is not there (yt-dlp would create it).
    """
    fit, warnings = dict(params), []
    if cookies := fit.get(COOKIES):
        _vet_cookies(Path(cookies))
    if location := fit.get(FFMPEG):
        fault = _fault_of_program(_program(Path(location)))
        if fault is not None:
            del fit[FFMPEG]
            warnings.append(f"ffmpeg_location is not used: {fault}")
    return fit, tuple(warnings)


def _vet_cookies(file: Path) -> None:
    try:
        fine = stat.S_ISREG(file.stat().st_mode) and os.access(file, os.R_OK)
    except OSError:
        fine = False
    if not fine:
        raise ItemFailed("cookies_unreadable", f"cookies: no readable file: {file}")


def _program(location: Path) -> Path:
    """Return the program that yt-dlp would run: it takes a folder, too."""
    if not location.is_dir():
        return location
    return next((found for found in sorted(location.glob("ffmpeg*")) if found.is_file()), location)


def _fault_of_program(program: Path) -> str | None:
    """Say why a program must not be run in the user's name; None when it may.

    Whoever can replace it can run anything: it, and the folder it lies in, belong
    to root or the user, and nobody else may write there.
    """
    if not program.name.lower().startswith("ffmpeg"):
        return f"{program} is not called ffmpeg"
    try:
        real = program.resolve(strict=True)
        status, folder = real.stat(), real.parent.stat()
    except OSError as error:
        return f"{program}: {error.strerror}"
    if not stat.S_ISREG(status.st_mode) or not os.access(real, os.X_OK):
        return f"{program} is no program"
    if os.name == "posix" and not (_trusted(status) and _trusted(folder)):
        return f"{program} can be changed by others"
    return None


def _trusted(status: os.stat_result) -> bool:
    return status.st_uid in (_ROOT, os.getuid()) and not status.st_mode & stat.S_IWOTH
