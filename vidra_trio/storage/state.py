"""All stored jobs as files: `download_state.json` and one options and one log file per job.

1. Sync, and used by one thread at a time; `jobs.py` sees to both.
2. The state file is what counts. Side files are written before the state file
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
from vidra_trio.storage.reading import read_directory
from vidra_trio.storage.records import dump_job, dump_log
from vidra_trio.storage.salvage import Damage, sound
from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from vidra_trio.storage.files import Disk, Locations
    from vidra_trio.storage.reading import Loaded, StoredJob

ORPHAN_SECONDS: Final = 24 * 3600
"""How long a side file without a job is left alone: somebody may be copying files into place."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the disk holds of one job: its entry, and the version in each side file."""

    record: bytes
    sides: Mapping[Path, object]


class StateFile:
    """The files of all jobs, and what they hold right now."""

    def __init__(self, locations: Locations, disk: Disk = DISK) -> None:
        self._at = locations
        self._options = locations.options
        self._logs = locations.logs
        self._disk = disk
        self._rows: dict[str, _Row] = {}
        self._stale = False  # the file does not say what `_rows` says

    def __len__(self) -> int:
        return len(self._rows)

    def load(self) -> Loaded:
        """Read everything; once, before the first `commit`.

        Raises:
            ConfigurationError: what is damaged could not be kept aside.
        """
        for folder in (self._at.data, self._at.options, self._at.logs):
            sweep(folder)
        loaded = read_directory(self._at, self._disk)
        for stored in loaded.jobs:
            known = stored.job_id not in loaded.again
            sides = {path: key for path, key, _ in self._sides(stored)} if known else {}
            self._rows[stored.job_id] = _Row(_dump_record(stored), sides)
        self._stale = loaded.rewrite or bool(loaded.again)
        # What was kept aside may be repaired by hand, and then needs its side files.
        aside = any(self._at.data.glob(f"{self._at.state.name}.*-*"))
        if loaded.complete and not aside:
            self._remove_orphans()
        return loaded

    def commit(self, changes: Mapping[str, StoredJob | None]) -> None:
        """Make `changes` durable together; None removes a job, perhaps one that is not there.

        Raises:
            OSError: they are not, though some of them may be on disk. Commit them
                again, with what came since.
        """
        rows = dict(self._rows)
        for job_id, stored in changes.items():
            if stored is None:
                rows.pop(job_id, None)
            else:
                rows[job_id] = self._write_sides(stored)
        self._sync_sides(rows, changes)
        if self._stale or any(self._differs(rows, job_id) for job_id in changes):
            body = b",\n".join(row.record for row in rows.values())
            write_atomic(self._at.state, b'{"jobs": [\n' + body + b"\n]}\n", self._disk)
        before, self._rows, self._stale = self._rows, rows, False
        for job_id in changes:
            self._remove_sides(job_id, before.get(job_id))

    def _differs(self, rows: Mapping[str, _Row], job_id: str) -> bool:
        old, new = self._rows.get(job_id), rows.get(job_id)
        return (old and old.record) != (new and new.record)

    # -- side files

    def _sides(self, stored: StoredJob) -> Iterator[tuple[Path, object, Any]]:
        """Yield path, version and content of each side file that the job should have."""
        snapshot, name = stored.snapshot, f"{stored.job_id}.json"
        options = snapshot.spec.options
        if options:
            yield self._options / name, _key(snapshot.options_version, options), options
        if stored.logs:
            yield self._logs / name, _key(snapshot.logs_version, stored.logs), stored.logs

    def _write_sides(self, stored: StoredJob) -> _Row:
        """Write those side files that changed. Not yet durable: see `_sync_sides`."""
        old = self._rows.get(stored.job_id)
        sides = {}
        for path, key, content in self._sides(stored):
            sides[path] = key
            if old is None or old.sides.get(path) != key:
                data = _dump_side(stored, path, content, self._at)
                write_atomic(path, data, self._disk, sync_folder=False)
        return _Row(_dump_record(stored), sides)

    def _sync_sides(
        self, rows: Mapping[str, _Row], changes: Mapping[str, StoredJob | None]
    ) -> None:
        """Make the renames durable: once per folder, however many jobs there are."""
        folders = set()
        for job_id in changes:
            old, new = self._rows.get(job_id), rows.get(job_id)
            for path, key in () if new is None else new.sides.items():
                if old is None or old.sides.get(path) != key:
                    folders.add(path.parent)
        for folder in sorted(folders):
            self._disk.fsync_folder(folder)

    def _remove_sides(self, job_id: str, before: _Row | None) -> None:
        """Remove what no job speaks of any longer; a failure leaves an orphan, no more."""
        row = self._rows.get(job_id)
        if row is None:
            name = f"{job_id}.json"
            gone = {self._at.options / name, self._at.logs / name, self._at.entries / name}
        else:
            gone = set() if before is None else set(before.sides) - set(row.sides)
        for path in gone:
            with contextlib.suppress(OSError):
                self._disk.unlink(path)

    def _remove_orphans(self) -> None:
        limit = time.time() - ORPHAN_SECONDS
        for folder in (self._at.options, self._at.logs):
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


def _dump_record(stored: StoredJob) -> bytes:
    return _dump(dump_job(stored.snapshot, has_logs=bool(stored.logs)))


def _dump_side(stored: StoredJob, path: Path, content: Any, at: Locations) -> bytes:  # noqa: ANN401
    if path.parent == at.options:
        return _dump({"version": stored.snapshot.options_version, "options": dict(content)})
    return _dump({"version": stored.snapshot.logs_version, "logs": dump_log(content)})


def _dump(form: Mapping[str, Any]) -> bytes:
    """Write JSON whatever the values are: one odd job must not stop the others from being saved."""
    try:
        return dumps(form)
    except (TypeError, ValueError, RecursionError):
        return dumps(sound(form, Damage()))
