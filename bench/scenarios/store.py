"""What a durable change costs, and what a long history costs.

Ours is the store as the server uses it, on a real disk, without HTTP. Theirs is what one
writes first, made safe: all jobs in one file, written whole, synced and renamed at each
change. Both save the same jobs in the same folder, in alternating rounds.

The start is a real server's, until it is healthy; the list is asked of it over HTTP.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Final

import httpx
import trio

from bench import machine
from bench.report import Table, percentile
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot
from vidra_trio.core.progress import Progress, completed
from vidra_trio.core.states import JobKind, JobState, Level
from vidra_trio.storage.files import Disk, Locations, hold_data_dir, write_atomic
from vidra_trio.storage.jobs import StoredJob, open_store
from vidra_trio.storage.records import dump_job
from vidra_trio.storage.state import StateFile

if TYPE_CHECKING:
    from collections.abc import Sequence

STORED: Final = (10, 1_000, 10_000)
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN: Final = "bench"  # noqa: S105
HEALTHY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Wishes:
    """How many jobs are stored, and how many changes of each sort are timed a round."""

    stored: Sequence[int] = STORED
    changes: int = 100
    rounds: int = 3


@dataclass(slots=True)
class Costs:
    """Of one way at one number of stored jobs."""

    create_ms: list[float] = field(default_factory=list)
    cancel_ms: list[float] = field(default_factory=list)
    written: int = 0

    COLUMNS: ClassVar = (
        "create p50 ms", "p99", "cancel p50 ms", "p99", "bytes per change",
    )  # fmt: skip

    def facts(self) -> tuple[str, ...]:
        """Return what the columns say."""
        times = [
            f"{percentile(sorted(values), percent):.2f}"
            for values in (self.create_ms, self.cancel_ms)
            for percent in (50, 99)
        ]
        changes = len(self.create_ms) + len(self.cancel_ms)
        return (*times, f"{self.written // changes:,}")


class CountingDisk(Disk):
    """Counts what it writes."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        self.written += count
        return count


class HastyDisk(Disk):
    """Waits for nothing: for the history that nobody times."""

    def fsync(self, descriptor: int) -> None:
        pass


def measure(wishes: Wishes) -> Table:
    """Measure all of it."""
    changes, servers = [], []
    for stored in wishes.stored:
        _say(f"{stored:,} stored jobs: changes")
        with tempfile.TemporaryDirectory(prefix="vidra-bench-") as root:
            at = Locations(Path(root) / "data", Path(root) / "cache")
            fill(at, stored)
            ours, theirs = Costs(), Costs()
            whole = WholeFile(Path(root) / "whole.json", stored)
            for number in range(wishes.rounds):
                trio.run(change, at, wishes.changes, number, ours)
                whole.change(wishes.changes, number, theirs)
            changes.append((stored, ours, theirs))
            _say(f"{stored:,} stored jobs: a server")
            servers.append({"stored": stored, **ask_a_server(at)})
    return _table(changes, servers)


def _table(changes: Sequence[tuple[int, Costs, Costs]], servers: Sequence[dict[str, Any]]) -> Table:
    rows = [
        (f"{stored:,}, {way}", *costs.facts())
        for stored, ours, theirs in changes
        for way, costs in (("journal", ours), ("whole file", theirs))
    ]
    return Table(
        scenario="store",
        method=[
            "What a durable change costs beside so many stored jobs of 2 KB each: ours through",
            "the store as the server uses it, theirs (one file of all jobs) written whole, synced",
            "and renamed, in alternating rounds on the same disk, without HTTP. The notes are of",
            "a real server on such a history, asked over HTTP.",
        ],
        columns=("stored", *Costs.COLUMNS),
        rows=rows,
        notes=[_growth(changes), *map(_of_a_server, servers), *_memory(servers)],
        where=machine.facts(),
        data={
            "changes": [(stored, asdict(ours), asdict(theirs)) for stored, ours, theirs in changes],
            "servers": servers,
        },
    )


def _growth(changes: Sequence[tuple[int, Costs, Costs]]) -> str:
    (few, *first), (many, *last) = changes[0], changes[-1]
    ours, theirs = (
        median(after.create_ms) / median(before.create_ms)
        for before, after in zip(first, last, strict=True)
    )
    return f"create p50 at {many:,} / at {few:,}: {ours:.2f} (whole file {theirs:.1f})"


def _of_a_server(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value:,}" for name, value in facts.items())


def _memory(servers: Sequence[dict[str, Any]]) -> list[str]:
    """Say what a job holds in memory, beside its own JSON in the list."""
    least, most = servers[0], servers[-1]
    more = most["stored"] - least["stored"]
    if more <= 0:
        return []
    held = 1024 * (most["rss KiB"] - least["rss KiB"])
    beside = held - (most["list bytes"] - least["list bytes"])
    return [f"bytes per job in memory beside its JSON in the list: {beside // more:,}"]


