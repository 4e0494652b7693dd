"""Where everything lies on disk, and the one way in which it gets there.

1. A file is replaced, never changed: written whole under a random name beside
   it, fsynced, renamed over it, and the folder fsynced. So a reader (or the next
   life) finds the old bytes or the new ones. (The one that grows: `journal`.)
2. A temporary file is opened O_EXCL and O_NOFOLLOW: a link planted under its
   name is an error, not a way out of the folder.
3. After a failure the next try starts over with a new temporary file: the kernel
   may have dropped what a failed fsync was about, and a second one would succeed.
4. Files are 0600 in 0700 folders from their first byte on.
5. `Disk` is every call that can fail. Tests hand in one that does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vidra_trio.core.errors import ConfigurationError, DataDirInUse
from vidra_trio.core.zones import SYSTEM

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)  # not on Windows, nor are the two below
_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
_DIRECTORY: Final = getattr(os, "O_DIRECTORY", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)  # only on Windows
_TEMPORARY: Final = re.compile(
    r"\.(?:id|(?:[A-Za-z0-9_-]{1,64}\.json|download_state\.journal\.\d+)(?:\.[a-z]+-\d+)?)"
    r"\.[0-9a-f]{16}\.tmp"
)
_ID: Final = re.compile(rb"[0-9a-f]{32}\n")
_SHARING_TRIES: Final = 5
_SHARING_PAUSE: Final = 0.05
"""Windows refuses to replace a file that somebody (a virus scanner) has open; it passes."""


@dataclass(frozen=True, slots=True)
class Locations:
    """The one table of paths: what lies where below the data directory."""

    data: Path
    cache: Path | None = None

    @property
    def state(self) -> Path:
        """All jobs."""
        return self.data / "download_state.json"

    def journal(self, number: int) -> Path:
        """What changed since, in segments."""
        return self.data / f"download_state.journal.{number}"

    @property
    def options(self) -> Path:
        """One file per job: the options as the client sent them, secrets included."""
        return self.data / "job_options"

    @property
    def logs(self) -> Path:
        """One file per job: its last lines."""
        return self.data / "job_logs"

    @property
    def entries(self) -> Path:
        """One file per playlist."""
        return self.data / "playlist_entries"

    @property
    def lock(self) -> Path:
        """Held by the server that owns the data directory, for life."""
        return self.data / ".lock"

    @property
    def id(self) -> Path:
        """What tells this data directory from all others, also those of the same path."""
        return self.data / "id"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that must be there and private."""
        inner = (self.data, self.options, self.logs, self.entries)
        return inner if self.cache is None else (*inner, self.cache)


class Disk:
    """The calls that can fail, one method each."""

    def create(self, path: Path) -> int:
        """Open a new file of ours; never one that is there, never through a link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
        return os.open(path, flags, 0o600)

    def append(self, path: Path) -> int:
        """Open a file of ours that is there, to be written to at its end."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | _NOFOLLOW | _BINARY)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data`; return how much."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the file is on the medium."""
        os.fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`."""
        tries_left = _SHARING_TRIES if os.name == "nt" else 0
        while True:
            try:
                source.replace(target)
            except PermissionError:
                if not tries_left:
                    raise
            else:
                return
            tries_left -= 1
            time.sleep(_SHARING_PAUSE)

    def unlink(self, path: Path) -> None:
        """Remove a file; fine when there is none."""
        path.unlink(missing_ok=True)

    def fsync_folder(self, path: Path) -> None:
        """Make renames and removals in a folder durable."""
        if os.name == "nt":  # pragma: no cover - folders cannot be opened there
            return
        descriptor = os.open(path, os.O_RDONLY | _DIRECTORY)
        try:
            self.fsync(descriptor)
        finally:
            os.close(descriptor)


DISK: Final = Disk()


def write_atomic(path: Path, data: bytes, disk: Disk = DISK, *, sync_folder: bool = True) -> None:
    """Put `data` at `path`, whole or not at all.

    With `sync_folder` false the caller says `disk.fsync_folder` once for many.

    Raises:
        OSError: it did not work; what was there is still there (or, when only the
            last fsync failed, perhaps already replaced), and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write_whole(temporary, data, disk)
        disk.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)
        raise
    if sync_folder:
        disk.fsync_folder(path.parent)


def write_all(descriptor: int, data: bytes, disk: Disk) -> None:
    """Write all of `data`, however little the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(descriptor, rest) :]


