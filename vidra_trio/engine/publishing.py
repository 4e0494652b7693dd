"""From a run's private place to the destination. Synchronous: call in a thread.

1. The place lies on the destination's volume, so that publishing is one rename per
   file; where a folder below the destination is another volume, or the same one once
   more (a bind mount), files are copied to a temporary name there first, and then renamed.
2. Everything is checked before anything is moved, and the main file goes last: when
   it can be seen, what belongs to it is there.
3. Before the first rename it is noted beside the place what is to be published. From
   there on it will be: by this call, or after a kill by `complete`, which finds each
   file still in the place or, with the size and time it had, at the destination.
   The note outlives the place: it goes with the job's folder, when the job has its end.
4. A copy's name is noted before the copy is made, for `forget_copies`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.job import JOB_ID
from vidra_trio.core.paths import WORK_PREFIX
from vidra_trio.engine.bounds import check_file, unavailable
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.places import (
    current,
    files_below,
    folder_of,
    item_of,
    job_id_of,
    out_of,
    token,
)
from vidra_trio.engine.removal import remove_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vidra_trio.core.zones import PathRules

NOTE: Final = "published"
"""In a job's folder, behind the item's name: what is, or is about to be, published."""

COPIES: Final = "copies"
"""In a job's folder: the copies that were begun on other volumes, a line each."""

_COPY: Final = re.compile(rf"{re.escape(WORK_PREFIX)}({JOB_ID.pattern})\.[0-9a-f]{{16}}\.copy")
_BLOCK: Final = 1 << 20

_LEFTOVER: Final = (".part", ".ytdl", ".temp")
"""What a failed step may have left in `out`; never a file that was asked for."""

Mark = tuple[int, int]
"""Size and time of a file: what a rename keeps and another file would not have."""


@dataclass(frozen=True, slots=True)
class Published:
    """What is at the destination: absolute paths."""

    files: tuple[str, ...]
    main: str


def publish(
    work: Path,
    destination: Path,
    roots: Sequence[Path],
    *,
    main: str,
    rules: PathRules | None = None,
    overwrite: bool,
    check: Callable[[], None],
) -> tuple[str, ...]:
    """Move what is in the place's `out` to the destination; return what is there.

    `check` is called between steps that take time. It may raise to give up, which
    is possible until the first rename. Without `overwrite` a file that is there
    stays, and counts as published. Then the place is removed.

    Raises:
        ItemFailed: see `workdir.prepare`.
    """
    place = current(work)
    out = out_of(place)
    relatives = sorted(_products(out, main), key=lambda one: (str(one) == main, one))
    if str(relatives[-1] if relatives else None) != main:
        raise ItemFailed("nothing_downloaded", f"the file is not there: {main}")
    _check(destination, roots, rules, relatives)
    try:
        with _staged(place, destination, relatives, check) as sources:
            check()
            _note(place, main, relatives)
            _place_all(sources, overwrite=overwrite)
    except OSError as error:
        raise unavailable(destination, error) from error
    remove_place(place)
    return _paths(destination, relatives)


