"""Where the cells of the suite take place: an engine that is warm, an origin, a server each.

The engine, its loop and the origin are a module's (`open_house`): starting a worker
takes most of a second, and what one cell leaves behind would harm the next, which is
the point. Everything else is a cell's own: a real server on a port of its own, real
HTTP, a real WebSocket, a directory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import trio

from tests.cancel.phases import Phase, Scene
from tests.support import plugins, worker
from tests.support.engines import run_threads, wait_until
from tests.support.leaks import Census, nothing_left, tagged
from tests.support.loops import Loop, open_loop
from tests.support.origin import LARGEST_WRITE, Origin, digest, media_root, open_origin
from tests.support.process import alive, descendants
from vidra_trio.client import Client
from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.report import Finished, Identified, Line, Report, Tick
from vidra_trio.core.states import Command, JobState
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import ProcessEngine, open_process_engine
from vidra_trio.engine.thread import KILL_GRACE, ThreadEngine, open_thread_engine
from vidra_trio.server import Server, serve
from vidra_trio.settings import Settings
from vidra_trio.watch import RequestRefused, WatchEnded

if TYPE_CHECKING:
    from vidra_trio.engine.base import Engine, Run
    from vidra_trio.supervisor import Supervisor

WIDTH = 2
"""Runs at a time."""

BOUNDS = {"process": 5.0, "thread": KILL_GRACE + 2}
"""Seconds from a command to its end: no measurement, a promise that something ends at all."""

PATIENCE = 45
"""Seconds for a whole cell, on a machine that has other things to do."""

PLAIN: dict[str, Any] = {
    "fixup": "never",
    "postprocessors": [],
    "nocheckcertificate": True,
    "retries": 10,
    "fragment_retries": 10,
}
"""Parameters of every run here: what arrives is what was sent."""


@dataclass
class House:
    """What all cells of a module share."""

    kind: str
    engine: ProcessEngine | ThreadEngine
    origin: Origin
    root: Path
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    over: dict[str, int] = field(default_factory=dict)
    """How many requests were made for a scene, when its job was over."""
    right: dict[str, str] = field(default_factory=dict)
    """The digests that undisturbed runs gave, by phase."""

    @property
    def bound(self) -> float:
        """Seconds in which a command must have come to its end."""
        return BOUNDS[self.kind]

    @property
    def temporary(self) -> Path:
        """Where temporary files of this process and its workers go."""
        return self.root / "tmp"

    @property
    def workers(self) -> set[int]:
        """The processes that the engine keeps."""
        pool = getattr(self.engine, "pool", None)
        return set() if pool is None else {one.pid for one in pool.workers}

    async def quiet(self) -> None:
        """Wait until the engine has nothing to do, and whatever it keeps ready is ready."""
        await wait_until(self._is_quiet)

    def _is_quiet(self) -> bool:
        now = self.engine.statistics()
        ready = now.idle if self.kind == "process" else 1
        return not now.running and bool(ready) and not now.abandoned

    def census(self, *folders: Path) -> Census:
        """Return what counts everything, with these folders."""
        return Census(self.engine, (*folders, self.temporary), self.origin.ports)

    async def digest_of(self, phase: Phase, scene: Scene) -> str:
        """Return what the file's sha256 must be in the end."""
        if scene.digest:
            return scene.digest
        if phase.name not in self.right:
            self.right[phase.name] = await self._undisturbed(phase)
        return self.right[phase.name]

    async def _undisturbed(self, phase: Phase) -> str:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.root)))
            scene = Scene(
                f"undisturbed-{next(self.numbers):04}", self.origin, folder, stack, RunView()
            )
            url = phase.url(scene)
            scene.mend()
            spec = run_of(url, folder / "downloads", phase.params(scene))
            async with self.engine.open(spec) as run:
                end = [report async for report in run][-1]
            assert isinstance(end, Finished), end
            return digest(str(end.main))


