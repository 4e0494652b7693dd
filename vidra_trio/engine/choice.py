"""Which engine a server gets, and why.

Processes are the better way wherever a Python process can be started: whatever hangs
can be killed. Where that is impossible (mobile), or would start the host's own
program again (`sys.executable` of a packaged application is the application), items
run in threads. What cannot be seen is tried: a worker has to answer. That takes
under a second where it works, so the server does not wait for it, only its first
run does.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Literal

import trio

from vidra_trio.engine.base import EngineStatistics
from vidra_trio.engine.disk import Disk
from vidra_trio.engine.process import open_process_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Container, Iterable
    from pathlib import Path

    from vidra_trio.core.stall import StallLimits
    from vidra_trio.engine.base import Engine, Run, RunSpec

    Kind = Literal["process", "thread"]
    Wanted = Literal["auto", "process", "thread"]

PROBE_SECONDS: Final = 10.0
"""How long a first worker may take to answer; 0.6 s here."""

_NO_PROCESSES: Final = ("ios", "android")
_PYTHON = re.compile(r"(python|pypy)[\w.-]*", re.IGNORECASE)

_log = logging.getLogger(__name__)


def known_verdict(
    wanted: Wanted, *, embedded: bool, platform: str, executable: str | None
) -> tuple[Kind, str] | None:
    """Return the engine and the reason where nothing needs to be tried, else None. Pure."""
    if wanted != "auto":
        return wanted, f"the settings ask for {wanted}"
    if embedded:
        return "thread", "the settings say that it is embedded in another program"
    if platform in _NO_PROCESSES:
        return "thread", f"{platform} starts no Python processes"
    if not executable:
        return "thread", "this Python does not know its own program"
    if not _PYTHON.fullmatch(PurePath(executable).name):
        return "thread", f"{PurePath(executable).name} is no Python, but the program around it"
    return None


class Chosen:
    """The engine in use: an Engine itself, which makes runs wait until the choice is made.

    `kind` and `reason` are empty until then.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._made = trio.Event()
        self._engine: Engine | None = None
        self.kind = ""
        self.reason = ""

    @asynccontextmanager
    async def open(self, spec: RunSpec) -> AsyncIterator[Run]:
        """Run `spec` in the chosen engine; see engine.base."""
        await self._made.wait()
        assert self._engine is not None  # noqa: S101  # that is what was waited for
        async with self._engine.open(spec) as run:
            yield run

    async def discard(self, work: Path) -> None:
        """Remove a work directory and all in it; fine when there is none."""
        await self._disk.discard(work)

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return the parts below `work` that a later run would continue from."""
        return await self._disk.partial_files(work)

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remove what dead jobs left; see engine.base."""
        return await self._disk.sweep(folders, keep)

    def statistics(self) -> EngineStatistics:
        """Return a frozen picture of the chosen engine."""
        return EngineStatistics() if self._engine is None else self._engine.statistics()

    async def wait_made(self) -> None:
        """Wait until the choice is made."""
        await self._made.wait()

    def make(self, engine: Engine, kind: Kind, reason: str) -> None:
        """Let runs begin."""
        self._engine, self.kind, self.reason = engine, kind, reason
        _log.info("engine: %s (%s)", kind, reason)
        self._made.set()


@asynccontextmanager
async def open_engine(
    wanted: Wanted = "auto",
    *,
    embedded: bool = False,
    cache: Path,
    size: int,
    limits: StallLimits | None = None,
    owner: str | None = None,
) -> AsyncIterator[Chosen]:
    """Open the engine that fits, for `size` runs at a time.

    Returns at once; runs wait for a choice that takes time. When the block is left
    nothing of it runs; see `open_process_engine` and `open_thread_engine`.
    """
    chosen = Chosen(Disk(owner))
    how: dict[str, Any] = {"cache": cache, "size": size, "limits": limits, "owner": owner}
    verdict = known_verdict(
        wanted, embedded=embedded, platform=sys.platform, executable=sys.executable
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(_serve, chosen, verdict, how))
        try:
            yield chosen
        finally:
            nursery.cancel_scope.cancel()


async def _serve(chosen: Chosen, verdict: tuple[Kind, str] | None, how: dict[str, Any]) -> None:
    """Open one of the engines and hold it; cancelled, it is closed."""
    async with AsyncExitStack() as stack:
        if verdict is None or verdict[0] == "process":
            process = await stack.enter_async_context(open_process_engine(**how))
            silence = None if verdict else await process.pool.probe(PROBE_SECONDS)
            if silence is None:
                chosen.make(process, "process", verdict[1] if verdict else "a worker answered")
                await trio.sleep_forever()
            await stack.aclose()
            reason = f"no worker answered: {silence}"
        else:
            reason = verdict[1]
        # It imports yt-dlp, 0.2 s and 30 MB, which a server with workers does not need.
        thread = await trio.to_thread.run_sync(
            importlib.import_module, "vidra_trio.engine.thread", abandon_on_cancel=True
        )
        engine = await stack.enter_async_context(thread.open_thread_engine(**how))
        chosen.make(engine, "thread", reason)
        await trio.sleep_forever()
