"""SIGKILL of a worker at random instants, again and again: what is published is whole.

The instants are drawn from a seeded source (see `support.chance`). A kill counts when
it ended a run.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
import trio

from tests.support.chance import seeded, tell
from tests.support.kinds import NAMES, THROUGH_FFMPEG, Kind, kinds
from tests.support.origin import Origin, digest, open_origin
from tests.support.process import alive, group_of
from vidra_trio.core.report import Failed, Finished, Stage, Tick
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import ProcessEngine, open_process_engine

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from vidra_trio.core.report import Report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]

KILLS: Final = 4
MANY: Final = 40
MOST_PER_JOB: Final = 6
FFMPEG: Final = ("Merger", "FixupM3u8")
PATIENCE: Final = 120.0
"""A liveness bound on a busy machine, for every job; speed is not judged here."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


@dataclass
class Victim:
    """Runs one kind of download, and kills it."""

    kind: Kind
    engine: ProcessEngine
    spec: RunSpec
    chance: random.Random
    in_ffmpeg: int = 0
    seconds: float = 1.0
    """How long an undisturbed run transfers."""

    @property
    def file(self) -> Path:
        """What is published."""
        return self.spec.destination / self.kind.file

    async def finish(self) -> str:
        """Run undisturbed; return the file's digest, and leave nothing."""
        reports: list[Report] = []
        began = 0.0
        folder = self.spec.work.parent
        left = list(folder.rglob("*"))
        with trio.fail_after(PATIENCE):
            async with self.engine.open(self.spec) as run:
                async for report in run:
                    reports.append(report)
                    if isinstance(report, Tick):
                        began = began or trio.current_time()
        if began:
            self.seconds = trio.current_time() - began
        assert isinstance(reports[-1], Finished), (left, reports)
        await self.engine.discard(folder)  # as every job's end does
        assert list(self.spec.destination.iterdir()) == [self.file]
        found = digest(self.file)
        self.file.unlink()
        return found

    async def kill(self) -> bool:
        """Run until some instant, then kill; return whether that ended the run."""
        remuxes = (4 if self.in_ffmpeg else 8) if self.kind.name in THROUGH_FFMPEG else 0
        aim = self.chance.choices((object, Tick, Stage), (1, 6, remuxes))[0]
        delay = self.chance.random() * {object: 0.5, Tick: self.seconds / 2, Stage: 0.04}[aim]
        whole_group = self.chance.random() < 0.5
        stage = ""
        killed: list[int] = []
        end: Report | None = None

        async def strike() -> None:
            await trio.sleep(delay)
            await wait_until(lambda: len(self.engine.pool.workers) == 1)
            (pid,) = (worker.pid for worker in self.engine.pool.workers)
            killed.extend(group_of(pid))
            (os.killpg if whole_group else os.kill)(pid, signal.SIGKILL)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery, self.engine.open(self.spec) as run:
                aimed = False
                if aim is object:
                    aimed = True
                    nursery.start_soon(strike)
                async for end in run:
                    if isinstance(end, Stage):
                        stage = end.name if not end.finished else ""
                    hit = stage in FFMPEG if aim is Stage else isinstance(end, Tick)
                    if hit and not aimed:
                        aimed = True
                        nursery.start_soon(strike)
                nursery.cancel_scope.cancel()
        await wait_until(lambda: not alive(killed) and not self._dies(killed))
        if isinstance(end, Finished):
            return False
        assert isinstance(end, Failed), end
        assert end.code == "engine_died"
        self.in_ffmpeg += stage in FFMPEG
        return True

    def _dies(self, killed: list[int]) -> bool:
        """Return whether a worker that was hit after its run could still be taken for alive."""
        return any(worker.pid in killed and worker.alive() for worker in self.engine.pool.workers)


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something outside of Trio's sight."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # processes set no event
            await trio.sleep(0.005)


@asynccontextmanager
async def open_victim(
    root: Path, origin: Origin, kind: Kind, chance: random.Random
) -> AsyncIterator[Victim]:
    downloads = root / "downloads"
    downloads.mkdir()
    async with open_process_engine(cache=root / "cache", size=1, owner="me") as engine:
        spec = RunSpec(
            job_id="j",
            url=kind.url(origin),
            destination=downloads,
            work=downloads / ".vidra-j" / "0",
            template="%(title)s.%(ext)s",
            params={"retries": 3, **kind.params},
        )
        yield Victim(kind, engine, spec, chance)


async def kill_and_kill(victim: Victim, kills: int) -> None:
    """Kill that many runs, a few of each job; every file must be what it is without."""
    whole = await victim.finish()
    done, jobs = 0, 0
    while done < kills:
        of_this = 0
        for _ in range(min(kills - done, victim.chance.randint(2, MOST_PER_JOB))):
            of_this += await victim.kill()
            if victim.file.exists():
                assert digest(victim.file) == whole, f"after {of_this} kills"
                break
        done, jobs = done + of_this, jobs + 1
        assert await victim.finish() == whole, f"after {of_this} kills"
    tell(f"{victim.kind.name}: {done} kills of {jobs} jobs, {victim.in_ffmpeg} in ffmpeg")


@pytest.mark.parametrize("name", NAMES)
async def test_a_run_killed_at_any_instant_ends_with_the_right_bytes(
    tmp_path: Path, origin: Origin, name: str
) -> None:
    """A worker killed a few times publishes what an undisturbed one does, and nothing else."""
    async with open_victim(tmp_path, origin, kinds()[name], seeded()) as victim:
        await kill_and_kill(victim, KILLS)


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
async def test_many_kills(tmp_path: Path, origin: Origin, name: str) -> None:
    """The same, many times; some of them while ffmpeg writes."""
    async with open_victim(tmp_path, origin, kinds()[name], seeded()) as victim:
        await kill_and_kill(victim, MANY)
        assert victim.in_ffmpeg or name not in THROUGH_FFMPEG