@contextlib.contextmanager
def open_house(kind: str, root: Path) -> Iterator[Loop[House]]:
    """Have an engine of this kind, warm, for the length of the block."""
    openers: Mapping[str, Callable[..., AbstractAsyncContextManager[Any]]] = {
        "process": partial(open_process_engine, command=worker.COMMAND),
        "thread": open_thread_engine,
    }
    media_root()  # made now, before temporary files are counted
    (root / "tmp").mkdir()
    with ExitStack() as stack:
        origin = stack.enter_context(open_origin(tls=True))
        stack.enter_context(plugins.installed())
        stack.enter_context(tagged())
        stack.enter_context(_environment(root / "tmp"))

        @asynccontextmanager
        async def open_it() -> AsyncIterator[House]:
            async with openers[kind](cache=root / "cache", size=WIDTH) as engine:
                yield House(kind, engine, origin, root)

        loop = stack.enter_context(open_loop(open_it))
        yield loop
        for name, requests in loop.opened.over.items():
            now = origin.traffic(name).requests
            assert now == requests, f"{name}: {now - requests} requests long after its end"


@contextlib.contextmanager
def _environment(temporary: Path) -> Iterator[None]:
    """Let temporary files be counted, and workers find the tests' package."""
    package = str(Path(__file__).parents[2])
    changed = {
        "TMPDIR": str(temporary),
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
    }
    with mock.patch.dict(os.environ, changed), mock.patch.object(tempfile, "tempdir", None):
        yield


def run_of(url: str, downloads: Path, params: Mapping[str, Any]) -> RunSpec:
    """Return a run of `url` as the runner would make it, with `params` past it."""
    return RunSpec(
        job_id="j",
        url=url,
        destination=downloads,
        work=downloads / ".vidra-j" / "0",
        template="%(title)s.%(ext)s",
        params={**PLAIN, **params},
    )


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


@dataclass
class JobView:
    """A run seen through its job."""

    supervisor: Supervisor
    job_id: str

    @property
    def identified(self) -> bool:
        return self.supervisor.get(self.job_id).preview is not None

    @property
    def downloaded(self) -> int:
        return self.supervisor.get(self.job_id).progress.downloaded_bytes or 0

    @property
    def lines(self) -> list[str]:
        return [entry.message for entry in self.supervisor.logs(self.job_id)]


@dataclass
class RunView:
    """A run seen through its reports."""

    reports: list[Report] = field(default_factory=list)

    @property
    def identified(self) -> bool:
        return any(isinstance(one, Identified) for one in self.reports)

    @property
    def downloaded(self) -> int:
        return max(
            (one.downloaded_bytes for one in self.reports if isinstance(one, Tick)), default=0
        )

    @property
    def lines(self) -> list[str]:
        return [one.message for one in self.reports if isinstance(one, Line)]


class Cell:
    """One job in one phase: the stage for a command, and what there is to insist on."""

    def __init__(self, house: House, phase: Phase, scene: Scene, url: str) -> None:
        self.house, self.phase, self.scene, self.url = house, phase, scene, url
        self.downloads = scene.folder / "downloads"
        self.settings = Settings.private(
            scene.folder / "server",
            download_dir=self.downloads,
            max_concurrent=1 if phase.waits else WIDTH,
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
            assert alive([*self._running - self.house.workers]) == []

    async def hears(self, *words: str) -> None:
        """Wait until the story ends with these words, which it must do in time."""
        await wait_until(lambda: tuple(self.story[-len(words) :]) == words)
        self.has_really_ended()

    async def lets_go(self) -> None:
        """Insist that nothing of a run is left, while the server goes on, and nothing is sent."""
        traffic = self.house.origin.traffic
        before = traffic(self.scene.name)
        if self._is_given_up:
            await self._comes_back()
        await nothing_left(self.unburdened, self.house.census())
        await wait_until(lambda: all(one.done for one in self.scene.requests()))
        after = traffic(self.scene.name)
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