def job(number: int, state: JobState = JobState.COMPLETED) -> StoredJob:
    """Return a job of a usual size: 2 KB in the state file."""
    url = f"https://site.example/watch?v={number:011}"
    title = f"A video with a title of some length, part {number}"
    file = f"/home/user/Downloads/{title} [{number:011}].mp4"
    made = EPOCH + timedelta(seconds=number)
    progress = Progress(total_bytes=734003200, downloaded_bytes=734003200, filename=file)
    snapshot = Snapshot(
        job_id=f"{number:08x}-0000-4000-8000-000000000000",
        spec=JobSpec((url,), {"format": "bv*+ba/b", "output": "%(title)s [%(id)s].%(ext)s"}),
        state=JobState.COMPLETED,
        created_at=made,
        kind=JobKind.VIDEO,
        started_at=made,
        finished_at=made + timedelta(minutes=3),
        progress=completed(progress, file, "completed"),
        metadata={"title": title, "description": "What it is about. " * 12, "webpage_url": url},
        preview={
            "title": title,
            "thumbnail_url": f"https://i.site.example/{number}/maxresdefault.jpg",
            "duration_seconds": 1234,
            "duration_text": "20:34",
            "uploader": "Somebody who uploads",
            "thumbnails": [
                {"url": f"https://i.site.example/{number}/{size}.jpg", "width": size}
                for size in (120, 320, 480, 640)
            ],
        },
        destination="/home/user/Downloads",
        finished_items=(0,),
        generated_files=(file,),
        main_file=file,
        options_version=1,
        logs_version=1,
    )
    line = LogEntry(made, Level.INFO, f"finished: {file}")
    return StoredJob(replace(snapshot, state=state), (line,) * 8)


def fill(at: Locations, stored: int) -> None:
    """Store a history."""
    with hold_data_dir(at):
        file = StateFile(at, HastyDisk())
        file.load()
        file.commit({one.job_id: one for one in map(job, range(stored))})
        file.write(file.compact())
        file.close()


async def change(at: Locations, count: int, round_number: int, costs: Costs) -> None:
    """Create and cancel `count` jobs, one after the other, each durable before the next."""
    disk = CountingDisk()
    with hold_data_dir(at):
        async with open_store(at, disk=disk) as store:
            for number in range(count):
                new = job(10_000_000 + round_number * count + number, JobState.QUEUED)
                began = time.perf_counter()
                logs = new.logs or ()
                await store.save(new.snapshot, logs)
                costs.create_ms.append(1000 * (time.perf_counter() - began))
                ended = replace(new.snapshot, state=JobState.CANCELLED, logs_version=2)
                began = time.perf_counter()
                await store.save(ended, logs * 2)
                costs.cancel_ms.append(1000 * (time.perf_counter() - began))
            costs.written += disk.written


class WholeFile:
    """All jobs in one file."""

    def __init__(self, path: Path, stored: int) -> None:
        self._path = path
        self._jobs: dict[str, Any] = {}
        for one in map(job, range(stored)):
            self._jobs[one.job_id] = dump_job(one.snapshot, has_logs=True)

    def change(self, count: int, round_number: int, costs: Costs) -> None:
        """Do the same changes; few of them where each takes long."""
        disk = CountingDisk()
        count = max(10, min(count, 100_000 // len(self._jobs)))
        for number in range(count):
            new = job(10_000_000 + round_number * count + number, JobState.QUEUED)
            for state, times in (
                (JobState.QUEUED, costs.create_ms),
                (JobState.CANCELLED, costs.cancel_ms),
            ):
                snapshot = replace(new.snapshot, state=state)
                began = time.perf_counter()
                self._jobs[new.job_id] = dump_job(snapshot, has_logs=True)
                text = json.dumps({"jobs": list(self._jobs.values())})
                write_atomic(self._path, text.encode(), disk)
                times.append(1000 * (time.perf_counter() - began))
        costs.written += disk.written


def ask_a_server(at: Locations) -> dict[str, Any]:
    """Start a real server on the history; return how long that takes, and the list."""
    environment = {
        **os.environ,
        "VIDRA_SERVER_TOKEN": TOKEN,
        "VIDRA_SERVER_DATA": str(at.data),
        "VIDRA_SERVER_CACHE": str(at.cache),
        "VIDRA_SERVER_PORT": str(_free_port()),
        "VIDRA_SERVER_ENGINE": "thread",  # no workers beside it that warm up meanwhile
    }
    url = f"http://127.0.0.1:{environment['VIDRA_SERVER_PORT']}"
    command = [sys.executable, "-m", "vidra_trio", "serve"]
    began = time.perf_counter()
    server = subprocess.Popen(  # noqa: S603  # our own
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            _wait_healthy(client)
            facts: dict[str, Any] = {"healthy s": round(time.perf_counter() - began, 2)}
            for name in ("first list ms", "next list ms"):
                began = time.perf_counter()
                answer = client.get("/api/jobs", timeout=60).raise_for_status()
                facts[name] = round(1000 * (time.perf_counter() - began))
            facts["list bytes"] = len(answer.content)
            facts["rss KiB"] = _rss(server.pid)
            return facts
    finally:
        server.terminate()
        server.wait(30)


def _wait_healthy(client: httpx.Client) -> None:
    deadline = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < deadline:
        try:
            client.get("/")
        except httpx.TransportError:
            time.sleep(0.01)
        else:
            return
    raise TimeoutError("the server is not healthy")


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
