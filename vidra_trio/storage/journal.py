"""What changed since the state file was written, in segments beside it.

    download_state.journal.7            one segment; the highest number is written to
        {"vidra_trio_journal": 1, "base": "<digest of a state file>", "before": "<digest>"}
        1c291ca3 {"new": {…a job, as the state file spells it…}}
        0e55b1c2 {"put": {…how it stands now…}}
        5a0ff2d1 {"del": "<job id>"}

1. A record is a line: the CRC-32 of what follows the blank, in hex, and JSON.
   Records count in their order; the last one of a job is how it stands.
2. A segment names the state file that it continues, by digest, and the one that is
   there until that is written. So a crash between a new state file and the end of
   the segments before it does no harm: they are replayed, to the same end, or known
   to be in it already.
3. After a failure a segment is never written to or synced again: what failed is
   written anew, to the next one.
4. The end of a segment may be torn: that is a write that nobody was promised.
   Any other line that cannot be read costs itself, and a copy is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.storage.files import DISK, keep_copy, move_aside, read_file, write_all, write_atomic
from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from vidra_trio.storage.files import Disk, Locations

FORMAT: Final = 1

_HEAD: Final = "vidra_trio_journal"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}")


def digest(data: bytes) -> str:
    """Return what tells one state file from another; of nothing, when there is none."""
    return hashlib.sha256(data).hexdigest()


def put(form: bytes, *, new: bool) -> bytes:
    """Return the record of a job that is `form` now, in JSON; `new`: for the first time."""
    return b'{"%b":%b}' % (b"new" if new else b"put", form)


def delete(job_id: str) -> bytes:
    """Return the record of a job that is no more."""
    return dumps({"del": job_id})


class Journal:
    """The segment that is written to. One thread at a time."""

    def __init__(self, locations: Locations, base: str, disk: Disk = DISK, size: int = 0) -> None:
        self._at = locations
        self._base = self._before = base
        self._disk = disk
        self._number: int | None = None  # of the segment that is written to
        self._sizes = {0: size}  # of the records, by segment; 0: what was there before

    @property
    def size(self) -> int:
        """Bytes of all records since the state file."""
        return sum(list(self._sizes.values()))

    def append(self, records: Iterable[bytes]) -> None:
        """Make records durable, together and in order.

        Raises:
            OSError: they are not, though some may be on disk; append them again.
        """
        data = b"".join(map(_line, records))
        number = self._begin() if self._number is None else self._number
        try:
            self._write(self._at.journal(number), data)
        except OSError:
            self.close()
            raise
        self._sizes[number] = self._sizes.get(number, 0) + len(data)

    def rebase(self, base: str) -> int:
        """Begin a segment that continues the state file `base`, which is yet to be written.

        Returns its number: what lies before it may go once that file is there.

        Raises:
            OSError: there is none; the next record begins one.
        """
        self.close()
        known = self._base, self._before
        self._base, self._before = base, self._base
        try:
            return self._begin()
        except OSError:
            self._base, self._before = known
            raise

    def forget(self, before: int) -> None:
        """Remove the segments below number `before`; one that stays does no harm. Any thread."""
        for number in list(self._sizes):
            if number < before:
                self._sizes.pop(number, None)
        with contextlib.suppress(OSError):
            for number, path in segments(self._at):
                if number < before:
                    self._disk.unlink(path)

    def end(self) -> None:
        """Remove the segments, none of which holds a record any more."""
        self.close()
        self.forget(sys.maxsize)

    def close(self) -> None:
        """Write to no segment any more; what comes next begins one."""
        self._number = None

    def _write(self, path: Path, data: bytes) -> None:
        descriptor = self._disk.append(path)
        try:
            write_all(descriptor, data, self._disk)
            self._disk.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _begin(self) -> int:
        number = max((number for number, _ in segments(self._at)), default=0) + 1
        path = self._at.journal(number)
        head = {_HEAD: FORMAT, "base": self._base, "before": self._before}
        write_atomic(path, dumps(head) + b"\n", self._disk)
        self._number = number
        return number


@dataclass(slots=True)
class Replay:
    """What the segments say: the last form of each job, None for one that is no more.

    `created` are those that were not in the state file before; `known` says that
    the segments continue the state file that is there.
    """

    known: bool
    changes: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    created: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    size: int = 0

    def apply(self, operation: object) -> bool:
        """Take one operation; false when it is none."""
        match operation:
            case {"new": {"job_id": str(job_id)} as form}:
                self.created.add(job_id)
                self.changes[job_id] = form
            case {"put": {"job_id": str(job_id)} as form}:
                self.changes[job_id] = form
            case {"del": str(job_id)}:
                self.created.discard(job_id)
                self.changes[job_id] = None
            case _:
                return False
        return True


class Segment:
    """A segment as it was read; without a head when that is damaged."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data
        self.head = _head(data)

    @property
    def continues(self) -> tuple[object, ...]:
        """The digests of the state files that it may follow."""
        return () if self.head is None else (self.head.get("base"), self.head.get("before"))


