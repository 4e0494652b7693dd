"""The two engines under test, and one item in either of them."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.support.process import alive, descendants
from vidra_trio.core.report import Finished
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import ProcessEngine, open_process_engine
from vidra_trio.engine.thread import ThreadEngine, open_thread_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.support.origin import Origin
    from vidra_trio.core.report import Report

PATIENCE = 60
"""A liveness bound on a busy machine; speed is not judged here."""

OPENERS: Mapping[str, Callable[..., Any]] = {
    "process": open_process_engine,
    "thread": open_thread_engine,
}
ENGINES = tuple(OPENERS)


@dataclass
class Bench:
    """An engine, a destination, and what the last run reported."""

    engine: ProcessEngine | ThreadEngine
    downloads: Path
    reports: list[Report] = field(default_factory=list)

    def spec(self, url: str, job: str = "j", **changes: Any) -> RunSpec:  # noqa: ANN401
        """Return a run of `url`; its job's directory is of the destination."""
        params = {"retries": 3, "fixup": "never", **changes.pop("params", {})}
        made: dict[str, Any] = {
            "job_id": job,
            "url": url,
            "destination": self.downloads,
            "work": self.downloads / f".vidra-{job}" / "0",
            "template": "%(title)s.%(ext)s",
            "params": params,
        }
        return RunSpec(**{**made, **changes})

    async def run(self, spec: RunSpec) -> Report:
        """Run it to its end and return that."""
        self.reports = []
        async with self.engine.open(spec) as run:
            self.reports = [report async for report in run]
        return self.reports[-1]

    async def finish(self, spec: RunSpec) -> Path:
        """Run it, and return where its file is."""
        end = await self.run(spec)
        assert isinstance(end, Finished), end
        assert end.main is not None
        return Path(end.main)

    def published(self) -> list[str]:
        """Return the names at the destination, work directories excepted."""
        names = (p.name for p in self.downloads.iterdir() if not p.name.startswith(".vidra-"))
        return sorted(names)

    def worker(self) -> int:
        """Return the process id of the only worker."""
        assert isinstance(self.engine, ProcessEngine)
        (pid,) = (one.pid for one in self.engine.pool.workers)
        return pid

    def mark(self) -> Callable[[], list[str]]:
        """Return what tells which of the processes and threads of now still run."""
        pids = descendants(os.getpid())
        return lambda: [str(pid) for pid in alive(pids)] + run_threads()


def run_threads() -> list[str]:
    """Return the names of the threads that run items now."""
    return [one.name for one in threading.enumerate() if "vidra run" in one.name]


@asynccontextmanager
async def open_bench(
    root: Path,
    kind: str = "process",
    *,
    size: int = 1,
    patience: float = PATIENCE,
    **how: Any,  # noqa: ANN401  # each opener has arguments of its own
) -> AsyncIterator[Bench]:
    """Open an engine for the length of the block; `how` goes to its opener."""
    (root / "downloads").mkdir(exist_ok=True)
    with trio.fail_after(patience):
        async with OPENERS[kind](cache=root / "cache", size=size, **how) as engine:
            yield Bench(engine, root / "downloads")


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something outside of Trio's sight."""
    while not condition():  # noqa: ASYNC110  # there is no event to wait for
        await trio.sleep(0.01)


async def sent(origin: Origin, path: str, size: int) -> None:
    """Wait until so many bytes of `path` are on their way."""
    await wait_until(lambda: sum(one.sent for one in origin.seen(path)) >= size)
