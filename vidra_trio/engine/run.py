"""One item, whatever drives it: its reports, its patience, its stop, its end.

A driver hands an order to something that runs it (a worker process, a thread) and
gives back messages. Everything else is here, once: the work directory made ready,
ticks conflated, silence noticed, a soft stop that is not heard made a hard one, and
what was produced published, after the last moment at which the run could be stopped.

The run's task reads the driver itself: no task and no queue between the two, and a
slow reader slows the download down.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from vidra_trio.core.report import Failed, Finished, Line, Stopped, Tick
from vidra_trio.core.stall import Phase, Silence, StallLimits
from vidra_trio.core.states import Level
from vidra_trio.engine.errors import FAULTS, ItemFailed
from vidra_trio.engine.pipe import Ended, Hello, Produced, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from vidra_trio.core.report import Report, Terminal
    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.disk import Disk
    from vidra_trio.engine.pipe import End, Message

STOP_GRACE: Final = 1.0
"""How long a soft stop may take. What waits (a socket, a sleep, ffmpeg) is woken and goes in
milliseconds; only code that neither waits nor asks is ended the hard way, which parts survive."""

LOOK_SECONDS: Final = 5.0
"""How long a look at the work directory may take before it counts as silence, too."""

USUAL_TIMEOUT: Final = 15.0
"""What every client sends. Who sets a longer time-out for the site's answers means it."""


_NO_REASON: Final = ("engine_error", "nothing_downloaded", "disk_error")
_WRITING: Final = (Phase.TRANSFER, Phase.POSTPROCESS)


class DriverGone(Exception):
    """What ran the item is gone without having ended it; the words say how, if known."""


class Driver(Protocol):
    """What runs one item. One task at a time uses it, but `stop` and `kill`.

    `apart`: it may outlive its end, so that its directory must be nobody's later.
    """

    apart: bool

    async def start(self, order: Start) -> None:
        """Hand the item over.

        Raises:
            DriverGone: there is nothing that could run it.
            OSError: nothing can be started.
        """

    async def receive(self) -> Sequence[Message]:
        """Wait for at least one message; cancelled before that, it loses nothing.

        Raises:
            DriverGone: no more will come.
        """

    async def stop(self) -> None:
        """Ask for a soft stop; fine when it is too late."""

    def kill(self) -> None:
        """End it the hard way; `receive` raises or returns an end soon. Twice is once."""

    async def close(self, *, clean: bool) -> None:
        """Let go. Unless it ended `clean`, nothing of it runs afterwards. Shielded, bounded."""


