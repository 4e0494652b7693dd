"""The engine contract: what turns one item into files, and how it is stopped.

1. `open` yields a `Run`; iterating it gives reports, the last one terminal,
   exactly once, after which the iteration ends.
2. Leaving the block, by whatever way, means *really stopped*: no task, thread,
   child process or socket of the run is left, within the engine's grace.
   Leaving it before the terminal report is the hard stop (a cancel).
3. `Run.stop()` is the soft stop (a pause): the run ends itself at a point from
   which it can be continued and reports `Stopped`; go on iterating. If it does
   not within its grace it is stopped the hard way and reports `Stopped` too.
4. Nothing is written at the destination before success; what is published
   there is whole, and was put there by one rename per file.
5. The work directory outlives the block unless the item finished: the caller
   decides what a stop meant and says `discard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from vidra_trio.core.report import Report
    from vidra_trio.core.zones import PathRules


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One item, ready to run.

    `params` are yt-dlp parameters made by `core.options` (JSON values only).
    `template` is relative to `destination`. Where a published file *really* lies,
    links resolved, must be below one of `roots` (when there are any) and pass `rules`.
    """

    job_id: str
    url: str
    destination: Path
    work: Path
    template: str
    params: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = True
    roots: tuple[Path, ...] = ()
    rules: PathRules | None = None


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """How an engine stands: jobs running, workers alive and idle, threads given up."""

    running: int = 0
    workers: int = 0
    idle: int = 0
    abandoned: int = 0


class Run(Protocol):
    """One execution; an async iterator of reports."""

    def __aiter__(self) -> AsyncIterator[Report]: ...

    async def __anext__(self) -> Report: ...

    def stop(self) -> None:
        """Ask for a soft stop. Never blocks; harmless after the end or twice."""


class Engine(Protocol):
    """Turns items into files; shared by all jobs of one server."""

    def open(self, spec: RunSpec) -> AbstractAsyncContextManager[Run]:
        """Run `spec` for the length of the block.

        Raises nothing by itself: what goes wrong is a `Failed` report.
        """

    async def discard(self, work: Path) -> None:
        """Remove a work directory and all in it; fine when there is none."""

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return the parts below `work` that a later run would continue from."""

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remove work directories that nobody will continue from; return what went.

        Those of ours that lie directly in one of `folders` and whose job's id is not
        in `keep`. That is a live view, asked from a thread right before each removal:
        jobs come while this works, so nobody may take a copy of it. Runs of kept jobs
        go on meanwhile. Cancelled, it stops between two of them.
        """

    def statistics(self) -> EngineStatistics:
        """Return a frozen picture of the engine."""
