"""Waits until a download that was asked to stop has really stopped.

*Really* is the latest of four moments, each told by somebody who can know it:

- `block`: whoever asked may go on (our engine's block is left; of a peer: its
  thread, or its process, has ended);
- `threads`: no thread of this process is in yt-dlp any more, but one that was given up;
- `connections`: the origin has seen the end of every one (`bench.origin`: from the kernel);
- `processes`: each one that the download had when it was asked has ended (a pidfd).
"""

from __future__ import annotations

import math
import os
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio
import trio.testing

from bench.processes import descendants, open_processes, waited_for_cpu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.attempts import Attempt, Way
    from bench.phases import Phase
    from bench.processes import Process
    from bench.site import Site

LIMIT: Final = 60.0
"""Seconds for a phase to be reached; it takes one or two."""

JITTER: Final = 0.1
"""Seconds, at most, by which a stop comes later than it could: never in step with anything."""

LATE: Final = 0.05
"""Seconds after a stop from which on a request to the site is one too many."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where downloads come from and go to, and how many seconds a stop may take."""

    site: Site
    folder: Path
    cap: float


@dataclass
class Sample:
    """One stop, in milliseconds after it was asked. A moment that never came is missing."""

    moments: dict[str, float] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """What was there when the time was over."""
    given_up: bool = False
    """A thread goes on in C, and is counted."""
    waited: float = 0.0
    """How long our own thread could have run in this time, and had no core."""
    late_requests: bool = False
    """The site was asked for more, after the stop."""

    @property
    def stopped(self) -> float | None:
        """When all was over; None when it never was."""
        return None if self.left else max(self.moments.values())


class Watch:
    """One attempt, its processes, and when each of them ended."""

    def __init__(
        self, attempt: Attempt, processes: Sequence[Process], site: Site, token: str
    ) -> None:
        self._attempt = attempt
        self._processes = processes
        self._site = site
        self._token = token
        self._ended: dict[int, float] = {}
        self._moments: dict[str, float] = {}

    async def stop(self, cap: float) -> Sample:
        """Ask, and wait for `cap` seconds at most."""
        async with trio.open_nursery() as nursery:
            for process in self._processes:
                nursery.start_soon(self._see, process)
            await trio.testing.wait_all_tasks_blocked()
            waited, began = waited_for_cpu(), time.monotonic()
            self._attempt.ask()
            with trio.move_on_after(cap):
                await self._wait_all()
            nursery.cancel_scope.cancel()
        sample = self._sample(began)
        sample.waited = 1000 * (waited_for_cpu() - waited)
        sample.late_requests = (await self._site.visit(self._token)).last_request > began + LATE
        return sample

    def kill_rest(self) -> None:
        """Clean up: what should have gone by itself is in the sample."""
        for process in self._lasting:
            process.kill()

    def _sample(self, began: float) -> Sample:
        ends = [self._ended.get(process.pid, math.inf) for process in self._owned]
        moments = {**self._moments, "processes": max(ends, default=0.0)}
        parts = ("block", "threads", "connections")
        left = [*(part for part in parts if part not in moments), *(p.name for p in self._lasting)]
        came = {part: moment for part, moment in moments.items() if moment < math.inf}
        return Sample(
            {part: round(max(0.0, 1000 * (moment - began)), 3) for part, moment in came.items()},
            left,
            given_up=self._attempt.given_up(),
        )

    @property
    def _owned(self) -> list[Process]:
        return [one for one in self._processes if self._attempt.owns(one.pid)]

    @property
    def _lasting(self) -> list[Process]:
        return [one for one in self._owned if one.pid not in self._ended]

    async def _see(self, process: Process) -> None:
        self._ended[process.pid] = await process.wait_ended()

    async def _wait_all(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_host)
            nursery.start_soon(self._wait_origin)
        while self._lasting:  # noqa: ASYNC110  # their ends are stamped elsewhere
            await trio.sleep(0.001)

    async def _wait_host(self) -> None:
        self._moments["block"] = await self._attempt.wait_left()
        self._moments["threads"] = await self._attempt.wait_threads()

    async def _wait_origin(self) -> None:
        self._moments["connections"] = (await self._site.wait_closed(self._token)).last_closed


async def stop_once(way: Way, phase: Phase, place: Place) -> Sample:
    """Start a download, wait until it is in its phase, stop it, and wait for the end of it all.

    Raises:
        RuntimeError: it ended by itself before.
        trio.TooSlowError: it did not get that far.
    """
    token = f"t{random.randrange(1 << 48):012x}"  # noqa: S311  # no secret
    site = place.site
    async with way.open(phase, site, token, place.folder / token) as attempt:
        with trio.fail_after(LIMIT):
            await phase.wait_reached(site, token, attempt.root, attempt.over)
        await trio.sleep(phase.settle + random.random() * JITTER)  # noqa: S311
        with ExitStack() as stack:
            pids = {*descendants(attempt.root), attempt.root} - {os.getpid(), site.pid}
            watch = Watch(attempt, open_processes(pids, stack), site, token)
            if (end := attempt.over()) is not None:
                raise RuntimeError(f"the run ended before it was stopped: {end}")
            try:
                return await watch.stop(place.cap)
            finally:
                watch.kill_rest()
