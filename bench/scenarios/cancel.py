"""How long it takes from "stop" until a download has really stopped (`bench.watch`).

The engines take turns, run by run; the peers come afterwards, some at a time. What
is stopped, and where in its work, is in `bench.phases`.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from bench import machine
from bench.attempts import EngineWay, PeerWay
from bench.extractors import registered
from bench.media import make_media, make_stubborn_ffmpeg
from bench.phases import phases
from bench.processes import downloading_threads
from bench.report import Table, dump_fault, percentile
from bench.site import open_site
from bench.watch import Place, stop_once
from vidra_trio.engine.process import open_process_engine
from vidra_trio.engine.thread import open_thread_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from bench.attempts import Command, Way
    from bench.phases import Phase
    from bench.watch import Sample

ENGINES: Final = ("process", "thread")
PEERS: Final = ("naive", "cold")
WORKER: Final = (sys.executable, "-P", "-m", "bench.worker")

CAP: Final = 20.0
"""Seconds after which something counts as never stopping."""

FEW: Final = 2
MANY: Final = 16
"""Peers at a time: of those that stop in milliseconds, and of those that wait for seconds."""

LONG: Final = 5000.0
"""Milliseconds from which on one run of a peer is enough."""

MEDIAN: Final = 50.0
SLOW_MEDIAN: Final = 150.0
WORST: Final = 500.0
"""Milliseconds that were promised: the median, that of eight slow segments at a time, any run."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How much is measured."""

    runs: int = 20
    peer_runs: int = 3
    only: Sequence[str] = ()
    """Parts of names of phases; none means all."""
    ways: Sequence[str] = (*ENGINES, *PEERS)
    command: Command = "cancel"
    cap: float = CAP

    def choose(self, known: Iterable[Phase]) -> list[Phase]:
        """Return the phases that are wanted."""
        return [x for x in known if not self.only or any(part in x.name for part in self.only)]


