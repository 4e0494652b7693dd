"""All stored jobs as files: `download_state.json`, its journal, and side files per job.

1. Sync, and used by one thread at a time; `jobs.py` sees to both. (`write` is
   for another one: it takes its time.)
2. State file and journal are what counts. Side files are written before the record
   that speaks of them and removed after the one that no longer does, so a kill
   in between leaves a file too many, never one too few.
3. A side file is written only when its version changed: clients fetch options
   and logs anew when they see a new version.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.job import JOB_ID
from vidra_trio.storage.files import DISK, sweep, write_atomic
from vidra_trio.storage.journal import Journal, delete, digest, put
from vidra_trio.storage.reading import read_directory, read_log
from vidra_trio.storage.records import dump_job, dump_log
from vidra_trio.storage.salvage import Damage, sound
from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vidra_trio.core.job import LogEntry
    from vidra_trio.storage.files import Disk, Locations
    from vidra_trio.storage.reading import Loaded, StoredJob

ORPHAN_SECONDS: Final = 24 * 3600
"""How long a side file without a job is left alone: somebody may be copying files into place."""


JOURNAL_BYTES: Final = 1 << 20
"""How large the journal may be before it is folded into the state file; or as large as that,
so that a change costs, in the long run, twice its bytes and not those of all other jobs."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the disk holds of one job: its form in JSON, and the version in each side file."""

    form: bytes
    options: object = None
    logs: object = None


@dataclass(frozen=True, slots=True)
class Compaction:
    """A state file to be written, and the first segment that continues it."""

    body: bytes
    number: int


class StateFile:
    """The files of all jobs, and what they hold right now."""

    def __init__(self, locations: Locations, disk: Disk = DISK) -> None:
        self._at = locations
        self._disk = disk
        self._rows: dict[str, _Row] = {}
        self._journal = Journal(locations, digest(b""), disk)
        self._size = 0  # of the state file
        self._again: dict[str, StoredJob] = {}  # their side files do not say what was read
        self._unfit = False  # for changes: see `make_fit`
        self._doubtful: set[str] = set()  # a write of them failed, and may be on disk
        self._normal = True  # it says what `_rows` says, and as we would

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bloated(self) -> bool:
        """The journal has become so large that it is to be folded into the state file."""
        return self._journal.size > max(JOURNAL_BYTES, self._size)

    @property
    def fit(self) -> bool:
        """Changes can be written, and the state file folded meanwhile."""
        return not self._unfit

    @property
    def folded(self) -> bool:
        """All that is stored is in the state file, as an older version wants it."""
        return self._normal and self._journal.size == 0

    def load(self) -> Loaded:
        """Read everything; once, before the first `commit`.

        Raises:
            ConfigurationError: a newer version wrote some of it, or what is
                damaged could not be kept aside.
        """
        loaded = read_directory(self._at, self._disk)
        for folder in (self._at.data, self._at.options, self._at.logs, self._at.entries):
            sweep(folder)
        for stored in loaded.jobs:
            self._rows[stored.job_id] = _row(stored)
        body = _body(self._rows)
        self._journal = Journal(self._at, loaded.base, self._disk, loaded.journal)
        nothing = not (loaded.complete or loaded.jobs)
        self._again = {one.job_id: one for one in loaded.jobs if one.job_id in loaded.again}
        self._unfit = loaded.rewrite or bool(self._again)
        self._normal = not self._unfit and (nothing or digest(body) == loaded.base)
        self._size = len(body)
        # What was kept aside may be repaired by hand, and then needs its side files.
        aside = any(self._at.data.glob(f"{self._at.state.stem}.*.*-*"))
        if loaded.complete and not aside:
            self._remove_orphans()
        return loaded

    def commit(self, changes: Mapping[str, StoredJob | None]) -> None:
        """Make `changes` durable together; None removes a job, perhaps one that is not there.

        Raises:
            OSError: they are not, though some of them may be on disk. Commit them
                again, with what came since.
        """
        self.make_fit()
        rows = {job_id: None if job is None else _row(job) for job_id, job in changes.items()}
        self._write_sides(rows, changes)
        if records := list(self._records(rows)):
            self._doubtful.update(rows)
            self._journal.append(records)
            self._doubtful.difference_update(rows)
        for job_id, row in rows.items():
            before = self._rows.pop(job_id, None) if row is None else self._rows.get(job_id)
            if row is not None:
                self._rows[job_id] = row
            self._remove_sides(job_id, before, row)

    def read_log(self, job_id: str) -> tuple[LogEntry, ...]:
        """Return the stored log of a job, oldest line first; may be called from any thread."""
        return read_log(self._at.logs / f"{job_id}.json")

    def make_fit(self) -> None:
        """Write what has to be there before the first change: side files, then the state file.

        Until then the disk says what was found, which is not what the next record would
        continue: options inside the state file, say, or a journal of another one.

        Raises:
            OSError: it is not there; all is as it was.
        """
        if not self._unfit:
            return
        rows: dict[str, _Row | None] = {job_id: _row(job) for job_id, job in self._again.items()}
        for job_id in rows:
            self._rows[job_id] = _Row(self._rows[job_id].form)
        self._write_sides(rows, self._again)
        self.write(self.compact())
        self._rows.update({job_id: _row(job) for job_id, job in self._again.items()})
        self._again, self._unfit = {}, False

    def compact(self) -> Compaction:
        """Begin a new segment, for what comes after the state file that is to be written.

        Raises:
            OSError: there is none; all is as it was.
        """
        body = _body(self._rows)
        return Compaction(body, self._journal.rebase(digest(body)))

    def write(self, compaction: Compaction) -> None:
        """Put a state file in place, and remove the segments before it.

        For another thread than the one that commits, once that finds all `fit`; one at a time.

        Raises:
            OSError: it is not there; state file and journal are as good as before.
        """
        write_atomic(self._at.state, compaction.body, self._disk)
        self._size, self._normal = len(compaction.body), True
        self._journal.forget(compaction.number)

    def close(self) -> None:
        """Leave nothing but the state file, when that tells all; never fails."""
        if self.folded:
            self._journal.end()
        self._journal.close()

    def _records(self, rows: Mapping[str, _Row | None]) -> Iterator[bytes]:
        for job_id, row in rows.items():
            old = self._rows.get(job_id)
            if row is None:  # also of one that is not there: a failed write may have put it there
                yield delete(job_id)
            elif old is None or old.form != row.form or job_id in self._doubtful:
                yield put(row.form, new=old is None)

    # -- side files

    def _write_sides(
        self, rows: Mapping[str, _Row | None], changes: Mapping[str, StoredJob | None]
    ) -> None:
        """Write the side files that changed; durable with one fsync per folder."""
        folders = set()
        for job_id, row in rows.items():
            old, stored = self._rows.get(job_id), changes[job_id]
            if row is None or stored is None:
                continue
            if row.options is not None and (old is None or old.options != row.options):
                self._write_side(self._at.options, stored, _dump_options(stored))
                folders.add(self._at.options)
            if stored.logs and (old is None or old.logs != row.logs):
                self._write_side(self._at.logs, stored, _dump_logs(stored))
                folders.add(self._at.logs)
        for folder in sorted(folders):
            self._disk.fsync_folder(folder)

    def _write_side(self, folder: Path, stored: StoredJob, data: bytes) -> None:
        write_atomic(folder / f"{stored.job_id}.json", data, self._disk, sync_folder=False)

    def _remove_sides(self, job_id: str, before: _Row | None, row: _Row | None) -> None:
        """Remove what no job speaks of any longer; a failure leaves an orphan, no more."""
        gone = set()
        if row is None:
            gone = {self._at.options, self._at.logs, self._at.entries}
        elif before is not None:
            gone |= {self._at.options} if before.options and not row.options else set()
            gone |= {self._at.logs} if before.logs and not row.logs else set()
        for folder in gone:
            with contextlib.suppress(OSError):
                self._disk.unlink(folder / f"{job_id}.json")

    def _remove_orphans(self) -> None:
        limit = time.time() - ORPHAN_SECONDS
        for folder in (self._at.options, self._at.logs, self._at.entries):
            for path in folder.glob("*.json"):
                named_by_us = JOB_ID.fullmatch(path.stem) is not None
                with contextlib.suppress(OSError):
                    if named_by_us and path.stem not in self._rows:
                        _remove_older(path, limit)


