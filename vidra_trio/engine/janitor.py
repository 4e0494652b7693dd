"""What dead jobs left, removed when a server starts. Synchronous: call in a thread.

A job that was killed, with its server, cannot clean up. Its folder says whose it is
(see `places`), because two servers may share a destination:

1. A folder is ours when it names our data directory, under whatever spelling, or
   names none: a server marks its folders before it puts anything into them.
2. One that names a data directory that is gone, and was not touched for a day, is
   nobody's any more.
3. All others belong to a server that may be running. They are not touched.

Whatever goes wrong is left for the next time.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vidra_trio.engine import workdir
from vidra_trio.engine.places import OWNER_NEW, entries_of, is_folder, job_id_of, owner_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

ABANDONED_AFTER: Final = 24 * 3600.0
"""Seconds without a change after which a folder whose data directory is gone is nobody's:
that may be on a disk which is not plugged in right now."""


def sweep(
    folders: Iterable[Path],
    keep: Container[str],
    owner: Path | None,
    *,
    now: float | None = None,
) -> tuple[str, ...]:
    """Remove the folders of jobs directly below `folders` that are ours and not in `keep`.

    `keep` is asked right before each removal: jobs may be added to it meanwhile.
    Returns what is gone; raises nothing.
    """
    moment = time.time() if now is None else now
    return tuple(
        str(found)
        for folder in folders
        for found in _job_folders(folder)
        if job_id_of(found.name) not in keep and _remove(found, owner, moment)
    )


def _job_folders(folder: Path) -> list[Path]:
    """Return the real folders in `folder` that are called like a job's."""
    named = (path for path in entries_of(folder) if job_id_of(path.name) is not None)
    return sorted(path for path in named if is_folder(path))


def _remove(folder: Path, owner: Path | None, now: float) -> bool:
    """Remove a job's folder if it is ours; return whether it is gone by that."""
    try:
        # What is in it is looked at before the owner: a server that is just making
        # the folder has an owner in it before anything else.
        empty = {path.name for path in entries_of(folder)} <= {OWNER_NEW}
        named = owner_of(folder)
    except OSError:
        return False
    if named is None and empty:
        return _remove_empty(folder)
    ours = named is None or (owner is not None and _same(named, owner))
    if not ours and not _is_nobodys(named or "", folder, now):
        return False
    return not workdir.remove(folder)


def _remove_empty(folder: Path) -> bool:
    """Remove a folder in which nothing is; unless something appears in that very moment."""
    with contextlib.suppress(OSError):
        (folder / OWNER_NEW).unlink(missing_ok=True)
        folder.rmdir()
        return True
    return False


def _same(named: str, owner: Path) -> bool:
    if not os.path.isabs(named):  # noqa: PTH117
        return False
    try:
        return Path(named).samefile(owner)
    except (OSError, ValueError):
        return os.path.realpath(owner) == named


def _is_nobodys(named: str, folder: Path, now: float) -> bool:
    try:
        if os.path.isabs(named) and stat.S_ISDIR(os.stat(named).st_mode):  # noqa: PTH116,PTH117
            return False
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    except OSError:  # perhaps it is there, perhaps not
        return False
    return _last_touched(folder) + ABANDONED_AFTER <= now


def _last_touched(top: Path) -> float:
    """Return when anything below `top` changed last; never, as far as it cannot be read."""
    newest, folders = 0.0, [str(top)]
    try:
        newest = _touched(os.lstat(top))
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    newest = max(newest, _touched(entry.stat(follow_symlinks=False)))
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    except OSError:
        return float("inf")
    return newest


def _touched(status: os.stat_result) -> float:
    # A download gets the time that the site says. When its entry changed, nobody can set;
    # Windows has the creation there.
    return status.st_mtime if os.name == "nt" else status.st_ctime
