"""Where the runs of a job work, and whose that is.

    <destination>/.vidra-<job id>/       the job's folder, for its user only
        owner                            the id of the server's data directory
        0                                the place of the job's first item
        0.1f3a9c015e7d2b64               the same, under a name for one run; see `fencing`
        0.published  copies              see `publishing`
        fenced-…  rescue-…  removed-…    what `fencing` and `removal` have at hand

The owner comes first and goes last: a folder without one is empty, unless a kill
hit whoever removed it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vidra_trio.core.job import JOB_ID
from vidra_trio.core.paths import WORK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNER: Final = "owner"
OWNER_NEW: Final = "owner.new"

PREPARED: Final = "prepared"
"""In a place: we made it. A thread that was given up makes missing folders again."""

_FOLDER: Final = re.compile(re.escape(WORK_PREFIX) + f"({JOB_ID.pattern})")
_PLACE: Final = re.compile(r"([A-Za-z0-9]+)(\.[0-9a-f]{16})?")
_LONGEST: Final = 1 << 16
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def token() -> str:
    """Return what makes a name new."""
    return secrets.token_hex(8)


def job_id_of(name: str) -> str | None:
    """Return the id of the job whose folder is called `name`; None if that is no such name."""
    match = _FOLDER.fullmatch(name)
    return match[1] if match else None


def folder_of(work: Path) -> Path | None:
    """Return the job's folder that `work` lies in; None where a run works outside of any."""
    return work.parent if job_id_of(work.parent.name) else None


def item_of(work: Path) -> str:
    """Return what the places of one item have in common: its number."""
    return work.name.partition(".")[0]


def open_folder(folder: Path, owner: str | None) -> None:
    """Create a job's folder, or take it over, as `owner`'s.

    Raises:
        OSError: it cannot be made (FileNotFoundError also when a janitor took it for
            one that a kill left; ask again), or is no folder.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not is_folder(folder):
        folder.lstat()  # gone already?
        raise NotADirectoryError(errno.ENOTDIR, "no folder, but a link or a file", str(folder))
    if owner is None:
        return
    with suppress(OSError):  # what cannot be read is replaced
        if owner_of(folder) == owner:
            return
    fresh = folder / OWNER_NEW
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINK
    with open(os.open(fresh, flags, 0o600), "wb") as file:  # noqa: PTH123  # takes descriptors
        file.write(f"{owner}\n".encode())
    fresh.replace(folder / OWNER)


def owner_of(folder: Path) -> str | None:
    """Return whose a job's folder says it is: an id; None if it says nothing.

    Raises:
        OSError: that cannot be found out.
    """
    name = _read(folder / OWNER)
    return None if name is None else name.decode("utf-8", "replace").strip()


def current(work: Path) -> Path:
    """Return the place of `work`'s item: under whatever name, or `work` if there is none yet."""
    folder, item = folder_of(work), item_of(work)
    if folder is None or (work.name != item and is_folder(work)):
        return work
    aliases = [one for one in places(folder) if item_of(one) == item and one.name != item]
    return max(aliases, key=_changed, default=work.with_name(item))


def places(folder: Path) -> list[Path]:
    """Return the places in a job's folder; those that an abandoned thread made are none."""
    found = []
    for path in entries_of(folder):
        match = _PLACE.fullmatch(path.name)
        if match and is_folder(path) and (match[2] is None or (path / PREPARED).exists()):
            found.append(path)
    return found


def out_of(work: Path) -> Path:
    """Where finished files wait to be published."""
    return work / "out"


def tmp_of(work: Path) -> Path:
    """Where streams are downloaded and processed."""
    return work / "tmp"


def aside(work: Path, what: str) -> Path:
    """Return a new name beside `work` for what becomes of it."""
    return work.with_name(f"{what}-{item_of(work)}-{token()}")


def set_aside(work: Path, what: str) -> list[Path]:
    """Return what lies beside `work` under such names, oldest first."""
    start = f"{what}-{item_of(work)}-"
    return sorted((p for p in entries_of(work.parent) if p.name.startswith(start)), key=_changed)


def entries_of(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except (OSError, ValueError):
        return []


def is_folder(path: Path) -> bool:
    """Return whether it is a folder itself: neither a link nor, on Windows, a junction."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and not getattr(status, "st_reparse_tag", 0)


def files_below(top: Path) -> Iterator[Path]:
    """Yield every file below `top`, links included, however deep; skips what cannot be read."""
    folders = [top]
    while folders:
        for path in entries_of(folders.pop()):
            if is_folder(path):
                folders.append(path)
            else:
                yield path


def _changed(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def _read(path: Path) -> bytes | None:
    """Return what a small file of ours holds; None when there is none. Waits for no pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:  # noqa: PTH123  # takes descriptors
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a file", str(path))
        return file.read(_LONGEST)
