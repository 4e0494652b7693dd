"""Removing a tree that is deep, closed to writing, or still written to.

1. Every folder is first moved to the top of the tree, then emptied: no recursion, no
   path that grows, and whoever still writes by path finds no folder to write to.
2. Names are used relative to an open folder where the system can: a folder that
   somebody swaps for a link meanwhile leads nowhere else.
3. What refuses is opened up and tried once more. Only folders, where that is enough: a
   file may have a second name at the destination, with the same mode.
4. Who writes may create files again. A few rounds, then the rest stays.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from vidra_trio.core.paths import WORK_PREFIX
from vidra_trio.engine.places import OWNER, aside, entries_of, folder_of, is_folder, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)

ROUNDS: Final = 3
"""How often a tree is looked through that is not empty afterwards."""

REMOVED: Final = "removed"

_AT_DESCRIPTOR: Final = {os.open, os.rename, os.unlink, os.rmdir, os.chmod} <= os.supports_dir_fd
_OF_DESCRIPTOR: Final = {os.scandir, os.chmod} <= os.supports_fd
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def remove_place(place: Path) -> dict[str, str]:
    """Remove the place of a run, which is there whole or not at all from the first instant on.

    Returns what stays, and why; raises nothing.
    """
    grave = place
    if folder_of(place) is not None:
        try:
            grave = place.rename(aside(place, REMOVED))
        except FileNotFoundError:
            return {}
        except OSError:  # something in it is in use
            pass
    return remove_tree(grave)


def remove_folder(folder: Path) -> dict[str, str]:
    """Remove a job's folder; a run that is prepared from the first instant on makes a new one.

    A kill leaves the folder of a job that never was, with its owner in it: a janitor's.
    Returns what stays, and why; raises nothing.
    """
    grave = folder
    if is_folder(folder):
        with suppress(OSError):  # something in it is in use, or it is gone
            grave = folder.rename(folder.with_name(f"{WORK_PREFIX}{token()}"))
    return remove_tree(grave, last=OWNER)


def remove_tree(top: Path, *, last: str | None = None) -> dict[str, str]:
    """Remove `top` and all in it, its file `last` at the very end; return what stays, and why.

    Raises nothing: a tree that is not there is removed, a link or a file in its place stays.
    What stays is logged.
    """
    try:
        top.lstat()
    except OSError:
        return {}
    if not is_folder(top):
        return _told({str(top): "it is no folder"})
    return _told(_remove(top, last))


def being_removed(folder: Path) -> list[Path]:
    """Return what a kill left of removals in a job's folder."""
    return [path for path in entries_of(folder) if path.name.startswith(f"{REMOVED}-")]


def _remove(top: Path, last: str | None) -> dict[str, str]:
    stays: dict[str, str] = {}
    try:
        with _opened(_Folder(str(top.parent)), top.name) as folder:
            for _ in range(ROUNDS):
                stays = _clear(folder, last)
                if {name for name, _ in folder.names()} <= {last}:
                    break
            else:
                return stays or {str(top): "somebody writes to it"}
            if last is not None:
                _drop(folder, last, stays)
        top.rmdir()
    except FileNotFoundError:
        return {}
    except OSError as error:
        return stays or {str(top): _words(error)}
    return {}


class _Folder:
    """An open folder: where its names are, for calls that take `dir_fd`."""

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self.descriptor = descriptor

    def at(self, name: str) -> str:
        return name if self.descriptor is not None else os.path.join(self.path, name)  # noqa: PTH118

    def names(self) -> list[tuple[str, bool]]:
        """Return what is in it, and which of that are folders."""
        place = self.path if self.descriptor is None else self.descriptor
        with os.scandir(place) as entries:
            return [(entry.name, _is_inner(entry)) for entry in entries]

    def open_up(self, name: str | None = None) -> None:
        """Let its owner read and change it, or the folder `name` in it."""
        mode = stat.S_IRWXU
        if name is not None:
            os.chmod(self.at(name), mode, dir_fd=self.descriptor)
        else:
            os.chmod(self.path if self.descriptor is None else self.descriptor, mode)  # noqa: PTH101


def _is_inner(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a folder itself; see `places.is_folder`, which needs a path."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return os.name != "nt" or not getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0)


@contextmanager
def _opened(parent: _Folder, name: str) -> Iterator[_Folder]:
    path = os.path.join(parent.path, name)  # noqa: PTH118
    if not (_AT_DESCRIPTOR and _OF_DESCRIPTOR):
        yield _Folder(path)
        return
    try:
        descriptor = os.open(parent.at(name), _FLAGS, dir_fd=parent.descriptor)
    except PermissionError:
        parent.open_up(name)
        descriptor = os.open(parent.at(name), _FLAGS, dir_fd=parent.descriptor)
    try:
        yield _Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _clear(top: _Folder, last: str | None) -> dict[str, str]:
    """Remove all that is in `top` now, but `last`; return what stays."""
    stays: dict[str, str] = {}
    folders = []
    for name, inner in top.names():
        if inner:
            folders.append(_lift(top, name, top) or name)
        elif name != last:
            _drop(top, name, stays)
    while folders:
        name = folders.pop()
        try:
            with _opened(top, name) as folder:
                folders.extend(_empty(folder, top, stays))
            os.rmdir(top.at(name), dir_fd=top.descriptor)
        except FileNotFoundError:
            pass
        except OSError as error:
            stays[os.path.join(top.path, name)] = _words(error)  # noqa: PTH118
    return stays


def _empty(folder: _Folder, top: _Folder, stays: dict[str, str]) -> list[str]:
    """Remove the files in `folder`, and move its folders to `top`; return their new names."""
    moved = []
    for name, inner in folder.names():
        if not inner:
            _drop(folder, name, stays)
        elif new := _lift(folder, name, top):
            moved.append(new)
    return moved


def _lift(folder: _Folder, name: str, top: _Folder) -> str | None:
    """Move a folder to `top` under a new name; None when it cannot be moved."""
    new = f"{REMOVED}-{token()}"

    def move() -> None:
        os.rename(
            folder.at(name), top.at(new), src_dir_fd=folder.descriptor, dst_dir_fd=top.descriptor
        )

    try:
        _insist(move, folder, name)
    except OSError:  # a mount point, or in use: its `rmdir` will say
        return None
    return new


def _drop(folder: _Folder, name: str, stays: dict[str, str]) -> None:
    def unlink() -> None:
        os.unlink(folder.at(name), dir_fd=folder.descriptor)

    try:
        _insist(unlink, folder, name if os.name == "nt" else None)
    except FileNotFoundError:
        pass
    except OSError as error:
        stays[os.path.join(folder.path, name)] = _words(error)  # noqa: PTH118


def _insist(act: Callable[[], None], folder: _Folder, inner: str | None = None) -> None:
    """Act; when that is not permitted, open up the folder (and the inner one) and act again."""
    try:
        act()
    except PermissionError:
        folder.open_up()
        if inner is not None:
            folder.open_up(inner)
        act()


def _told(stays: dict[str, str]) -> dict[str, str]:
    if stays:
        path, why = next(iter(stays.items()))
        others = f" (and {len(stays) - 1} more)" if len(stays) > 1 else ""
        _log.warning("%s%s cannot be removed: %s", path, others, why)
    return stays


def _words(error: OSError) -> str:
    return error.strerror or str(error)