@dataclass
class Cell:
    """All runs of one phase, stopped in one way."""

    phase: Phase
    way: str
    cap: float
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Runs that could not be measured, and why."""

    async def add(self, way: Way, place: Place) -> None:
        """Measure one run; what goes wrong costs that run only."""
        try:
            self.samples.append(await stop_once(way, self.phase, place))
        except* Exception as errors:  # noqa: BLE001  # a bench's boundary
            self.faults.append(dump_fault(errors))

    @property
    def times(self) -> list[float]:
        """Milliseconds of all runs that stopped, the shortest first."""
        return sorted(one.stopped for one in self.samples if one.stopped is not None)

    def dump(self) -> str:
        """Return `p50 / p99 / max`, or `p50 / max` of a few; of what never ends, that."""
        times = self.times
        if not times:
            return f"> {self.cap:g} s" if self.samples else "failed" if self.faults else ""
        percents = (50, 99, 100) if len(times) > 5 else (50, 100)
        words = " / ".join(_short(percentile(times, percent)) for percent in percents)
        never = len(self.samples) - len(times)
        return f"{words}; {never} x > {self.cap:g} s" if never else words

    def notes(self) -> list[str]:
        """Say what the numbers do not."""
        said = []
        if given_up := sum(one.given_up for one in self.samples):
            said.append(f"{given_up} of {len(self.samples)} threads given up")
        if left := sorted({what for one in self.samples for what in one.left}):
            said.append(f"left after {self.cap:g} s: {', '.join(left)}")
        if late := sum(one.late_requests for one in self.samples):
            often = f" in {late} of {len(self.samples)} runs" if self.way in ENGINES else ""
            said.append(f"requests after the stop{often}")
        if self.way in ENGINES and self.times and not self._kept_promises():
            said.append(f"slowest: {self._explain_slowest()}")
        if self.faults:
            said.append(f"not measured, {len(self.faults)} runs: {self.faults[0]}")
        return said

    def _kept_promises(self) -> bool:
        median = SLOW_MEDIAN if self.phase.slow else MEDIAN
        return self.phase.native or (
            statistics.median(self.times) <= median and self.times[-1] <= WORST
        )

    def _explain_slowest(self) -> str:
        slowest = max((one for one in self.samples if not one.left), key=lambda x: x.stopped or 0.0)
        parts = ", ".join(f"{part} {_short(ms)}" for part, ms in slowest.moments.items())
        return f"{parts}; our own thread waited {_short(slowest.waited)} of it for a core"


def measure(wishes: Wishes | None = None) -> Table:
    """Stop downloads in every phase, in every way."""
    wishes = wishes or Wishes()
    folder = Path(tempfile.mkdtemp(prefix="vidra-bench-"))
    before = machine.load()
    try:
        cells = trio.run(_measure, wishes, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _table(wishes, cells, {"load": f"load {before} before, {machine.load()} after"})


async def _measure(wishes: Wishes, folder: Path) -> list[Cell]:
    media = folder / "media"
    media.mkdir()
    stubborn = await trio.to_thread.run_sync(make_stubborn_ffmpeg, folder)
    chosen = wishes.choose(phases(stubborn))
    if any(phase.converting for phase in chosen):
        await trio.to_thread.run_sync(make_media, media)
    async with open_site(media) as site:
        place = Place(site, folder, wishes.cap)
        cells = await _measure_engines(wishes, chosen, place)
        return cells + await _measure_peers(wishes, chosen, place)


async def _measure_engines(wishes: Wishes, chosen: Sequence[Phase], place: Place) -> list[Cell]:
    cells = []
    async with _open_engines(wishes, place.folder) as ways:
        for phase in chosen:
            row = [Cell(phase, way.name, wishes.cap) for way in ways]
            for _ in range(wishes.runs):
                for way, cell in zip(ways, row, strict=True):
                    await cell.add(way, place)
            cells += row
            _tell(row)
    return cells


@asynccontextmanager
async def _open_engines(wishes: Wishes, folder: Path) -> AsyncIterator[list[Way]]:
    async with AsyncExitStack() as stack:
        stack.enter_context(registered())
        opening = open_process_engine(cache=folder / "processes", size=2, command=WORKER)
        processes = await stack.enter_async_context(opening)
        threads = await stack.enter_async_context(
            open_thread_engine(cache=folder / "threads", size=2)
        )

        def workers() -> set[int]:
            return {worker.pid for worker in processes.pool.workers}

        ways: list[Way] = [
            EngineWay("process", processes, wishes.command, workers),
            EngineWay("thread", threads, wishes.command, workers),
        ]
        await trio.sleep(0.2)  # the engine begins to prepare itself, in a thread
        while downloading_threads():  # noqa: ASYNC110  # nobody is told when that is over
            await trio.sleep(0.05)
        yield [way for way in ways if way.name in wishes.ways]


async def _measure_peers(wishes: Wishes, chosen: Sequence[Phase], place: Place) -> list[Cell]:
    """Measure the quick ones before those that wait, and last what keeps the machine busy."""
    cells = [Cell(x, way, wishes.cap) for way in PEERS if way in wishes.ways for x in chosen]

    async def fill(cell: Cell, limit: trio.CapacityLimiter) -> None:
        async with limit:
            for _ in range(wishes.peer_runs):
                await cell.add(PeerWay(cell.way), place)
                if cell.faults or not cell.times or cell.times[-1] > LONG:
                    break  # it does so every time
            _tell([cell])

    for stage, at_once in ((0, FEW), (1, MANY), (2, MANY)):
        async with trio.open_nursery() as nursery:
            limit = trio.CapacityLimiter(at_once)
            for cell in cells:
                if _stage(cell) == stage:
                    nursery.start_soon(fill, cell, limit)
    return cells


def _stage(cell: Cell) -> int:
    if cell.phase.converting or "cpu" in cell.phase.path:
        return 2
    return 0 if cell.way == "cold" or "rate" in cell.phase.query else 1


def _table(wishes: Wishes, cells: Sequence[Cell], load: dict[str, str]) -> Table:
    names = list(dict.fromkeys(cell.phase.name for cell in cells))
    found = {(cell.phase.name, cell.way): cell for cell in cells}
    ways = [way for way in (*ENGINES, *PEERS) if way in wishes.ways]
    return Table(
        scenario=wishes.command,
        method=_method(wishes),
        columns=["phase", *ways],
        rows=[[name, *(found[name, way].dump() for way in ways)] for name in names],
        notes=_notes(cells),
        where={**machine.facts(), **load},
        data=[
            {
                "phase": cell.phase.name,
                "way": cell.way,
                "samples": [asdict(one) | {"stopped": one.stopped} for one in cell.samples],
                "faults": cell.faults,
            }
            for cell in cells
        ],
    )


def _notes(cells: Iterable[Cell]) -> list[str]:
    """Return what is to be said, each thing once, with all phases that it holds for."""
    phases_of: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for note in cell.notes():
            phases_of.setdefault((cell.way, note), []).append(cell.phase.name)
    return [f"{way}: {note} ({'; '.join(names)})" for (way, note), names in phases_of.items()]


def _method(wishes: Wishes) -> list[str]:
    return [
        f"Milliseconds from the request to {wishes.command} until the download has really stopped: "
        "the engine's block is left, the origin has seen all its connections closed, no process of "
        "it is left, no thread is in yt-dlp.",
        f"p50 / p99 / max of {wishes.runs} runs (with fewer than 100, p99 is the maximum); peers: "
        f"p50 / max of {wishes.peer_runs}, of one if that took more than 5 s.",
        "naive: a thread and a hook that raises. cold: a process per download, ended by SIGTERM.",
    ]


def _tell(cells: Sequence[Cell]) -> None:
    for cell in cells:
        print(f"{cell.phase.name:30} {cell.way:8} {cell.dump()}", file=sys.stderr)
        for note in cell.notes():
            print(f"    {note}", file=sys.stderr)
    sys.stderr.flush()


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:.0f}"
