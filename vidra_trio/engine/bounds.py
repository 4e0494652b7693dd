"""Where a run may write, asked of the disk: what paths really lead to."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import TYPE_CHECKING

from vidra_trio.core.zones import refusal
from vidra_trio.engine.errors import ItemFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidra_trio.core.zones import PathRules


def check_folder(folder: Path, roots: Sequence[Path], rules: PathRules | None) -> None:
    """Check that `folder`, links resolved, is inside what is allowed.

    Raises:
        ItemFailed: it is not (`path_not_allowed`).
    """
    _check_inside(folder, folder.resolve(), roots, "the destination")
    _check_allowed(folder, rules)


def check_file(
    file: Path, destination: Path, roots: Sequence[Path], rules: PathRules | None
) -> None:
    """Check that a file can be put there: inside the destination and what is allowed.

    The last component may be a link: it is replaced, never followed.

    Raises:
        ItemFailed: it cannot (`path_not_allowed`; `destination_unavailable` when a folder
            has its name).
    """
    real = file.parent.resolve() / file.name
    _check_inside(file, real, (destination,), "the file")
    _check_inside(file, real, roots, "the file")
    _check_allowed(file.parent, rules)
    if file.is_dir() and not file.is_symlink():
        raise ItemFailed("destination_unavailable", f"a folder has the name of the file: {file}")


def unavailable(destination: Path, error: OSError) -> ItemFailed:
    """Return what a failing disk means for the item."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ItemFailed("disk_full", f"no space is left at {destination}")
    why = error.strerror or str(error)
    return ItemFailed("destination_unavailable", f"cannot write to {destination}: {why}")


def _check_inside(path: Path, real: Path, roots: Sequence[Path], what: str) -> None:
    if roots and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise ItemFailed("path_not_allowed", f"{what} would lie outside what is allowed: {path}")


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