def read_file(path: Path) -> bytes | None:
    """Return what is in a file of ours, and make it private; None when there is none.

    Raises:
        OSError: it cannot be read, or is no plain file (a link, a folder, a pipe).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _BINARY)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a plain file")
        if os.name != "nt" and status.st_mode & 0o077:
            with contextlib.suppress(OSError):  # another's file, or a file system without modes
                os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def move_aside(path: Path, word: str, now_ms: int) -> Path:
    """Rename what cannot be read to `<name>.<word>-<ms>` and return where it is now.

    Raises:
        OSError: it stays where it is.
    """
    aside = _unused(path, word, now_ms)
    path.rename(aside)
    return aside


def keep_copy(path: Path, data: bytes, word: str, now_ms: int, disk: Disk = DISK) -> Path:
    """Keep what is at `path` as `<name>.<word>-<ms>` too, and return where.

    A second name for the same bytes needs no space, so it works on a full disk.

    Raises:
        OSError: there is no copy.
    """
    aside = _unused(path, word, now_ms)
    try:
        aside.hardlink_to(path)
    except OSError:  # a file system without them
        write_atomic(aside, data, disk)
    return aside


def _unused(path: Path, word: str, now_ms: int) -> Path:
    """Return the first name `<name>.<word>-<ms>` that is free: nothing kept is ever replaced."""
    while True:
        aside = path.with_name(f"{path.name}.{word}-{now_ms}")
        if not os.path.lexists(aside):
            return aside
        now_ms += 1


def sweep(folder: Path) -> None:
    """Remove the temporary files that a kill left in `folder`; only those named by us."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def hold_data_dir(locations: Locations) -> Iterator[str]:
    """Make the folders, private, and own them for the length of the block; yields their id.

    The id is random and made once: two containers have the same path for theirs.
    The lock is the kernel's: it dies with its holder, so there is never a stale one.

    Raises:
        DataDirInUse: another server owns them.
        ConfigurationError: they cannot be made, written or kept private.
    """
    for folder in locations.folders:
        variable = "CACHE" if folder == locations.cache else "DATA"
        try:
            _make_private(folder)
        except OSError as error:
            raise ConfigurationError(
                f"VIDRA_SERVER_{variable}",
                f"expected a folder that only you can write to, {_why(folder, error)}",
            ) from None
    descriptor = _open_lock(locations)
    try:
        _lock(descriptor, locations)
        yield _identity(locations)
    finally:
        os.close(descriptor)


def _identity(locations: Locations) -> str:
    """Return the id in the data directory; made when there is none, or a damaged one."""
    try:
        known = read_file(locations.id)
        if known is None or not _ID.fullmatch(known):
            known = f"{secrets.token_hex(16)}\n".encode("ascii")
            write_atomic(locations.id, known)
    except OSError as error:
        raise ConfigurationError(
            "VIDRA_SERVER_DATA", f"expected a writable folder, {_why(locations.id, error)}"
        ) from None
    return known.decode("ascii").strip()


def _write_whole(path: Path, data: bytes, disk: Disk) -> None:
    descriptor = disk.create(path)
    try:
        write_all(descriptor, data, disk)
        disk.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private(folder: Path) -> None:
    """Make `folder` 0700. One that is not ours to tighten must at least not be open to others."""
    if _is_shared(folder.resolve()):
        raise PermissionError("it is the home or the system's, not a folder of its own")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform != "win32":  # modes mean nothing there
        _tighten(folder)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError("it is not writable")


def _is_shared(folder: Path) -> bool:
    """Return whether others need to reach what is in there: closing it would lock them out."""
    return Path.home().resolve().is_relative_to(folder) or str(folder) in SYSTEM


def _tighten(folder: Path) -> None:
    status = folder.stat()
    mine = status.st_uid == os.geteuid()
    if folder.is_symlink() and not mine:
        raise PermissionError("it is a link to somebody else's folder")
    if status.st_mode & stat.S_ISVTX:
        raise PermissionError("it is shared by all users")
    if mine and status.st_mode & 0o077:
        with contextlib.suppress(OSError):  # a file system without modes
            folder.chmod(0o700)
        status = folder.stat()
    if status.st_mode & 0o022:
        raise PermissionError("others can write to it")


def _why(folder: Path, error: OSError) -> str:
    return f"but of {str(folder)!a}: {error.strerror or error}"


def _open_lock(locations: Locations) -> int:
    try:
        return os.open(locations.lock, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigurationError(
            "VIDRA_SERVER_DATA", f"expected a writable folder, {_why(locations.data, error)}"
        ) from None


def _lock(descriptor: int, locations: Locations) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise DataDirInUse(str(locations.data)) from None
        raise ConfigurationError(
            "VIDRA_SERVER_DATA", f"expected a folder with locks, {_why(locations.data, error)}"
        ) from None
