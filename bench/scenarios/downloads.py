"""What many downloads at a time cost: ours beside as many `python -m yt_dlp`.

One round is: `jobs` downloads of one size each begin at once, and the clock runs
until the last file lies at its destination. Then every file is compared with what
the origin served, before the round counts.

1. The origin is a process of its own and sends from memory; its CPU is nobody's.
   Files go to memory (/dev/shm) where there is one: the disk is not measured.
2. CPU is ours (the process that holds the Trio loop and, in the thread engine, the
   downloads), the workers', and that of every child that ended meanwhile.
3. Engines are warm: each worker has run something. The command line has no such state.
4. Ticks: a task that wants to run every 5 ms, in the loop of the process that
   holds the jobs. How late it comes is what everybody else there would feel.
5. One job has a larger file, or its start would be all that is measured. How fast
   its bytes flowed once they did is told apart, by the origin's clock.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import trio

from bench import machine
from bench.origin import MEGABYTE, noise
from bench.processes import cpu_seconds
from bench.report import Table, dump_fault, percentile
from bench.site import open_site
from vidra_trio.core.report import Finished
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import open_process_engine
from vidra_trio.engine.thread import open_thread_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.site import Site
    from vidra_trio.engine.base import Engine
    from vidra_trio.engine.process import ProcessEngine

PERIOD: Final = 0.005
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # it is looked at, and a private folder made there


@dataclass(frozen=True, slots=True)
class Load:
    """So many downloads at a time, of so many bytes each, so often."""

    jobs: int
    size: int
    rounds: int


LOADS: Final = (
    Load(jobs=1, size=400_000_000, rounds=7),
    Load(jobs=4, size=20_000_000, rounds=5),
    Load(jobs=16, size=20_000_000, rounds=5),
    Load(jobs=64, size=20_000_000, rounds=2),
)
WAYS: Final = ("process", "thread", "cli")
COLUMNS: Final = (
    "load",
    "way",
    "MB/s",
    "CPU-s per 100 MB",
    "MB/s, x CLI",
    "MB per CPU-s, x CLI",
    "tick p99, ms",
    "MB/s while it flows",
)
METHOD: Final = (
    "All jobs of a round begin at once; MB/s until the last file lies at its destination, start "
    "and all. CPU of our process, of the workers and of all children. Every file was compared.",
    "Medians of the rounds, in which the ways took turns; ratios round by round (min - max).",
    "process, thread: warm engines. cli: a `python -m yt_dlp` for each job.",
    "tick: how late a task comes that wants to run every 5 ms. While it flows: by the origin's "
    "clock, from the first to the last byte of a file.",
)


@dataclass
class Round:
    """What one round came to."""

    seconds: float
    cpu: float
    ticks: list[float]
    """Milliseconds by which the loop was late, each time it should have run."""
    flow: float
    """MB/s of a file while its bytes flowed, by the origin's clock (the median file)."""
    size: int

    @property
    def speed(self) -> float:
        """MB/s from the first request to the last file."""
        return self.size / 1e6 / self.seconds

    @property
    def cost(self) -> float:
        """CPU seconds per 100 MB."""
        return self.cpu / (self.size / 1e8)


@dataclass
class Cell:
    """All rounds of one way under one load."""

    load: Load
    way: str
    rounds: list[Round] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def median(self, name: str) -> float:
        value: float = statistics.median(getattr(one, name) for one in self.rounds)
        return value

    @property
    def tick(self) -> float:
        """The p99 of the loop's delays, in all rounds together."""
        return percentile(sorted(late for one in self.rounds for late in one.ticks), 99)


class Way(Protocol):
    """One way of downloading."""

    @property
    def name(self) -> str: ...

    async def fetch(self, url: str, folder: Path, number: int) -> Path:
        """Download one file; return where it lies."""

    def pids(self) -> list[int]:
        """Return its processes that outlive a download."""


