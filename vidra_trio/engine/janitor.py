"""What dead jobs left, removed when a server starts. Synchronous: call in a thread.

A job that was killed, with its server, cannot clean up. Its folder says whose it is
(see `places`), because two servers may share a destination:

1. A folder is ours when it has the id of our data directory, or none: a server marks
   its folders before it puts anything into them.
2. All others belong to a server that may be running, somewhere. They are not touched,
   however old: what stays costs disk, what goes could be somebody's download.

Whatever goes wrong is left for the next time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from vidra_trio.engine import workdir
from vidra_trio.engine.places import OWNER_NEW, entries_of, is_folder, job_id_of, owner_of

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path


def sweep(
    folders: Iterable[Path],
    keep: Container[str],
    owner: str | None,
) -> tuple[str, ...]:
    """Remove the folders of jobs directly below `folders` that are ours and not in `keep`.

    `keep` is asked right before each removal: jobs may be added to it meanwhile.
    Returns what is gone; raises nothing.
    """
    return tuple(
        str(found)
        for folder in folders
        for found in _job_folders(folder)
        if job_id_of(found.name) not in keep and _remove(found, owner)
    )


def _job_folders(folder: Path) -> list[Path]:
    """Return the real folders in `folder` that are called like a job's."""
    named = (path for path in entries_of(folder) if job_id_of(path.name) is not None)
    return sorted(path for path in named if is_folder(path))


def _remove(folder: Path, owner: str | None) -> bool:
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
    return named in (None, owner) and not workdir.remove(folder)


def _remove_empty(folder: Path) -> bool:
    """Remove a folder in which nothing is; unless something appears in that very moment."""
    with contextlib.suppress(OSError):
        (folder / OWNER_NEW).unlink(missing_ok=True)
        folder.rmdir()
        return True
    return False
