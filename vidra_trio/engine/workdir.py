"""A run's private directory: made, looked at, taken away. Synchronous: call in a thread.

Where it lies, what it is called and whose it is: `places`. The way out of it:
`publishing`. What becomes of it under a thread that cannot be ended: `fencing`.

Every function takes the directory by the name that the job knows it by
(`.vidra-<job id>/<item>`) or by the one that `prepare` returned.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vidra_trio.engine import resume
from vidra_trio.engine.bounds import check_folder, unavailable
from vidra_trio.engine.fencing import FENCED, RESCUE, fence, go_on, rescue
from vidra_trio.engine.places import (
    PREPARED,
    current,
    files_below,
    folder_of,
    item_of,
    job_id_of,
    open_folder,
    places,
    set_aside,
    tmp_of,
    token,
)
from vidra_trio.engine.publishing import Published, complete, forget_copies, publish
from vidra_trio.engine.removal import being_removed, remove_folder, remove_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vidra_trio.core.zones import PathRules

__all__ = [
    "Published",
    "complete",
    "fence",
    "newest_change",
    "parts_of",
    "prepare",
    "publish",
    "remove",
    "rescue",
]

_TRIES: Final = 20
"""How often a folder is made again that a janitor took away before it had its owner. One
that runs once does so once; this many are for a test in which it never rests."""


def prepare(
    work: Path,
    destination: Path,
    roots: Sequence[Path],
    *,
    rules: PathRules | None = None,
    owner: str | None = None,
    apart: bool = False,
    check: Callable[[], None] = go_on,
) -> Path:
    """Make a run's directory, and what lies above it if that is missing; return where it is.

    What an earlier run left is in it, whatever that one's directory was called. With
    `apart` this one's name was never used before: the run may outlive its end (see
    `fencing`). The job's folder is marked as `owner`'s. `check` is called while parts
    are copied, and may raise to give up: then they wait for the next run.

    Raises:
        ItemFailed: the destination is, links resolved, outside what is allowed
            (`path_not_allowed`), or nothing can be created there (`destination_unavailable`).
    """
    check_folder(destination, roots, rules)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                return _make(work, owner, check, apart=apart)
        return _make(work, owner, check, apart=apart)
    except OSError as error:
        raise unavailable(destination, error) from error


def remove(work: Path) -> tuple[str, ...]:
    """Remove a run's directory, or a job's folder and all that its runs left; return what stays.

    Raises nothing. Fine when there is none; what cannot be removed is logged.
    """
    if job_id_of(work.name) is not None:
        forget_copies(work)
        return tuple(remove_folder(work))
    return (*remove_place(current(work)), *remove_place(work))


def parts_of(work: Path) -> tuple[str, ...]:
    """Return the files that later runs would continue from: of an item, or of all of a job's."""
    whole_job = job_id_of(work.name) is not None
    found = map(_parts_in, (work, *places(work)) if whole_job else (current(work),))
    return tuple(sorted(str(file) for parts in found for file in parts))


def newest_change(work: Path) -> tuple[int, int]:
    """Return the newest change and the sum of the sizes below `work`: differs when it grew."""
    newest = total = 0
    for folder, _, names in os.walk(current(work)):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))  # noqa: PTH118  # many files, often
                newest, total = max(newest, status.st_mtime_ns), total + status.st_size
    return newest, total


def _parts_in(place: Path) -> list[Path]:
    ledger = resume.Ledger(place)
    files = (f for f in files_below(tmp_of(place)) if not resume.is_fragment(f.name))
    return [file for file in files if file.suffix == ".part" or ledger.holds(file)]


def _make(work: Path, owner: str | None, check: Callable[[], None], *, apart: bool) -> Path:
    folder, place = folder_of(work), work
    if job_id_of(work.name) is not None:  # a job of one run that works in the folder itself
        open_folder(work, owner)
    elif folder is not None:
        open_folder(folder, owner)
        _tidy(work)
        name = item_of(work)
        place = work.with_name(f"{name}.{token()}" if apart else name)
        _move_in(work, place, check)
    place.mkdir(mode=0o700, parents=folder is None, exist_ok=True)
    if folder is not None:
        (place / PREPARED).touch()
    tmp_of(place).mkdir(exist_ok=True)  # also says no when the directory is read-only
    return place


def _tidy(work: Path) -> None:
    """Take away what a kill left half done, and call off a rescue that still goes on."""
    forget_copies(work.parent)
    for one in (*set_aside(work, RESCUE), *being_removed(work.parent)):
        remove_place(one)


def _move_in(work: Path, place: Path, check: Callable[[], None]) -> None:
    """Give what the item's last run left the name `place`."""
    for fenced in reversed(set_aside(work, FENCED)):
        if current(work).is_dir():
            remove_place(fenced)
        else:
            rescue(fenced, work, check)
    left = current(work)
    if left != place and left.is_dir():
        remove_place(place)
        (left / PREPARED).touch()
        left.rename(place)