@dataclass(frozen=True, slots=True)
class EngineWay:
    """One of our engines."""

    name: str
    engine: Engine
    pool: ProcessEngine | None = None

    async def fetch(self, url: str, folder: Path, number: int) -> Path:
        spec = RunSpec(
            job_id=str(number),
            url=url,
            destination=folder,
            work=folder / f".vidra-{number}",
            template=f"{number}.%(ext)s",
            params={"fixup": "never"},
        )
        async with self.engine.open(spec) as run:
            async for report in run:
                last = report
        if not isinstance(last, Finished) or last.main is None:
            raise RuntimeError(str(last))
        return Path(last.main)

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.pool.pool.workers] if self.pool else []


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A `python -m yt_dlp` for each file: as it comes, but for its owner's configuration."""

    name: str = "cli"

    async def fetch(self, url: str, folder: Path, number: int) -> Path:
        target = folder / f"{number}.mp4"
        await trio.run_process(
            [sys.executable, "-m", "yt_dlp", "--ignore-config", "--fixup", "never",
             "--output", str(target), url],
            stdout=subprocess.DEVNULL,
            capture_stderr=True,
        )  # fmt: skip
        return target

    def pids(self) -> list[int]:
        return []


async def run_round(way: Way, load: Load, site: Site, folder: Path) -> Round:
    """Download, and check what came.

    Raises:
        RuntimeError: a file is not what the origin served.
    """
    token = f"t{random.randrange(1 << 48):012x}"  # noqa: S311  # no secret
    url = site.url(token, f"file/{load.size}/it.mp4")
    target = folder / token
    target.mkdir()
    try:
        ticks: list[float] = []
        pids = way.pids()
        cpu, began = _cpu(pids), time.monotonic()
        async with trio.open_nursery() as ticking:
            ticking.start_soon(_tick, ticks)
            files = await _fetch(way, load, url, target)
            seconds = time.monotonic() - began
            ticking.cancel_scope.cancel()
        spent = _cpu(pids) - cpu
        if sorted(pids) != sorted(way.pids()):
            raise RuntimeError("workers came or went: their CPU time is not known")
        await trio.to_thread.run_sync(_check, files, load)
        visit = await site.visit(token)
        whole = [one for one in visit.sendings if one.sent == load.size]
        flow = statistics.median(one.sent / 1e6 / (one.ended - one.began) for one in whole)
        return Round(seconds, spent, ticks or [0.0], flow, load.jobs * load.size)
    finally:
        await trio.to_thread.run_sync(partial(shutil.rmtree, target, ignore_errors=True))


async def _fetch(way: Way, load: Load, url: str, folder: Path) -> list[Path]:
    files: list[Path] = []

    async def fetch(number: int) -> None:
        files.append(await way.fetch(url, folder, number))

    async with trio.open_nursery() as nursery:
        for number in range(load.jobs):
            nursery.start_soon(fetch, number)
    return files


async def _tick(late: list[float]) -> None:
    due = trio.current_time()
    while True:
        due = max(due + PERIOD, trio.current_time())
        await trio.sleep_until(due)
        late.append(1000 * (trio.current_time() - due))


