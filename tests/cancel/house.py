"""What the cells of a module share: an engine that is warm, in a loop of its own, and an origin.

Starting a worker takes most of a second. And what one cell leaves behind would harm the
next one, which is the point.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.cancel.phases import Scene
from tests.cancel.views import RunView
from tests.support import plugins, worker
from tests.support.engines import wait_until
from tests.support.leaks import Census, tagged
from tests.support.loops import open_loop
from tests.support.origin import digest, media_root, open_origin
from vidra_trio.core.report import Finished
from vidra_trio.engine import hooks
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import open_process_engine
from vidra_trio.engine.thread import KILL_GRACE, open_thread_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.cancel.phases import Phase
    from tests.support.loops import Loop
    from tests.support.origin import Origin
    from vidra_trio.engine.process import ProcessEngine
    from vidra_trio.engine.thread import ThreadEngine

WIDTH = 2
"""Runs at a time."""

BOUNDS = {"process": 5.0, "thread": KILL_GRACE + 2}
"""Seconds from a command to its end: no measurement, a promise that something ends at all."""

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
        ready = now.idle if self.kind == "process" else not hooks.wrapped()
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
