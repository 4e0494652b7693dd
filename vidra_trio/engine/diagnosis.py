"""Looks at the engine and at what it stands on, when somebody asks."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from vidra_trio.core.diagnostics import Diagnostics, EngineFacts, FfmpegFacts
from vidra_trio.engine.tools import engine_version, find_ffmpeg

if TYPE_CHECKING:
    from vidra_trio.engine.base import Engine


class Choice(Protocol):
    """Which engine there is, and why; both empty as long as that is being found out."""

    @property
    def kind(self) -> str: ...

    @property
    def reason(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A choice that is made."""

    kind: str
    reason: str


GIVEN: Final = Verdict("given", "the program around this server brought it")
UNDECIDED: Final = Verdict("undecided", "it is being started")


class Diagnosis:
    """One server's: its version, its engine, and how that was chosen."""

    def __init__(self, version: str, engine: Engine, choice: Choice) -> None:
        self._version = version
        self._engine = engine
        self._choice = choice
        self._ffmpeg: FfmpegFacts | None = None

    async def look(self) -> Diagnostics:
        """Return how things are now.

        ffmpeg is looked for the first time only, because that starts a process; a
        look that is cancelled leaves it to the next one.
        """
        if self._ffmpeg is None:
            found = await trio.to_thread.run_sync(find_ffmpeg, abandon_on_cancel=True)
            self._ffmpeg = FfmpegFacts(found.source, found.path, found.version, found.has_ffprobe)
        numbers = self._engine.statistics()
        choice = self._choice if self._choice.kind else UNDECIDED
        return Diagnostics(
            version=self._version,
            yt_dlp=engine_version(),
            python=f"{platform.python_version()} ({platform.python_implementation()})",
            platform=f"{platform.system()} {platform.release()} {platform.machine()}",
            engine=EngineFacts(
                kind=choice.kind,
                reason=choice.reason,
                running=numbers.running,
                workers=numbers.workers,
                idle=numbers.idle,
                abandoned=numbers.abandoned,
            ),
            ffmpeg=self._ffmpeg,
        )