def _cpu(pids: Sequence[int]) -> float:
    """Return the CPU seconds of this process, of some, and of all children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + cpu_seconds(pids) + ended.ru_utime + ended.ru_stime


def _check(files: Sequence[Path], load: Load) -> None:
    right = hashlib.sha256()
    for index in range(-(-load.size // MEGABYTE)):
        right.update(noise(index)[: load.size - index * MEGABYTE])
    for file in files:
        with file.open("rb") as one:
            if hashlib.file_digest(one, "sha256").digest() != right.digest():
                raise RuntimeError(f"{file.name} is not what was sent")
    if len(set(files)) != load.jobs:
        raise RuntimeError(f"{len(set(files))} files, not {load.jobs}")


@dataclass(frozen=True, slots=True)
class Wishes:
    """How much is measured."""

    loads: Sequence[Load] = LOADS
    ways: Sequence[str] = WAYS


def measure(wishes: Wishes | None = None) -> Table:
    """Let all ways take turns under each load."""
    wishes = wishes or Wishes()
    base = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="vidra-bench-", dir=base))
    before = machine.load()
    try:
        cells = trio.run(_measure, wishes, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    where = f"files in {folder.parent}"
    return _table(cells, {"load": f"load {before} before, {machine.load()} after", "files": where})


async def _measure(wishes: Wishes, folder: Path) -> list[Cell]:
    cells = []
    async with open_site() as site:
        for load in wishes.loads:
            row = [Cell(load, way) for way in WAYS if way in wishes.ways]
            async with _open_ways(row, site, folder) as ways:
                for _ in range(load.rounds):
                    for cell, way in zip(row, ways, strict=True):
                        await _add(cell, way, site, folder)
            cells += row
    return cells


async def _add(cell: Cell, way: Way, site: Site, folder: Path) -> None:
    try:
        one = await run_round(way, cell.load, site, folder)
    except* Exception as errors:  # noqa: BLE001  # a bench's boundary: this round is lost, no other
        cell.faults.append(dump_fault(errors))
        words = cell.faults[-1]
    else:
        cell.rounds.append(one)
        words = f"{one.speed:.0f} MB/s, {one.cost:.2f} CPU-s per 100 MB"
    print(f"{cell.load.jobs:3} jobs {cell.way:8} {words}", file=sys.stderr, flush=True)


async def _warm_up(way: Way, load: Load, site: Site, folder: Path) -> None:
    """Have every worker run something, all at once, so that each of them has to exist."""
    with tempfile.TemporaryDirectory(dir=folder) as target:
        await _fetch(way, load, site.url("warm-up", "file/100000/it.mp4"), Path(target))


@asynccontextmanager
async def _open_ways(row: Sequence[Cell], site: Site, folder: Path) -> AsyncIterator[list[Way]]:
    ways: list[Way] = []
    async with AsyncExitStack() as stack:
        for cell in row:
            if cell.way == "process":
                process = await stack.enter_async_context(
                    open_process_engine(cache=folder / "cache", size=cell.load.jobs)
                )
                ways.append(EngineWay(cell.way, process, process))
            elif cell.way == "thread":
                thread = await stack.enter_async_context(
                    open_thread_engine(cache=folder / "cache", size=cell.load.jobs)
                )
                ways.append(EngineWay(cell.way, thread))
            else:
                ways.append(CommandLine())
        for cell, way in zip(row, ways, strict=True):
            if cell.way != "cli":
                await _warm_up(way, cell.load, site, folder)
        yield ways


def _table(cells: Sequence[Cell], where: dict[str, str]) -> Table:
    peers = {cell.load: cell for cell in cells if cell.way == "cli"}
    return Table(
        scenario="downloads",
        method=METHOD,
        columns=COLUMNS,
        rows=[_row(cell, peers.get(cell.load)) for cell in cells],
        notes=[
            f"{cell.load.jobs} jobs, {cell.way}: not measured, {len(cell.faults)} rounds: {fault}"
            for cell in cells
            for fault in cell.faults[:1]
        ],
        where={**machine.facts(), **where},
        data=[
            {
                "load": asdict(cell.load),
                "way": cell.way,
                "rounds": [_dump(one) for one in cell.rounds],
                "faults": cell.faults,
            }
            for cell in cells
        ],
    )


def _row(cell: Cell, peer: Cell | None) -> list[str]:
    load = f"{cell.load.jobs} x {cell.load.size / 1e6:g} MB"
    if not cell.rounds:
        return [load, cell.way, *["-"] * (len(COLUMNS) - 2)]
    columns = [f"{cell.median('speed'):.0f}", f"{cell.median('cost'):.2f}"]
    for name, inverse in (("speed", False), ("cost", True)):
        columns.append(_ratio(cell, peer, name, inverse=inverse) if peer else "-")
    flow = f"{cell.median('flow'):.0f}"
    return [load, cell.way, *columns, f"{cell.tick:.1f}", flow]


def _ratio(cell: Cell, peer: Cell, name: str, *, inverse: bool) -> str:
    """Return ours to theirs, round by round: the median and the range."""
    pairs = zip(cell.rounds, peer.rounds, strict=False)
    ratios = [getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs]
    if inverse:
        ratios = [1 / one for one in ratios]
    if cell is peer or not ratios:
        return "1"
    return f"{statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f})"


def _dump(one: Round) -> dict[str, float]:
    ticks = sorted(one.ticks)
    return {
        "seconds": one.seconds,
        "speed": one.speed,
        "cpu": one.cpu,
        "cost": one.cost,
        "tick_p99": percentile(ticks, 99),
        "tick_max": ticks[-1],
        "flow": one.flow,
    }
