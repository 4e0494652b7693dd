"""Reading a data directory that anybody may have written, or a crash have hit.

1. One bad value costs itself, one bad entry itself, one bad file itself; the
   rest is restored.
2. Nothing that could not be read is ever written over: the file is moved to
   `<name>.corrupt-<ms>`, or (when only parts of the state file are bad) a copy
   of it is kept as `download_state.json.rejected-<ms>`. If that fails too, the
   server does not start.
3. Options or logs that an older version kept inside the state file count when
   there is no side file with any.
4. The logs of jobs to which nothing will happen by itself are not read: nobody may
   ever ask for them (`read_log`), and there may be thousands.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.job import LogEntry, Snapshot, next_version
from vidra_trio.core.states import Level
from vidra_trio.storage.files import keep_copy, move_aside, read_file
from vidra_trio.storage.journal import digest, keep, read_segments, replay
from vidra_trio.storage.records import RejectedEntry, parse_job, parse_log, parse_version
from vidra_trio.storage.salvage import Damage, parse, sound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vidra_trio.storage.files import Disk, Locations
    from vidra_trio.storage.journal import Replay, Segment

    _Changes = Mapping[str, dict[str, Any] | None]


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job and its log, as they are on disk or shall be; None: the log is what is there."""

    snapshot: Snapshot
    logs: tuple[LogEntry, ...] | None = ()

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.snapshot.job_id


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a directory held.

    `again` are the jobs whose files do not say what was understood and `rewrite`
    says that the state file does not; `complete`, that there was one to be read.
    `base` is the state file's digest, `journal` the bytes that were replayed on it.
    """

    jobs: tuple[StoredJob, ...]
    notes: tuple[str, ...]
    again: frozenset[str]
    base: str
    journal: int
    rewrite: bool
    complete: bool


def read_directory(locations: Locations, disk: Disk) -> Loaded:
    """Read all jobs, in the order of the file.

    Raises:
        ConfigurationError: what is damaged could not be kept aside.
    """
    return _Reader(locations, disk).read()


def read_log(path: Path) -> tuple[LogEntry, ...]:
    """Return the log in a side file; one that cannot be read is none, and kept aside."""
    try:
        data = read_file(path)
        side, clean = parse(data) if data is not None else (None, True)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            kept = move_aside(path, "corrupt", time.time_ns() // 1_000_000)
            _log.warning("%s cannot be read (%s), kept as %s", path.name, ascii(error), kept.name)
        return ()
    form = side if clean else sound(side, Damage())
    return parse_log(form.get("logs")) if isinstance(form, dict) else ()


class _Reader:
    """One reading: what was found so far."""

    def __init__(self, locations: Locations, disk: Disk) -> None:
        self._at = locations
        self._state = locations.state
        self._options = locations.options
        self._logs = locations.logs
        self._disk = disk
        self._now = datetime.now(UTC)
        self._now_ms = int(self._now.timestamp() * 1000)
        self._jobs: dict[str, StoredJob] = {}
        self._again: set[str] = set()
        self._notes: list[str] = []
        self._lost = 0  # entries
        self._damage = 0  # values

    def read(self) -> Loaded:
        """Read everything and keep aside what was not understood."""
        path = self._state
        segments = read_segments(self._at)  # nothing is touched if a newer version wrote one
        data, content, clean = self._read_json(path)
        entries = _entries(content)
        if data is not None and entries is None:
            self._set_aside(path, "no list of jobs")
        base = digest(data if data is not None and entries is not None else b"")
        journal = replay(segments, base, self._now_ms, self._disk)
        self._notes.extend(journal.notes)
        changes: _Changes = journal.changes
        foreign = not journal.known and bool(changes) and entries is not None
        if foreign:
            changes = self._of_another(segments, journal)
        self._take_all(entries or (), clean, changes)
        if data is not None and (self._lost or self._damage):
            self._keep_copy(path, data)
        return Loaded(
            jobs=tuple(self._jobs.values()),
            notes=tuple(self._notes),
            again=frozenset(self._again),
            base=base,
            journal=journal.size,
            rewrite=self._lost > 0 or (not journal.known and bool(changes)),
            complete=entries is not None,
        )

    def _of_another(self, segments: list[Segment], journal: Replay) -> _Changes:
        """Return what still counts of a journal whose state file somebody replaced.

        An older version that ran after a crash knows better how its jobs stand; it
        never knew of those that were created since, nor that others were deleted.
        """
        kept = [keep(one, self._now_ms, self._disk) for one in segments if one.path.exists()]
        names = ", ".join(kept)
        self._notes.append(f"{self._state.name} is not what the journal continues: kept as {names}")
        return {
            job_id: form
            for job_id, form in journal.changes.items()
            if form is None or job_id in journal.created
        }

    def _take_all(self, entries: Sequence[object], clean: bool, changes: _Changes) -> None:
        """Take the state file's entries, each as the journal says it is now, and those it adds."""
        waiting = dict(changes)
        for entry in entries:
            job_id = _id_of(entry)
            if job_id not in changes:
                self._take(entry, clean)
            elif (form := waiting.pop(job_id, None)) is not None:
                self._take(form, clean=True)
        for form in filter(None, waiting.values()):
            self._take(form, clean=True)

    # -- jobs

    def _take(self, entry: object, clean: bool) -> None:
        damage = Damage()
        form: Any = entry if clean else sound(entry, damage)
        try:
            snapshot = _parse_entry(form, self._now)
        except RejectedEntry as error:
            self._lost += 1
            self._notes.append(f"{self._state.name}: {error}")
            return
        job_id = snapshot.job_id
        if job_id in self._jobs:
            self._lost += 1
            self._notes.append(f"job {job_id}: stored twice, the last one counts")
        if damage.values:
            self._damage += damage.values
            self._again.add(job_id)
            self._notes.append(f"job {job_id}: {damage.values} damaged values were left out")
        self._jobs[job_id] = self._with_sides(snapshot, form)

    def _with_sides(self, snapshot: Snapshot, form: dict[str, Any]) -> StoredJob:
        job_id, notes = snapshot.job_id, len(self._notes)
        options, options_version = self._side(self._options, "options", snapshot, form)
        options = options if isinstance(options, dict) else {}
        options_version = options_version if options else None
        asked = replace(
            snapshot,
            spec=replace(snapshot.spec, options=options),
            options_version=options_version,
        )
        if not (form.get("logs") or _unfinished(snapshot) or len(self._notes) > notes):
            return StoredJob(asked, None)
        lines, logs_version = self._side(self._logs, "logs", snapshot, form)
        logs = parse_log(lines)
        for note in self._notes[notes:]:
            # Whoever retries a job whose options are lost must be able to see why it differs.
            logs = (*logs, LogEntry(self._now, Level.WARNING, note))
            logs_version = next_version(self._now_ms, logs_version)
            self._again.add(job_id)
        return StoredJob(replace(asked, logs_version=logs_version if logs else None), logs)

    def _side(
        self, folder: Path, member: str, snapshot: Snapshot, form: dict[str, Any]
    ) -> tuple[object, int | None]:
        """Return what a side file holds, or what stands in the state file instead of one."""
        known = snapshot.options_version if member == "options" else snapshot.logs_version
        path = folder / f"{snapshot.job_id}.json"
        data, side, clean = self._read_json(path)
        if data is not None and not clean:
            side = sound(side, Damage())
            self._keep_copy(path, data)
            self._again.add(snapshot.job_id)
        if isinstance(side, dict) and side.get(member):
            version = parse_version(side.get("version"))
            return side[member], known if version is None else version
        if form.get(member):
            self._again.add(snapshot.job_id)
            return form[member], next_version(self._now_ms, known)
        return None, None

    # -- files

    def _read_json(self, path: Path) -> tuple[bytes | None, Any, bool]:
        """Return a file's bytes, what they say, and whether that is sound; None for no file."""
        try:
            data = read_file(path)
            return (None, None, True) if data is None else (data, *parse(data))
        except (OSError, ValueError) as error:
            self._set_aside(path, str(error))
            return None, None, True

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            aside = move_aside(path, "corrupt", self._now_ms)
        except OSError as error:
            raise _cannot_keep(path, error) from None
        self._notes.append(f"{path.name} cannot be read ({ascii(why)[:120]}), kept as {aside.name}")

    def _keep_copy(self, path: Path, data: bytes) -> None:
        try:
            aside = keep_copy(path, data, "rejected", self._now_ms, self._disk)
        except OSError as error:
            raise _cannot_keep(path, error) from None
        self._notes.append(f"{path.name} is damaged in parts, a copy is kept as {aside.name}")


def _cannot_keep(path: Path, error: OSError) -> ConfigurationError:
    why = f"{path.name} is damaged and cannot be kept aside: {error.strerror or error}"
    return ConfigurationError(
        "VIDRA_SERVER_DATA", f"expected a folder that can be written, but {why}"
    )


def _entries(content: object) -> list[Any] | None:
    """Return the jobs of a state file: under `jobs`, or (older) the bare list."""
    jobs = content.get("jobs") if isinstance(content, dict) else content
    return jobs if isinstance(jobs, list) else None


def _unfinished(snapshot: Snapshot) -> bool:
    """Return whether a start will have something to say about a job; see `core.restore`."""
    return snapshot.alive or (snapshot.terminal and snapshot.finished_at is None)


def _id_of(entry: object) -> str:
    """Return the id in an entry; of one without any, what is nobody's."""
    found = entry.get("job_id") if isinstance(entry, dict) else None
    return found.strip() if isinstance(found, str) else ""


def _parse_entry(form: object, now: datetime) -> Snapshot:
    if not isinstance(form, dict):
        raise RejectedEntry("an entry is no object")
    return parse_job(form, now)
