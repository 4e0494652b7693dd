"""The engine for tests: it follows a script instead of talking to a site.

It keeps the contract of `engine.base` (terminal exactly once, really stopped
when the block is left), so that whatever passes with it may rely on the
contract alone.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from vidra_trio.core.report import Failed, Finished, Identified, Stopped
from vidra_trio.core.states import JobKind
from vidra_trio.engine.base import EngineStatistics, RunSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Iterable
    from pathlib import Path

    from vidra_trio.core.report import Report

Step = "Report | float | trio.Event"
"""A report to give, seconds to let pass, or an event to wait for."""

TERMINAL = (Finished, Failed, Stopped)


def download(name: str = "clip") -> tuple[Report, ...]:
    """Return the shortest script of a success."""
    return (
        Identified(JobKind.VIDEO, {"title": name}),
        Finished((f"/downloads/{name}.mp4",), f"/downloads/{name}.mp4"),
    )


class ScriptedRun:
    """One run of a script; records whether it was asked to stop."""

    def __init__(self, spec: RunSpec, steps: Iterable[object], lets_go_after: float) -> None:
        self.spec = spec
        self.stopping = trio.Event()
        self._steps = iter(steps)
        self.lets_go_after = lets_go_after
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Report]:
        return self

    async def __anext__(self) -> Report:
        if self._ended:
            raise StopAsyncIteration
        report = await self._next()
        self._ended = isinstance(report, TERMINAL)
        return report

    def stop(self) -> None:
        """End softly: the next report is `Stopped`."""
        self.stopping.set()

    async def _next(self) -> Report:
        for step in self._steps:
            await trio.lowlevel.checkpoint()
            if not isinstance(step, (int, float, trio.Event)):
                return step  # type: ignore[return-value]  # what is neither time nor event is a report
            if await self._stopped_during(step):
                await trio.sleep(self.lets_go_after)
                return Stopped()
        return Failed("engine_died", "the script ended without a terminal report")

    async def _stopped_during(self, step: float | trio.Event) -> bool:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                if isinstance(step, trio.Event):
                    await step.wait()
                else:
                    await trio.sleep(step)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            await self.stopping.wait()
            nursery.cancel_scope.cancel()
        return self.stopping.is_set()


class ScriptedEngine:
    """Runs `script(spec)` for every item.

    `lets_go_after` is how long a stop, soft or hard, takes: seconds of the
    clock in use, so that a MockClock makes slow engines free. A change counts
    for runs that are opened later; each has its own.
    """

    def __init__(
        self,
        script: Callable[[RunSpec], Iterable[object]] | None = None,
        *,
        lets_go_after: float = 0.0,
    ) -> None:
        self._script = script or (lambda spec: download(spec.job_id))
        self.lets_go_after = lets_go_after
        self.runs: list[ScriptedRun] = []
        self.discarded: list[Path] = []
        self.swept: list[tuple[tuple[Path, ...], Container[str]]] = []
        self.most_running = 0
        self._running = 0

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[ScriptedRun]:
        """Follow the script for `spec`."""
        run = ScriptedRun(spec, self._script(spec), self.lets_go_after)
        self.runs.append(run)
        self._running += 1
        self.most_running = max(self.most_running, self._running)
        try:
            yield run
        finally:
            with trio.CancelScope(shield=True):  # bounded: by the script's own number
                if not run._ended:
                    await trio.sleep(self.lets_go_after)
            self._running -= 1

    async def discard(self, work: Path) -> None:
        """Remember that `work` was to go."""
        await trio.lowlevel.checkpoint()
        self.discarded.append(work)

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return one part for every run that was stopped and not discarded."""
        await trio.lowlevel.checkpoint()
        held = any(run.spec.work.is_relative_to(work) for run in self.runs if run.stopping.is_set())
        return (str(work / "clip.mp4.part"),) if held and work not in self.discarded else ()

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remember what was asked; there is nothing to remove."""
        await trio.lowlevel.checkpoint()
        self.swept.append((tuple(folders), keep))
        return ()

    def statistics(self) -> EngineStatistics:
        """Return how many scripts are being followed."""
        return EngineStatistics(running=self._running)
