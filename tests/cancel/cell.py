"""One cell of the suite: a job, brought into its phase, and what there is to insist on.

A cell has a server of its own, on a port of its own, spoken to over real HTTP and
watched through a real WebSocket; only the engine behind it is the house's.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.cancel.house import PLAIN, WIDTH
from tests.cancel.phases import Scene
from tests.cancel.views import JobView, RunView
from tests.support.engines import run_threads, wait_until
from tests.support.leaks import at_large, nothing_left
from tests.support.origin import LARGEST_WRITE, digest
from tests.support.process import descendants
from vidra_trio.client import Client
from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.restore import Policy
from vidra_trio.core.states import Command, JobState
from vidra_trio.server import Server, serve
from vidra_trio.settings import Settings
from vidra_trio.watch import RequestRefused, WatchEnded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.cancel.house import House
    from tests.cancel.phases import Phase
    from tests.support.origin import Traffic
    from vidra_trio.engine.base import Engine, Run, RunSpec

PATIENCE = 100
"""Seconds for a whole cell, on a machine that has other things to do."""


class Tuned:
    """The house's engine, with parameters that no client can ask for."""

    def __init__(self, engine: Engine, params: Callable[[], Mapping[str, Any]]) -> None:
        self._engine = engine
        self._params = params

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the engine's own
        return getattr(self._engine, name)

    def open(self, spec: RunSpec) -> AbstractAsyncContextManager[Run]:
        """Run `spec` with the parameters of now."""
        return self._engine.open(replace(spec, params={**spec.params, **PLAIN, **self._params()}))


