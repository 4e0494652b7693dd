"""How long a run may give no sign of life, by phase; pure arithmetic on reports.

1. A phase is read off the reports: until the item is identified the site is
   being asked (extract); then nothing has moved yet (connect), something moves
   (transfer), or a post-processor works.
2. A sign of life is something that got further: a tick, a stage, and while the site
   is being asked a line that is no warning (each page asked for is one). That
   yt-dlp tries again after a time-out of its own is none.
3. `Waiting` excuses the silence that it announces: a sleep interval is no stall.
4. The numbers bound silence, not work: an hour of encoding that writes is fine.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from vidra_trio.core.report import Identified, Line, Stage, Tick, Waiting
from vidra_trio.core.states import Level

if TYPE_CHECKING:
    from vidra_trio.core.report import Report

LONGEST: Final = 86_400.0
"""A limit above a day is a misprint; 0 says "never"."""


class Phase(enum.Enum):
    """What a run is doing, as far as its silence is concerned."""

    EXTRACT = "extract"
    CONNECT = "connect"
    TRANSFER = "transfer"
    POSTPROCESS = "postprocess"

    @property
    def fault(self) -> str:
        """The error code of a run that was silent for too long in this phase."""
        return f"stalled_{self.value}"


@dataclass(frozen=True, slots=True)
class StallLimits:
    """Seconds without a sign of life after which a run fails; 0 means never."""

    extract: float = 120.0
    connect: float = 60.0
    transfer: float = 120.0
    postprocess: float = 600.0

    @classmethod
    def parse(cls, text: str) -> StallLimits:
        """Read `90` (every phase) or `extract=60,transfer=0` (the others keep their default).

        Raises:
            ValueError: it is neither; says what was expected.
        """
        names = [field.name for field in fields(cls)]
        if "=" not in text:
            return cls(**dict.fromkeys(names, _seconds(text)))
        limits = {}
        for item in text.split(","):
            name, _, value = item.partition("=")
            if name.strip() not in names:
                raise ValueError(_EXPECTED)
            limits[name.strip()] = _seconds(value)
        return cls(**limits)

    def of(self, phase: Phase) -> float:
        """Return the seconds for `phase`; infinite when it may be silent for ever."""
        seconds: float = getattr(self, phase.value)
        return seconds or math.inf


class Silence:
    """Follows one run's reports, and knows when its silence is too long."""

    def __init__(self, limits: StallLimits, now: float, *, at_least: float = 0.0) -> None:
        """Begin at `now`; network phases get `at_least` seconds (a client's own time-out)."""
        self._limits = limits
        self._at_least = at_least
        self._stages: set[tuple[str, str | None]] = set()
        self._between = Phase.EXTRACT  # the phase when no stage is under way
        self.phase = Phase.EXTRACT
        self.deadline = math.inf
        self.alive(now)

    def heard(self, report: Report, now: float) -> None:
        """Take a report for the sign of life that it is."""
        match report:
            case Waiting(seconds):
                self.deadline += seconds
                return
            case Line(level) if self.phase in _MOVING or level not in _PLAIN:
                return
            case Identified():
                self.phase = self._between = Phase.CONNECT
            case Tick():
                self.phase = Phase.TRANSFER
            case Stage(name, finished, key):
                self._stage((name, key), finished=finished)
            case _:
                pass
        self.alive(now)

    def alive(self, now: float) -> None:
        """Begin to count again."""
        self.deadline = now + self.limit

    @property
    def limit(self) -> float:
        """How many seconds of silence the phase allows."""
        at_least = 0.0 if self.phase is Phase.POSTPROCESS else self._at_least
        return max(self._limits.of(self.phase), at_least)

    def _stage(self, stage: tuple[str, str | None], *, finished: bool) -> None:
        if finished:
            self._stages.discard(stage)
        else:
            self._stages.add(stage)
        if any(name != _DOWNLOAD for name, _ in self._stages):
            self.phase = Phase.POSTPROCESS
        elif not finished:
            self.phase = Phase.CONNECT
        elif not self._stages:
            self.phase = self._between


_MOVING: Final = (Phase.CONNECT, Phase.TRANSFER)
_PLAIN: Final = (Level.DEBUG, Level.INFO)
_DOWNLOAD: Final = "download"
_EXPECTED: Final = (
    "seconds for all phases, or extract=, connect=, transfer=, postprocess= by comma; 0 for never"
)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(_EXPECTED) from None
    if not 0 <= seconds <= LONGEST:
        raise ValueError(_EXPECTED)
    return seconds