def segments(locations: Locations) -> list[tuple[int, Path]]:
    """Return the numbers and paths of all segments, oldest first."""
    start = locations.journal(0).name[:-1]
    found = (
        (path.name.removeprefix(start), path)
        for path in locations.data.iterdir()
        if path.name.startswith(start)
    )
    return sorted((int(number), path) for number, path in found if _NUMBER.fullmatch(number))


def read_segments(locations: Locations) -> list[Segment]:
    """Read all segments, oldest first.

    Raises:
        ConfigurationError: a newer version wrote one. Nothing was touched.
    """
    found = [Segment(path, _read(path)) for _, path in segments(locations)]
    for one in found:
        if one.head is not None and one.head[_HEAD] > FORMAT:
            raise ConfigurationError(
                "VIDRA_SERVER_DATA",
                f"expected a folder of this version, but a newer one wrote {one.path.name}"
                f" (format {one.head[_HEAD]}, known is {FORMAT})",
            )
    return found


def replay(read: Sequence[Segment], base: str, now_ms: int, disk: Disk = DISK) -> Replay:
    """Return what the segments say that continue the state file `base`; all, if none does.

    Raises:
        ConfigurationError: what is damaged cannot be kept aside.
    """
    continuing = [index for index, one in enumerate(read) if base in one.continues]
    found = Replay(known=not read or bool(continuing))
    first = continuing[0] if continuing else 0
    for index, one in enumerate(read):
        if one.head is None:  # wherever it is: it may continue the same state file
            found.notes.append(_aside(one.path, now_ms))
        elif index < first:
            continue
        elif damaged := _replay_one(one.data, found):
            note = f"{one.path.name}: {damaged} damaged records"
            found.notes.append(f"{note}, a copy is kept as {keep(one, now_ms, disk)}")
    return found


def keep(segment: Segment, now_ms: int, disk: Disk) -> str:
    """Keep a copy of a segment, part of which is not taken over; return its name.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return keep_copy(segment.path, segment.data, "rejected", now_ms, disk).name
    except OSError as error:
        raise _cannot_keep(segment.path, error) from None


def _read(path: Path) -> bytes:
    """Return what is in a segment; nothing when it cannot be read, which is damage."""
    with contextlib.suppress(OSError):
        return read_file(path) or b""
    return b""


def _line(record: bytes) -> bytes:
    return b"%08x %b\n" % (zlib.crc32(record), record)


def _head(data: bytes) -> Mapping[str, Any] | None:
    try:
        head = msgspec.json.decode(data.partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    known = isinstance(head, dict) and isinstance(head.get(_HEAD), int)
    return head if known else None


def _replay_one(data: bytes, found: Replay) -> int:
    """Apply a segment's records; return how many are damaged, a torn end not counted."""
    records = data.partition(b"\n")[2]
    found.size += len(records)
    *lines, _torn = records.split(b"\n")
    return sum(not found.apply(_operation(line)) for line in lines)


def _operation(line: bytes) -> object:
    """Return what a line says; None when it is damaged."""
    checksum, _, record = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(record):
        return None
    try:
        return msgspec.json.decode(record)
    except (ValueError, RecursionError):
        return None


def _aside(path: Path, now_ms: int) -> str:
    try:
        kept = move_aside(path, "corrupt", now_ms)
    except OSError as error:
        raise _cannot_keep(path, error) from None
    return f"{path.name} cannot be read, kept as {kept.name}"


def _cannot_keep(path: Path, error: OSError) -> ConfigurationError:
    why = f"{path.name} is damaged and cannot be kept aside: {error.strerror or error}"
    return ConfigurationError(
        "VIDRA_SERVER_DATA", f"expected a folder that can be written, but {why}"
    )
