"""What an engine does on the disk, in a few threads of Trio's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from vidra_trio.engine import janitor, workdir
from vidra_trio.engine.places import current
from vidra_trio.engine.tools import find_ffmpeg
from vidra_trio.engine.vetting import vet

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from vidra_trio.engine.base import RunSpec
    from vidra_trio.engine.tools import Ffmpeg
    from vidra_trio.engine.workdir import Published

THREADS: Final = 4
REMOVALS: Final = 64


class Disk:
    """The synchronous parts of an engine, awaited.

    What makes or moves files is waited for also when cancelled; while it copies, it gives
    up then. Looking and removing are abandoned: they go on unseen.

    Only what moves files shares its few threads. The rest waits for nobody: who copies
    for minutes, or hangs on a dead volume, keeps no other job from its end. (Removals
    have a bound, too: a client may ask for a thousand at once.)

    `owner` is the id that work directories are marked with.
    """

    def __init__(self, owner: str | None = None) -> None:
        self._threads = trio.CapacityLimiter(THREADS)
        self._removals = trio.CapacityLimiter(REMOVALS)
        self._owner = owner
        self._ffmpeg: Ffmpeg | None = None

    async def ffmpeg(self) -> Ffmpeg:
        """Return the ffmpeg that runs use; looked for once."""
        if self._ffmpeg is None:
            self._ffmpeg = await trio.to_thread.run_sync(find_ffmpeg, abandon_on_cancel=True)
        return self._ffmpeg

    async def vet(self, spec: RunSpec) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Look at the files that the parameters name; see `vetting.vet`."""
        return await trio.to_thread.run_sync(
            vet, spec.params, limiter=_alone(), abandon_on_cancel=True
        )

    async def prepare(self, spec: RunSpec, *, apart: bool) -> Path:
        """Create the run's directory and return where it is; see `workdir.prepare`.

        Cancelled while parts are being copied, it leaves them to the next run.
        """
        make = partial(
            workdir.prepare,
            spec.work,
            spec.destination,
            spec.roots,
            rules=spec.rules,
            owner=self._owner,
            apart=apart,
            check=trio.from_thread.check_cancelled,
        )
        return await trio.to_thread.run_sync(make, limiter=self._threads)

    async def complete(self, spec: RunSpec) -> Published | None:
        """Complete what a kill interrupted, if there was that; see `workdir.complete`."""
        move = partial(
            workdir.complete,
            spec.work,
            spec.destination,
            spec.roots,
            rules=spec.rules,
            overwrite=spec.overwrite,
            check=trio.from_thread.check_cancelled,
        )
        return await trio.to_thread.run_sync(move, limiter=self._threads)

    async def publish(self, spec: RunSpec, main: str) -> tuple[str, ...]:
        """Publish a run's files; see `workdir.publish`.

        Cancelled before, or while files are still being copied, it publishes
        nothing; from the first rename on it completes.
        """
        move = partial(
            workdir.publish,
            spec.work,
            spec.destination,
            spec.roots,
            main=main,
            rules=spec.rules,
            overwrite=spec.overwrite,
            check=trio.from_thread.check_cancelled,
        )
        return await trio.to_thread.run_sync(move, limiter=self._threads)

    async def discard(self, work: Path) -> None:
        """Remove a work directory and all in it; fine when there is none."""
        await trio.to_thread.run_sync(
            workdir.remove, work, limiter=self._removals, abandon_on_cancel=True
        )

    async def partial_files(self, work: Path) -> tuple[str, ...]:
        """Return the parts below `work` that a later run would continue from."""
        return await trio.to_thread.run_sync(
            workdir.parts_of, work, limiter=_alone(), abandon_on_cancel=True
        )

    async def newest_change(self, work: Path) -> tuple[int, int]:
        """Return a mark that changes whenever a file below `work` does."""
        return await trio.to_thread.run_sync(
            workdir.newest_change, work, limiter=_alone(), abandon_on_cancel=True
        )

    async def has_place(self, work: Path) -> bool:
        """Return whether the run's directory is there: somebody may have removed it."""

        def look() -> bool:
            return current(work).is_dir()

        return await trio.to_thread.run_sync(look, limiter=_alone(), abandon_on_cancel=True)

    async def fence(self, work: Path) -> None:
        """Take `work` from a thread that was given up; what can be continued stays in `work`."""
        # A place that is not fenced in time would be the next run's, with the files that
        # the thread has open.
        await trio.to_thread.run_sync(_fence, work, limiter=_alone(), abandon_on_cancel=True)

    async def sweep(self, folders: Iterable[Path], keep: Container[str]) -> tuple[str, ...]:
        """Remove the work directories of dead jobs; see `janitor.sweep`."""
        clean = partial(janitor.sweep, tuple(folders), keep, self._owner)
        return await trio.to_thread.run_sync(clean, limiter=_alone(), abandon_on_cancel=True)


def _alone() -> trio.CapacityLimiter:
    return trio.CapacityLimiter(1)


def _fence(work: Path) -> None:
    fenced = workdir.fence(work)
    if fenced is not None:
        workdir.rescue(fenced, work)
