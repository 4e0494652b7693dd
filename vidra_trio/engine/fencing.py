"""Taking its place from a run that cannot be ended.

A thread that hangs in the resolver holds open files, and paths that it will use when
it wakes up, hours later perhaps. So:

1. Its place gets another name (`fence`): by path it finds nothing any more. What it
   makes anew under the old name has no `prepared` in it, and no run ever gets that name
   again (`apart`, see `workdir.prepare`): not the next one, and not one that begins
   after all of the job was removed.
2. What a later run may continue from is copied (`rescue`): what the thread holds open
   are other files then. The states are copied before the parts they vouch for, so a
   part that still grows is longer than its state says, never shorter.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
from typing import TYPE_CHECKING, BinaryIO, Final

from vidra_trio.engine import resume
from vidra_trio.engine.places import (
    PREPARED,
    aside,
    current,
    files_below,
    folder_of,
    item_of,
    tmp_of,
)
from vidra_trio.engine.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FENCED: Final = "fenced"
RESCUE: Final = "rescue"

_AT_ONCE: Final = 1 << 26
_BLOCK: Final = 1 << 20

_log = logging.getLogger(__name__)


def go_on() -> None:
    """Never give up."""


def fence(work: Path) -> Path | None:
    """Take the place of `work`'s item from whoever works in it; return where it is now.

    None when there is none, or when it is no place in a job's folder. Raises nothing.
    """
    place = current(work)
    if folder_of(place) is None:
        return None
    try:
        return place.rename(aside(place, FENCED))
    except FileNotFoundError:
        return None
    except OSError as error:
        # In use, as Windows sees it. It stays, but no run will take it for its own.
        _log.warning("%s cannot be fenced: %s", place, error)
        with contextlib.suppress(OSError):
            (place / PREPARED).unlink()
        return place


def rescue(fenced: Path, work: Path, check: Callable[[], None] = go_on) -> bool:
    """Copy what can be continued to a fresh place of `work`'s item; then remove `fenced`.

    Returns whether there is something to continue from. A place that a run has made
    meanwhile is left alone, and a run that is prepared meanwhile goes without the copy.
    Raises nothing of its own; what cannot be copied is lost. `check` is called between
    blocks and may raise to give up: then nothing has changed.
    """
    fresh = aside(work, RESCUE)
    rescued = False
    try:
        with contextlib.suppress(OSError):
            fresh.mkdir(mode=0o700)
            if _copy_all(fenced, fresh, check):
                fresh.rename(work.with_name(item_of(work)))
                rescued = True
    finally:
        remove_tree(fresh)
    remove_tree(fenced)
    return rescued


def _copy_all(fenced: Path, fresh: Path, check: Callable[[], None]) -> bool:
    old, new = resume.Ledger(fenced), resume.Ledger(fresh)
    rescued = False
    for file in _kept(fenced, old):
        target = fresh / file.relative_to(fenced)
        try:
            whole = old.holds(file)
            _make_folders(fresh, target.parent)
            _copy(file, target, check)
            if whole and old.holds(file):  # nothing was written to it meanwhile
                new.record(target)
            rescued = True
        except OSError as error:
            _log.warning("%s is lost: %s", file, error.strerror or error)
            with contextlib.suppress(OSError):
                target.unlink()
    return rescued


def _kept(fenced: Path, ledger: resume.Ledger) -> list[Path]:
    """Return what `resume.heal` could keep, each state before its part."""
    files = [file for file in files_below(fenced) if _is_kept(file, fenced, ledger)]
    return sorted(files, key=lambda file: not file.name.endswith(".ytdl"))


def _is_kept(file: Path, fenced: Path, ledger: resume.Ledger) -> bool:
    if file.parent == fenced:
        return file.name not in (resume.LEDGER, PREPARED)
    if not file.is_relative_to(tmp_of(fenced)) or resume.is_fragment(file.name):
        return False
    return file.name.endswith((".part", ".ytdl")) or ledger.holds(file)


def _make_folders(top: Path, folder: Path) -> None:
    """Create the folders below `top`, never `top` itself: who removed that meant it."""
    for one in (*reversed(folder.relative_to(top).parents), folder.relative_to(top)):
        if one.parts:
            (top / one).mkdir(exist_ok=True)


def _copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    """Copy a file, its times included; a file system that can shares the blocks."""
    if not stat.S_ISREG(source.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a file")
    with source.open("rb") as reader, target.open("xb") as writer:
        _pour(reader, writer, check)
    shutil.copystat(source, target)


def _pour(reader: BinaryIO, writer: BinaryIO, check: Callable[[], None]) -> None:
    by_kernel = getattr(os, "copy_file_range", None)  # on Linux, but not with every libc
    check()
    if by_kernel is not None:
        with contextlib.suppress(OSError):  # not on every file system; then go on where it ended
            while by_kernel(reader.fileno(), writer.fileno(), _AT_ONCE):
                check()
    while block := reader.read(_BLOCK):
        check()
        writer.write(block)