def _remove_older(path: Path, limit: float) -> None:
    if path.lstat().st_mtime < limit:
        path.unlink()


def _key(version: int | None, content: object) -> object:
    """Tell one content from another: by version, or (nobody gave one) by itself."""
    return content if version is None else version


def _body(rows: Mapping[str, _Row]) -> bytes:
    return b'{"jobs": [\n' + b",\n".join(row.form for row in rows.values()) + b"\n]}\n"


def _row(stored: StoredJob) -> _Row:
    snapshot = stored.snapshot
    options = snapshot.spec.options
    logs = snapshot.logs_version if stored.logs is None else _logs_key(stored)
    return _Row(
        _dump(dump_job(snapshot, has_logs=logs is not None)),
        _key(snapshot.options_version, options) if options else None,
        logs,
    )


def _logs_key(stored: StoredJob) -> object:
    return _key(stored.snapshot.logs_version, stored.logs) if stored.logs else None


def _dump_options(stored: StoredJob) -> bytes:
    snapshot = stored.snapshot
    return _dump({"version": snapshot.options_version, "options": dict(snapshot.spec.options)})


def _dump_logs(stored: StoredJob) -> bytes:
    logs = stored.logs or ()
    return _dump({"version": stored.snapshot.logs_version, "logs": dump_log(logs)})


def _dump(form: Mapping[str, Any]) -> bytes:
    """Write JSON whatever the values are: one odd job must not stop the others from being saved."""
    try:
        return dumps(form)
    except (TypeError, ValueError, RecursionError):
        return dumps(sound(form, Damage()))
