"""Jobs and directories for the tests of the store."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vidra_trio.core.job import JobSpec, LogEntry, Snapshot
from vidra_trio.core.states import JobState, Level
from vidra_trio.storage.files import DISK, Disk, Locations, hold_data_dir
from vidra_trio.storage.jobs import JobStore, open_store
from vidra_trio.storage.journal import digest, read_segments, replay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def job(job_id: str = "j", **changes: Any) -> Snapshot:  # noqa: ANN401 - as dataclasses.replace
    """Return a queued job with options; `changes` are fields of Snapshot, or `options`."""
    options = changes.pop("options", {"format": "best", "password": "s3cret"})
    snapshot = Snapshot(
        job_id=job_id,
        spec=JobSpec(("http://site.example/watch",), options),
        state=JobState.QUEUED,
        created_at=NOW,
        options_version=1 if options else None,
        logs_version=1,
    )
    return replace(snapshot, **changes)


def lines(*messages: str) -> tuple[LogEntry, ...]:
    """Return log lines."""
    return tuple(LogEntry(NOW, Level.INFO, message) for message in messages)


@asynccontextmanager
async def opened(at: Locations, disk: Disk = DISK) -> AsyncIterator[JobStore]:
    """Hold the directory and open its store, as a server does."""
    with hold_data_dir(at):
        async with open_store(at, disk=disk) as store:
            yield store


async def ids(at: Locations) -> list[str]:
    """Return what a server that starts now would find."""
    async with opened(at) as store:
        return [stored.job_id for stored in store.restored]


def state(at: Locations) -> list[dict[str, Any]]:
    """Return the jobs that state file and journal hold; both must be whole."""
    data = _data(at)
    jobs = {form["job_id"]: form for form in json.loads(data)["jobs"]} if data else {}
    journal = replay(read_segments(at), digest(data), 0)
    assert (journal.known, journal.notes) == (True, [])
    jobs |= journal.changes
    return [form for form in jobs.values() if form is not None]


def folded(at: Locations) -> bool:
    """Return whether the state file tells all, as an older server needs it."""
    return not replay(read_segments(at), digest(_data(at)), 0).size


def _data(at: Locations) -> bytes:
    return at.state.read_bytes() if at.state.exists() else b""


def put(at: Locations, content: object, **sides: Mapping[str, object]) -> None:
    """Write a state file, and side files by folder name and job id, like an older server."""
    for folder in at.folders:
        folder.mkdir(parents=True, exist_ok=True)
    at.state.write_text(content if isinstance(content, str) else json.dumps(content))
    for folder_name, by_id in sides.items():
        for job_id, side in by_id.items():
            text = side if isinstance(side, str) else json.dumps(side)
            (at.data / folder_name / f"{job_id}.json").write_text(text)