class ItemRun:
    """One item over one driver; an async iterator of reports."""

    def __init__(
        self, spec: RunSpec, driver: Driver, disk: Disk, nursery: trio.Nursery, limits: StallLimits
    ) -> None:
        self._spec = spec
        self._driver = driver
        self._disk = disk
        self._nursery = nursery
        self._reports: deque[Report] = deque()
        self._end: End | Finished | None = None
        self._over = False  # the terminal report was given out
        self._started = False
        self._stopping = False
        self._reusable = False
        self._grace = trio.CancelScope()
        self._silence = Silence(limits, trio.current_time(), at_least=_patience(spec))
        self._seen = (0, 0)  # how the work directory looked when nothing was heard
        self.stop_grace = STOP_GRACE

    def __aiter__(self) -> AsyncIterator[Report]:
        return self

    async def __anext__(self) -> Report:
        """Return the next report; after the terminal one the iteration ends."""
        if self._over:
            raise StopAsyncIteration
        while not self._reports and self._end is None:
            await self._listen()
        if self._reports:
            await trio.lowlevel.checkpoint()
            return self._reports.popleft()
        report = await self._conclude()
        self._over = True
        return report

    def stop(self) -> None:
        """Ask for a soft stop; see engine.base."""
        if not self._stopping and self._end is None:  # else nothing is left to stop
            self._stopping = True
            self._nursery.start_soon(self._stop)

    async def start(self, number: int, cache: str) -> None:
        """Hand the item over; a failure becomes the run's end."""
        try:
            if published := await self._disk.complete(self._spec):
                self._end = Finished(published.files, published.main)
                return
            place = await self._disk.prepare(self._spec, apart=self._driver.apart)
            params, warnings = await self._disk.vet(self._spec)
            self._reports.extend(Line(Level.WARNING, warning) for warning in warnings)
            ffmpeg = await self._disk.ffmpeg()
            order = self._order(number, place, cache, params, ffmpeg.location)
            self._started = True
            await self._driver.start(order)
        except DriverGone as gone:
            self._bury(gone)
        except ItemFailed as failure:
            self._end = Failed(failure.fault, str(failure), FAULTS.get(failure.fault, False))
        except OSError as error:
            self._end = Failed("engine_error", f"nothing could be started: {error}", True)
        self._silence.alive(trio.current_time())

    async def close(self) -> None:
        """Let the driver go: kept after a clean end, else really stopped."""
        self._grace.cancel()
        if self._started:
            await self._driver.close(clean=self._reusable and not self._stopping)

    def _order(
        self, number: int, place: Path, cache: str, params: dict[str, Any], ffmpeg: str | None
    ) -> Start:
        spec = self._spec
        return Start(
            run=number,
            url=spec.url,
            work=str(place),
            destination=str(spec.destination),
            template=spec.template,
            cache=cache,
            params=params,
            overwrite=spec.overwrite,
            ffmpeg=ffmpeg,
        )

    async def _listen(self) -> None:
        deadline = math.inf if self._stopping else self._silence.deadline
        try:
            with trio.move_on_at(deadline) as patience:
                for message in await self._driver.receive():
                    self._accept(message)
        except DriverGone as gone:
            self._bury(gone)
        else:
            if patience.cancelled_caught:
                await self._lose_patience()

    def _accept(self, message: Message) -> None:
        match message:
            case Hello():
                self._silence.alive(trio.current_time())
            case Ended(end, reusable):
                self._end, self._reusable = end, reusable
            case report:
                self._silence.heard(report, trio.current_time())
                _append(self._reports, report)

    async def _lose_patience(self) -> None:
        """Nothing was heard for too long: look whether something is written, else give up.

        ffmpeg says nothing while it works, but its file grows. The first look has
        nothing to compare with: there, silence ends a run after one to two limits.
        """
        seen = self._seen
        if self._silence.phase in _WRITING:
            with trio.move_on_after(LOOK_SECONDS):  # a disk that hangs is no sign of life
                self._seen = await self._disk.newest_change(self._spec.work)
        now = trio.current_time()
        if self._seen != seen:
            self._silence.alive(now)
        elif now >= self._silence.deadline and not self._stopping:
            phase, limit = self._silence.phase, self._silence.limit
            message = f"no sign of life for {limit:g} s ({phase.value})"
            self._end = Failed(phase.fault, message, FAULTS[phase.fault])
            self._driver.kill()

    def _bury(self, gone: DriverGone) -> None:
        """It is gone, by itself or by our hand: that is the run's end."""
        if self._stopping:
            self._end = Stopped()
        else:
            message = f"the download process ended unexpectedly ({gone})"
            self._end = Failed("engine_died", message, retryable=True)

    async def _conclude(self) -> Terminal:
        match self._end:
            case Produced():
                return await self._publish(self._end)
            case Stopped():
                return Stopped(await self._parts())
            case Failed(code) if code in _NO_REASON and not await self._has_place():
                message = f"its folder was removed meanwhile: {self._spec.work.parent}"
                return Failed("destination_unavailable", message)
            case end:
                assert end is not None  # noqa: S101  # this is why we are here
                await trio.lowlevel.checkpoint()
                return end

    async def _has_place(self) -> bool:
        with trio.move_on_after(LOOK_SECONDS):
            return await self._disk.has_place(self._spec.work)
        return True

    async def _parts(self) -> tuple[str, ...]:
        with trio.move_on_after(LOOK_SECONDS):
            return await self._disk.partial_files(self._spec.work)
        return ()

    async def _publish(self, end: Produced) -> Terminal:
        if end.main is None:
            await self._disk.discard(self._spec.work)
            files = tuple(str(self._spec.destination / relative) for relative in end.already)
            return Finished(files, files[0] if files else None)
        try:
            files = await self._disk.publish(self._spec, end.main)
        except ItemFailed as failure:
            return Failed(failure.fault, str(failure), FAULTS.get(failure.fault, False))
        return Finished(files, str(self._spec.destination / end.main))

    async def _stop(self) -> None:
        """Ask, then wait, then end it the hard way; `close` calls it off."""
        with self._grace:
            with trio.move_on_after(self.stop_grace):
                await self._driver.stop()
                await trio.sleep_forever()
            self._driver.kill()


def _append(reports: deque[Report], report: Report) -> None:
    """Add a report; only the newest tick of a file is worth its time when several came at once."""
    if isinstance(report, Tick):
        older = [one for one in reports if isinstance(one, Tick) and one.key == report.key]
        for one in older:
            reports.remove(one)
    reports.append(report)


def _patience(spec: RunSpec) -> float:
    seconds = spec.params.get("socket_timeout")
    if isinstance(seconds, (int, float)) and seconds > USUAL_TIMEOUT:
        return float(seconds)
    return 0.0
