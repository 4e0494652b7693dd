"""The ways of running a download that can be stopped: two engines, two peers.

A way gives an attempt: started when its block is entered, asked to stop once, its
processes told apart from others'. Leaving the block leaves nothing behind, not even
of a peer that never stops.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import msgspec
import trio

from bench.peer import Order
from bench.processes import descendants, downloading_threads, open_processes
from bench.site import ROOT
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from bench.phases import Phase
    from bench.site import Site
    from vidra_trio.core.report import Report
    from vidra_trio.engine.base import Engine, Run

    Command = Literal["cancel", "pause"]

PARAMS: Final = {"nocheckcertificate": True, "fixup": "never"}
"""For all ways: the certificate is home-made, the media files partly noise."""


class Attempt(Protocol):
    """One download that is going to be stopped."""

    root: int
    """Its processes are this one's descendants."""

    def over(self) -> str | None:
        """How it ended by itself, if it did."""

    def ask(self) -> None:
        """Ask it to stop."""

    async def wait_left(self) -> float:
        """Wait until whoever asked may go on; return the moment."""

    async def wait_threads(self) -> float:
        """Wait until no thread of this process works for it; return the moment."""

    def owns(self, pid: int) -> bool:
        """Whether a process that ran when the stop was asked has to be gone after it."""

    def given_up(self) -> bool:
        """Whether a thread was left behind, knowingly."""


class Way(Protocol):
    """One way of running yt-dlp."""

    @property
    def name(self) -> str: ...

    def open(
        self, phase: Phase, site: Site, token: str, folder: Path
    ) -> AbstractAsyncContextManager[Attempt]:
        """Start a download for the length of the block."""


class EngineAttempt:
    """A run of one of our engines, as a job's task has it."""

    def __init__(self, engine: Engine, spec: RunSpec, command: Command) -> None:
        self._engine = engine
        self._spec = spec
        self._command = command
        self._scope = trio.CancelScope()
        self._run: Run | None = None
        self._last: Report | None = None
        self._left = trio.Event()
        self._moment = 0.0
        self._given_up = False
        self._kept: Callable[[], set[int]] = set
        self._others = downloading_threads()
        self.root = os.getpid()

    def keeping(self, kept: Callable[[], set[int]]) -> EngineAttempt:
        """Say which processes outlive the run: asked for after its end."""
        self._kept = kept
        return self

    async def live(self) -> None:
        """Do what a job's task does."""
        with self._scope:
            async with self._engine.open(self._spec) as self._run:
                async for report in self._run:
                    self._last = report
        self._moment = time.monotonic()
        self._left.set()

    def over(self) -> str | None:
        return str(self._last) if self._left.is_set() else None

    def ask(self) -> None:
        if self._command == "cancel":
            self._scope.cancel()
        elif self._run is None:
            raise RuntimeError("the run has not begun")
        else:
            self._run.stop()

    async def wait_left(self) -> float:
        """Wait for the end of the block."""
        await self._left.wait()
        return self._moment

    async def wait_threads(self) -> float:
        """Look, and look again; a thread that was given up is not waited for."""
        moment = self._moment
        while downloading_threads() - self._others:
            if len(downloading_threads()) <= self._engine.statistics().abandoned:
                self._given_up = True  # whatever still works is counted
                break
            await trio.sleep(0.001)
            moment = time.monotonic()
        return moment

    def owns(self, pid: int) -> bool:
        return pid not in self._kept()

    def given_up(self) -> bool:
        return self._given_up


@dataclass(frozen=True, slots=True)
class EngineWay:
    """One of our engines; `kept` are the processes that are there for the next run."""

    name: str
    engine: Engine
    command: Command
    kept: Callable[[], set[int]]

    @asynccontextmanager
    async def open(
        self, phase: Phase, site: Site, token: str, folder: Path
    ) -> AsyncIterator[Attempt]:
        """Start a run, and leave it in the end whatever happened."""
        spec = RunSpec(
            job_id=token,
            url=phase.url(site, token),
            destination=folder,
            work=folder / f".vidra-{token}",
            template="%(title)s.%(ext)s",
            params={**PARAMS, **phase.params},
        )
        async with trio.open_nursery() as nursery:
            attempt = EngineAttempt(self.engine, spec, self.command).keeping(self.kept)
            nursery.start_soon(attempt.live)
            yield attempt
            nursery.cancel_scope.cancel()
        await self.engine.discard(spec.work)


class PeerAttempt:
    """A download in a process of somebody else's making."""

    def __init__(self, process: trio.Process, *, by_hook: bool) -> None:
        self._process = process
        self._by_hook = by_hook
        self.root = process.pid

    def over(self) -> str | None:
        code = self._process.poll()
        return None if code is None else f"exit code {code}"

    def ask(self) -> None:
        if self._by_hook:
            assert isinstance(self._process.stdin, trio.lowlevel.FdStream)  # noqa: S101
            self._process.stdin.close()
        else:
            self._process.terminate()

    async def wait_left(self) -> float:
        """Wait for the thread's own word, or for the end of the process."""
        if not self._by_hook:
            await self._process.wait()
            return time.monotonic()
        assert self._process.stdout is not None  # noqa: S101  # asked for
        said = b"".join([chunk async for chunk in self._process.stdout])
        return float(said)

    async def wait_threads(self) -> float:
        """There is none in this process."""
        await trio.lowlevel.checkpoint()
        return 0.0

    def owns(self, pid: int) -> bool:
        return not (self._by_hook and pid == self.root)

    def given_up(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class PeerWay:
    """`naive` or `cold`; see bench/peer.py."""

    name: str

    @asynccontextmanager
    async def open(
        self, phase: Phase, site: Site, token: str, folder: Path
    ) -> AsyncIterator[Attempt]:
        """Start a process, and end in the end whatever is left of it."""
        params: dict[str, Any] = {
            "ffmpeg_location": find_ffmpeg().location,
            **PARAMS,
            **phase.params,
        }
        order = Order(phase.url(site, token), str(folder), params, phase.backoff)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "bench.peer", self.name, msgspec.json.encode(order).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            yield PeerAttempt(process, by_hook=self.name == "naive")
        finally:
            with ExitStack() as stack, trio.CancelScope(shield=True):
                late = open_processes(descendants(process.pid), stack)
                process.kill()
                await process.wait()
                for one in late:
                    one.kill()
