"""Disks that fail, and disks that stop in the middle: for all N, the N-th call."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vidra_trio.storage.files import Disk

if TYPE_CHECKING:
    from pathlib import Path

SHORT = 700
"""Bytes per write: a file of a few jobs takes several."""


class Killed(BaseException):
    """What a kill -9 looks like from inside: nothing runs any more, no cleanup either."""


class FaultyDisk(Disk):
    """Counts its calls and fails some of them; a failing write writes half first.

    Call number `at` fails, and with `forever` every later one. `kill` makes it the
    end of the process instead: from then on nothing reaches the disk.
    """

    def __init__(self, at: int | None = None, *, forever: bool = False, kill: bool = False) -> None:
        self.at = at
        self.calls = 0
        self.names: list[str] = []
        self._forever = forever or kill
        self._kill = kill

    def create(self, path: Path) -> int:
        self._count("create")
        return super().create(path)

    def append(self, path: Path) -> int:
        self._count("append")
        return super().append(path)

    def write(self, descriptor: int, data: memoryview) -> int:
        try:
            self._count("write")
        except (OSError, Killed):
            if self.calls == self.at:
                os.write(descriptor, data[: len(data) // 2])
            raise
        # A short write is legal, and between two of them is a place to fail.
        return super().write(descriptor, data[:SHORT])

    def fsync(self, descriptor: int) -> None:
        self._count("fsync")
        super().fsync(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)

    def _count(self, name: str) -> None:
        self.calls += 1
        self.names.append(name)
        if self.at is not None and (
            self.calls == self.at or (self._forever and self.calls > self.at)
        ):
            if self._kill:
                raise Killed(name)
            raise OSError(errno.ENOSPC, "No space left on device")
