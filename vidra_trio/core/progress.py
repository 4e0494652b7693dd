"""Progress as a pure reducer: reports in, the client's picture out.

1. `percent` never falls within one run of an item: a merged format arrives as
   several files, so the bytes of finished files become an offset and the total
   is the sum known from the format selection, as soon as it is known.
2. A new `stage` drops what belonged to the old one.
3. `elapsed` never decreases. Numbers are finite; percentages have two decimals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vidra_trio.core.report import Stage, Tick

IDENTIFYING: Final = "IDENTIFICANDO"
PROGRESSING: Final = "downloading"
COMPLETED: Final = "COMPLETED"


@dataclass(frozen=True, slots=True)
class Progress:
    """The reduced state of all ticks: what a client is shown of one item."""

    status: str | None = (
        None  # yt-dlp's word (downloading, finished, started, error), or a job status
    )
    state: str | None = None
    stage: str | None = None
    stage_name: str | None = None
    stage_percent: float | None = None
    percent: float | None = None
    message: str | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    speed: float | None = None
    eta: int | None = None
    elapsed: float | None = None
    filename: str | None = None
    tmpfilename: str | None = None
    current_item: int | None = None
    total_items: int | None = None
    # How several files add up to one item; never leaves this module.
    key: str | None = None
    settled_bytes: int = 0
    expected_bytes: int | None = None

    @property
    def remaining_bytes(self) -> int | None:
        """What is still to come, when the total is known."""
        if self.total_bytes is None or self.downloaded_bytes is None:
            return None
        return max(0, self.total_bytes - self.downloaded_bytes)


def at_stage(progress: Progress, stage: str, **changes: Any) -> Progress:  # noqa: ANN401
    """Enter `stage`: what described the previous one and is not given anew is dropped."""
    if stage != progress.stage:
        dropped = dict.fromkeys(
            ("stage_percent", "stage_name", "message", "current_item", "total_items")
        )
        changes = {**dropped, "stage_name": stage, **changes}
    return replace(progress, stage=stage, **changes)


def identifying(progress: Progress, status: str) -> Progress:
    """Begin a run: zeros, so that a client that shows an older run starts over."""
    fresh = Progress(elapsed=progress.elapsed)
    return at_stage(fresh, IDENTIFYING, status=status, stage_percent=0.0, percent=0.0)


def expect(progress: Progress, total_bytes: int | None) -> Progress:
    """Remember how large all files of the item are together, before the first one starts."""
    return replace(progress, expected_bytes=total_bytes, key=None, settled_bytes=0)


def apply_tick(progress: Progress, tick: Tick) -> Progress:
    """Take one transfer sample in."""
    settled = progress.settled_bytes
    if progress.key is not None and tick.key != progress.key:
        settled = progress.downloaded_bytes or settled
    done = settled + max(0, tick.downloaded_bytes)
    total = _total(progress, tick, settled, done)
    percent = _percent(done, total)
    if percent is not None and progress.stage == PROGRESSING and progress.percent is not None:
        percent = max(percent, progress.percent) if progress.key is not None else percent
    return at_stage(
        progress,
        PROGRESSING,
        status="downloading",
        stage_percent=percent,
        percent=percent if percent is not None else progress.percent,
        downloaded_bytes=done,
        total_bytes=total,
        speed=_speed(progress, tick),
        eta=None if tick.eta is None or not math.isfinite(tick.eta) else max(0, round(tick.eta)),
        elapsed=_elapsed(progress.elapsed, tick.elapsed),
        filename=tick.key,
        tmpfilename=f"{tick.key}.part",
        current_item=tick.fragment,
        total_items=tick.fragments,
        key=tick.key,
        settled_bytes=settled,
    )


def apply_stage(progress: Progress, stage: Stage) -> Progress:
    """Take a phase change in: a file is done, or a post-processor starts or ends."""
    if stage.name == "download":
        if not stage.finished or progress.stage != PROGRESSING:
            return progress
        return replace(progress, status="finished", speed=None, eta=0)
    return at_stage(
        progress,
        stage.name,
        status="finished" if stage.finished else "started",
        stage_percent=100.0 if stage.finished else 0.0,
        speed=None,
        eta=None,
    )


def of_several(progress: Progress, index: int, count: int) -> Progress:
    """Show the progress of item `index` (from 0) of `count` as the whole job's."""
    if count <= 1 or progress.percent is None:
        return progress
    return replace(progress, percent=round((index * 100 + progress.percent) / count, 2))


def completed(progress: Progress, main: str | None, state: str) -> Progress:
    """Everything is on disk."""
    size = progress.downloaded_bytes or progress.total_bytes
    return at_stage(
        progress,
        COMPLETED,
        status="finished",
        state=state,
        stage_percent=100.0,
        percent=100.0,
        downloaded_bytes=size,
        total_bytes=size,
        speed=None,
        eta=0,
        message=main,
        filename=main or progress.filename,
        tmpfilename=None,
    )


def ended(progress: Progress, status: str) -> Progress:
    """The run is over without a file: fill `status` and `state`, keep how far it came."""
    return replace(progress, status=status, state=status, speed=None, eta=None)


def _total(progress: Progress, tick: Tick, settled: int, done: int) -> int | None:
    """The item's size: what the format selection promised, else what the file says."""
    own = None if tick.total_bytes is None else settled + tick.total_bytes
    if progress.expected_bytes is None:
        return None if own is None else max(own, done)
    return max(progress.expected_bytes, own or 0, done)


def _percent(done: int, total: int | None) -> float | None:
    if not total:
        return None
    return round(min(100.0, max(0.0, 100.0 * done / total)), 2)


def _speed(progress: Progress, tick: Tick) -> float | None:
    """Keep the last known speed of a file through a sample that has none (its last one)."""
    speed = _finite(tick.speed)
    return progress.speed if speed is None and tick.key == progress.key else speed


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _elapsed(old: float | None, new: float | None) -> float | None:
    known = [n for n in (old, _finite(new)) if n is not None]
    return round(max(known), 3) if known else None