def complete(
    work: Path,
    destination: Path,
    roots: Sequence[Path],
    *,
    rules: PathRules | None = None,
    overwrite: bool,
    check: Callable[[], None],
) -> Published | None:
    """Complete the publication that a kill interrupted, or find that it was complete.

    None if there was none, or nothing is left of its main file: then the item has
    to run. To be asked before a run, which throws away what waits in `out`.

    Raises:
        ItemFailed: see `workdir.prepare`.
    """
    place = current(work)
    try:
        noted = _noted(place)
        waiting = [r for r in noted.marks if _mark(out_of(place) / r) == noted.marks[r]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    there = [r for r in noted.marks if _mark(destination / r) == noted.marks[r]]
    if noted.main not in {*map(str, waiting), *map(str, there)}:
        return None
    _check(destination, roots, rules, waiting)
    forget_copies(folder_of(place) or place)
    try:
        with _staged(place, destination, waiting, check) as sources:
            check()
            _place_all(sources, overwrite=overwrite)
    except OSError as error:
        raise unavailable(destination, error) from error
    remove_place(place)
    return Published(_paths(destination, {*waiting, *there}), str(destination / noted.main))


def forget_copies(folder: Path) -> None:
    """Remove the copies that a kill left half made, of the job whose folder this is.

    A line names one of ours, below the destination and nowhere else, or it is ignored.
    """
    job_id, destination = job_id_of(folder.name), folder.parent.resolve()
    for line in _lines(folder / COPIES):
        with contextlib.suppress(OSError, ValueError):
            copy = folder.parent / str(json.loads(line))
            ours = copy.parent.resolve().is_relative_to(destination) and _copied_for(copy) == job_id
            if ours and stat.S_ISREG(copy.lstat().st_mode):
                copy.unlink()


def _copied_for(copy: Path) -> str | None:
    match = _COPY.fullmatch(copy.name)
    return match[1] if match else None


def _products(out: Path, main: str) -> Iterator[Path]:
    """Return what was asked for: the main file whatever its name, and all but leftovers."""
    for file in files_below(out):
        relative = file.relative_to(out)
        wanted = str(relative) == main or not _is_leftover(file)
        if wanted and stat.S_ISREG(file.lstat().st_mode):
            yield relative


def _is_leftover(file: Path) -> bool:
    """Return whether a step left it behind: a part, or `X.temp.ext` beside an `X.ext`."""
    if file.suffix in _LEFTOVER:
        return True
    finished = file.with_name(file.stem.removesuffix(".temp") + file.suffix)
    return finished != file and finished.exists()


def _check(
    destination: Path,
    roots: Sequence[Path],
    rules: PathRules | None,
    relatives: Sequence[Path],
) -> None:
    for relative in relatives:
        check_file(destination / relative, destination, roots, rules)


def _paths(destination: Path, relatives: Iterable[Path]) -> tuple[str, ...]:
    return tuple(sorted(str(destination / relative) for relative in relatives))


@contextlib.contextmanager
def _staged(
    place: Path, destination: Path, relatives: Sequence[Path], check: Callable[[], None]
) -> Iterator[list[tuple[Path, Path]]]:
    """Yield, for each file, what can be renamed, and to what; undoes the rest if that fails."""
    made: list[Path] = []
    copies: list[Path] = []
    apart: dict[Path, bool] = {}
    try:
        pairs = []
        for relative in relatives:
            source, target = out_of(place) / relative, destination / relative
            made += _make_folder(target.parent)
            if target.parent not in apart:
                apart[target.parent] = _is_apart(source, place, destination, target)
            if apart[target.parent]:
                copies.append(_begin_copy(place, destination, target))
                _copy(source, copies[-1], check)
                source = copies[-1]
            pairs.append((source, target))
        yield pairs
    except BaseException:
        _undo(copies, made)
        raise
    _undo(copies, ())  # one that was not needed: its target was there and stays


def _is_apart(source: Path, place: Path, destination: Path, target: Path) -> bool:
    """Return whether nothing can be renamed from `place` to the folder of `target`.

    The devices do not tell all: the same one may be mounted at that folder once more.
    """
    if source.stat().st_dev != target.parent.stat().st_dev:
        return True
    if target.parent == destination:  # which `place` is in
        return False
    probe, probed = place / f"{token()}.probe", _begin_copy(place, destination, target)
    try:
        probe.touch()
        probe.rename(probed)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return True
    finally:
        for path in (probe, probed):
            path.unlink(missing_ok=True)
    return False


def _undo(copies: Sequence[Path], folders: Sequence[Path]) -> None:
    for copy in copies:
        with contextlib.suppress(OSError):
            copy.unlink()
    for folder in reversed(folders):
        with contextlib.suppress(OSError):  # in use by now
            folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Create a folder; return what was missing, outermost first."""
    missing = list(itertools.takewhile(lambda p: not p.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _begin_copy(place: Path, destination: Path, target: Path) -> Path:
    """Return a name beside `target`, once it is written down."""
    folder = folder_of(place) or place
    copy = target.with_name(f"{WORK_PREFIX}{job_id_of(folder.name)}.{token()}.copy")
    with (folder / COPIES).open("a", encoding="ascii") as journal:
        # The line before may be torn: not this one with it.
        journal.write(f"\n{json.dumps(str(copy.relative_to(destination)))}\n")
    return copy


def _copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            check()
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copystat(source, target)


def _place_all(pairs: Sequence[tuple[Path, Path]], *, overwrite: bool) -> None:
    for source, target in pairs:
        _place(source, target, overwrite=overwrite)


def _place(source: Path, target: Path, *, overwrite: bool) -> None:
    """Rename `source` to `target`; without `overwrite`, only if there is none."""
    if overwrite:
        source.replace(target)
        return
    try:
        target.hardlink_to(source)  # unlike a rename it never replaces
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not os.path.lexists(target):
            source.replace(target)


@dataclass(frozen=True, slots=True)
class _Noted:
    main: str
    marks: dict[Path, Mark]


def _note_of(place: Path) -> Path:
    folder = folder_of(place)
    return place / NOTE if folder is None else folder / f"{item_of(place)}.{NOTE}"


def _note(place: Path, main: str, relatives: Sequence[Path]) -> None:
    """Write down what is about to be published; it is there whole or not at all."""
    out, note = out_of(place), _note_of(place)
    files = [[str(relative), *(_mark(out / relative) or ())] for relative in relatives]
    fresh = note.with_name(f"{note.name}.new")
    fresh.write_text(json.dumps({"main": main, "files": files}), encoding="ascii")
    fresh.replace(note)


def _noted(place: Path) -> _Noted:
    form: dict[str, Any] = json.loads(_note_of(place).read_bytes())
    return _Noted(
        str(form["main"]), {Path(name): (size, time) for name, size, time in form["files"]}
    )


def _mark(file: Path) -> Mark | None:
    try:
        status = file.lstat()
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
