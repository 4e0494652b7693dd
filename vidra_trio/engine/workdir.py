"""A run's private directory, and the way out of it. Synchronous: call in a thread.

1. The directory lies on the destination's volume, so that publishing is one
   rename per file; where it does not, files are copied to a temporary name at the
   destination first, and then renamed.
2. Everything is checked before anything is moved: each file's real place lies
   inside the destination, inside one of the roots when there are any, and where
   the rules of `core.zones` let files be put.
3. `check` is called between steps that take time. It may raise to give up, which
   is possible until the first rename; from there on the publication is completed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vidra_trio.core.zones import refusal
from vidra_trio.engine import resume
from vidra_trio.engine.errors import ItemFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vidra_trio.core.zones import PathRules

_BLOCK: Final = 1 << 20

_LEFTOVER: Final = (".part", ".ytdl", ".temp")
"""What a failed step may have left in `out`; never a file that was asked for."""


def prepare(
    work: Path, destination: Path, roots: Sequence[Path], *, rules: PathRules | None = None
) -> None:
    """Create the work directory, and the destination above it if it is missing.

    Raises:
        ItemFailed: the destination is, links resolved, outside what is allowed
            (`path_not_allowed`), or nothing can be created there (`destination_unavailable`).
    """
    _check_inside(destination, roots, "the destination")
    _check_allowed(destination, rules)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        resume.tmp_of(work).mkdir(exist_ok=True)  # also says no when the directory is read-only
    except OSError as error:
        raise _unavailable(destination, error) from error


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
    """Move what is in `work/out` to the destination, then remove `work`; return what is there.

    Without `overwrite` a file that is there stays, and counts as published.

    Raises:
        ItemFailed: see `prepare`.
    """
    out = resume.out_of(work)
    # The main file last: when it can be seen, what belongs to it is there.
    relatives = sorted(_products(out, main), key=lambda one: (str(one) == main, one))
    if str(relatives[-1] if relatives else None) != main:
        raise ItemFailed("nothing_downloaded", f"the file is not there: {main}")
    for relative in relatives:
        _check_inside(destination / relative, (destination,), "the file")
        _check_inside(destination / relative, roots, "the file")
        _check_allowed((destination / relative).parent, rules)
    try:
        with _staged(out, destination, relatives, check) as sources:
            check()
            for relative, source in zip(relatives, sources, strict=True):
                _place(source, destination / relative, overwrite=overwrite)
    except OSError as error:
        raise _unavailable(destination, error) from error
    remove(work)
    return tuple(sorted(str(destination / relative) for relative in relatives))


def remove(work: Path) -> None:
    """Remove a work directory and all in it; what cannot be removed stays."""
    shutil.rmtree(work, ignore_errors=True)


def parts_of(work: Path) -> tuple[str, ...]:
    """Return the files that a later run would continue from."""
    ledger = resume.Ledger(work)
    found = []
    for folder, _, names in os.walk(resume.tmp_of(work)):
        for file in (Path(folder, name) for name in names):
            if "-Frag" not in file.name:
                with contextlib.suppress(OSError):
                    if file.suffix == ".part" or ledger.holds(file):
                        found.append(str(file))
    return tuple(sorted(found))


def _products(out: Path, main: str) -> Iterator[Path]:
    """Return what was asked for: the main file whatever its name, and all but leftovers."""
    for folder, _, names in os.walk(out):
        for file in (Path(folder, name) for name in names):
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


def _check_inside(path: Path, roots: Sequence[Path], what: str) -> None:
    if roots:
        # The last component may be a link: it is replaced, never followed.
        real = path.parent.resolve() / path.name if what == "the file" else path.resolve()
        if not any(real.is_relative_to(root.resolve()) for root in roots):
            raise ItemFailed(
                "path_not_allowed", f"{what} would lie outside what is allowed: {path}"
            )


def _check_allowed(folder: Path, rules: PathRules | None) -> None:
    """Ask the rules again, with what the path really leads to."""
    real = str(folder.resolve())
    if rules is not None and real != str(folder):
        why = refusal(real, _resolved(rules))
        if why is not None:
            raise ItemFailed("path_not_allowed", f"{folder} leads to {real}, which {why}")


def _resolved(rules: PathRules) -> PathRules:
    """Return `rules` with every place the operator named under its real path."""
    return dataclasses.replace(
        rules,
        download_dir=str(Path(rules.download_dir).resolve()),
        roots=tuple(str(Path(root).resolve()) for root in rules.roots),
        home=str(Path(rules.home).resolve()) if rules.home else "",
        forbidden=tuple(str(Path(folder).resolve()) for folder in rules.forbidden),
    )


@contextlib.contextmanager
def _staged(
    out: Path, destination: Path, relatives: Sequence[Path], check: Callable[[], None]
) -> Iterator[list[Path]]:
    """Yield, for each file, what can be renamed into its place; removes what it copied."""
    copies: list[Path] = []
    try:
        sources = []
        for relative in relatives:
            target = destination / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            source = out / relative
            if source.stat().st_dev != target.parent.stat().st_dev:
                copies.append(target.with_name(f".vidra-{secrets.token_hex(8)}"))
                _copy(source, copies[-1], check)
                source = copies[-1]
            sources.append(source)
        yield sources
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)


def _copy(source: Path, target: Path, check: Callable[[], None]) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        while block := reader.read(_BLOCK):
            check()
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    shutil.copystat(source, target)


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


def _unavailable(destination: Path, error: OSError) -> ItemFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ItemFailed("disk_full", f"no space is left at {destination}")
    why = error.strerror or str(error)
    return ItemFailed("destination_unavailable", f"cannot write to {destination}: {why}")