class Cell:
    """One job in one phase: the stage for a command, and what there is to insist on."""

    def __init__(self, house: House, phase: Phase, scene: Scene, url: str) -> None:
        self.house, self.phase, self.scene, self.url = house, phase, scene, url
        self.downloads = scene.folder / "downloads"
        self.settings = Settings.private(
            scene.folder / "server",
            download_dir=self.downloads,
            max_concurrent=1 if phase.waits else WIDTH,
            restore=Policy.FAIL,  # nothing moves after a restart before it was looked at
        )
        self.job = ""
        self.closed_with: int | None = None
        """The code that the server closed the subscriber's socket with."""
        self._updates: list[tuple[str, str, str]] = []
        self._blocker = ""
        self.unburdened = house.census()()
        """What is there when no run is."""
        self._asked = 0.0
        self._running: set[int] = set()
        self._traffic: Traffic

    # -- the stage

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        """Serve, with the house's engine."""
        engine = Tuned(self.house.engine, lambda: self.phase.params(self.scene))
        async with serve(self.settings, engine=engine) as self.server:
            yield self.server

    async def subscribe(self, *, task_status: trio.TaskStatus[Client]) -> None:
        """Connect a client and listen to everything, until the server ends that."""
        async with (
            Client(self.server.url, self.server.token) as client,
            client.watch_overview() as events,
        ):
            task_status.started(client)
            try:
                async for message in events:
                    if message.job is not None:
                        told = message.job
                        self._updates.append((told.job_id, str(told.reason), told.status))
            except WatchEnded as ended:
                self.closed_with = ended.close_code

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """Serve, and have a subscriber, for the length of the block."""
        async with self.serving(), trio.open_nursery() as nursery:
            client: Client = await nursery.start(self.subscribe)
            yield client
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def in_phase(self) -> AsyncIterator[Client]:
        """Serve, have a subscriber, create the job, and bring it into its phase."""
        async with self.connected() as client:
            await self.enter_phase(client)
            yield client

    async def enter_phase(self, client: Client) -> None:
        """Create the job and wait until it is where the phase says."""
        await client.health()  # from here on there is a connection for requests
        self.unburdened = self.house.census()()
        if self.phase.waits:  # somebody else has the only slot
            hangs = self.house.origin.at(f"/hang/before-{self.scene.name}")
            self._blocker = (await client.create(hangs)).job_id
            await wait_until(
                lambda: bool(self.house.origin.seen(f"/hang/before-{self.scene.name}"))
            )
        self.job = (await client.create(self.url)).job_id
        self.scene.view = JobView(self.server.supervisor, self.job)
        await self.scene.reach(self.phase)

    async def free_slot(self) -> None:
        """End the job that this one waits for, if there is one."""
        if self._blocker:
            supervisor = self.server.supervisor
            await supervisor.apply(self._blocker, Command.CANCEL)
            await wait_until(lambda: self._blocker not in [job.job_id for job in supervisor.jobs()])

    # -- what it came to

    @property
    def story(self) -> list[str]:
        """The reasons of the job's updates, as the subscriber was told them."""
        return [reason for job, reason, _ in self._updates if job == self.job]

    @property
    def statuses(self) -> list[str]:
        """What the job was, as told with each of these."""
        return [status for job, _, status in self._updates if job == self.job]

    @property
    def story_so_far(self) -> list[str]:
        """What the story must be before any command."""
        words = ["created"]
        if not self.phase.waits:
            words += ["started"]
        if self.phase.identified:
            words += ["preview_ready", "updated"]
        return words

    @property
    def cancelled(self) -> tuple[str, ...]:
        """How the story of a cancelled job ends: one of which nothing was found is removed."""
        return ("cancelled",) if self.phase.identified else ("cancelled", "deleted")

    async def state(self, client: Client) -> JobState | None:
        """Ask what the job is now; None when there is none."""
        with contextlib.suppress(JobNotFound):
            self.server.supervisor.get(self.job)
            return (await client.job(self.job)).state
        with pytest.raises(RequestRefused, match="404"):
            await client.job(self.job)
        return None

    def asks(self) -> None:
        """Start the clock, and note what runs: the command goes out now."""
        self._asked, self._running = trio.current_time(), set(descendants(os.getpid()))

    def has_really_ended(self) -> None:
        """Insist that what was asked for came to its end in time, and that it is the end."""
        took = trio.current_time() - self._asked
        assert took < self.house.bound, f"it took {took:.2f} s"
        if not self.phase.waits and not self._is_given_up:
            assert run_threads() == []
            assert at_large(self._running - self.house.workers) == []
        self._traffic = self.house.origin.traffic(self.scene.name)

    async def hears(self, *words: str) -> None:
        """Wait until the story ends with these words, which it must do in time."""
        await wait_until(lambda: tuple(self.story[-len(words) :]) == words)
        self.has_really_ended()

    async def lets_go(self) -> None:
        """Insist that nothing of the run is left, and that nothing was sent since its end."""
        if self._is_given_up:
            await self._comes_back()
        await nothing_left(self.unburdened, self.house.census())
        await wait_until(lambda: all(one.done for one in self.scene.requests()))
        before, after = self._traffic, self.house.origin.traffic(self.scene.name)
        assert after.requests == before.requests
        assert after.sent - before.sent <= before.connections * LARGEST_WRITE

    @property
    def _is_given_up(self) -> bool:
        """Whether the run's thread cannot be ended."""
        return self.phase.unstoppable and self.house.kind == "thread"

    async def _comes_back(self) -> None:
        """Insist that a thread that was given up is counted, and ends as soon as it can."""
        assert self.house.engine.statistics().abandoned == 1
        self.scene.mend()
        await wait_until(lambda: not self.house.engine.statistics().abandoned)

    def parts(self) -> tuple[str, ...]:
        """Return the parts that the job says it keeps."""
        return self.server.supervisor.get(self.job).partial_files

    def keeps_its_parts(self) -> None:
        """Insist that what was downloaded is there, when there was something."""
        parts = self.parts()
        assert bool(parts) is (self.phase.continued is not None), parts
        assert all(Path(part).is_file() for part in parts)

    async def is_whole(self) -> None:
        """Insist that the file, and nothing else, is at the destination, byte by byte."""
        (found,) = self.left()
        assert digest(self.downloads / found) == await self.house.digest_of(self.phase, self.scene)
        (self.downloads / found).unlink()

    def has_continued(self) -> None:
        """Insist that the run after the first one made use of what was there."""
        if self.phase.continued is not None:
            assert self.phase.continued(self.scene), [one.range for one in self.scene.requests()]

    def files_of_the_job(self) -> list[Path]:
        """Return what the data directory has of its own for the job."""
        return [path for path in self.settings.data.rglob("*") if self.job in path.name]

    async def forget_others(self, client: Client) -> None:
        """Cancel and delete every job but this one."""
        for job in await client.jobs():
            if job.job_id != self.job:
                await client.cancel(job.job_id)
                await client.delete(job.job_id)

    def left(self) -> list[str]:
        """Return all files and directories at the destination."""
        return sorted(str(p.relative_to(self.downloads)) for p in self.downloads.rglob("*"))


async def play(
    house: House, phase: Phase, command: Callable[[Cell], Awaitable[None]], folder: Path
) -> None:
    """Give one command in one phase, and find nothing left of it afterwards."""
    with ExitStack() as stack, trio.fail_after(PATIENCE):
        own = folder / "scene"
        own.mkdir(mode=0o700)
        scene = Scene(f"cell-{next(house.numbers):04}", house.origin, own, stack, RunView())
        url = phase.url(scene)
        await house.quiet()
        cell = Cell(house, phase, scene, url)
        census = house.census(cell.downloads)
        before = census()
        try:
            await command(cell)
        except BaseExceptionGroup as group:
            raise _alone(group) from None
        await nothing_left(before, census)
        house.over[scene.name] = house.origin.traffic(scene.name).requests
        scene.mend()


def _alone(error: BaseException) -> BaseException:
    """Return the error that nurseries wrapped, if it is one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
