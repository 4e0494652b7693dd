"""What an engine reports while it runs one item (a URL, later a playlist entry).

Frozen structs, tagged, so that a worker's pipe carries them as JSON lines and
the decoder gives back exactly one of `Report`. Two kinds of loss are agreed on:
a `Tick` may be replaced by a newer one of the same `key`; everything else
arrives, in order, and the last one is terminal and comes exactly once.
"""

from __future__ import annotations

from typing import Any

import msgspec

from vidra_trio.core.states import JobKind, Level


class Identified(msgspec.Struct, frozen=True, tag="identified", omit_defaults=True):
    """The site answered: what the item is, in the preview's wire form."""

    kind: JobKind
    preview: dict[str, Any] = {}
    total_bytes: int | None = None  # all streams of the chosen format together, when known


class Tick(msgspec.Struct, frozen=True, tag="tick", omit_defaults=True):
    """One sample of one file's transfer. Lossy: latest wins per `key`."""

    key: str  # the file being written
    downloaded_bytes: int = 0
    total_bytes: int | None = None
    estimated: bool = False  # total_bytes is a guess
    speed: float | None = None  # bytes per second
    eta: float | None = None  # seconds
    elapsed: float | None = None  # seconds
    fragment: int | None = None
    fragments: int | None = None


class Stage(msgspec.Struct, frozen=True, tag="stage", omit_defaults=True):
    """A phase began or ended: `download` of one file, or a post-processor by name."""

    name: str
    finished: bool = False
    key: str | None = None


class Line(msgspec.Struct, frozen=True, tag="line", omit_defaults=True):
    """One line for the job's log: no ANSI, no newline, secrets already masked."""

    level: Level
    message: str


class Waiting(msgspec.Struct, frozen=True, tag="waiting", omit_defaults=True):
    """The run waits on purpose (a sleep interval, a back-off): `seconds` of silence are fine."""

    seconds: float


class Finished(msgspec.Struct, frozen=True, tag="finished", omit_defaults=True):
    """Terminal. `files` are published, absolute, and whole; `main` is the one to open."""

    files: tuple[str, ...] = ()
    main: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed", omit_defaults=True):
    """Terminal. `message` is the real cause in one line, `code` is stable."""

    code: str
    message: str
    retryable: bool = False


class Stopped(msgspec.Struct, frozen=True, tag="stopped", omit_defaults=True):
    """Terminal. The run was asked to stop, and has; `partial` are the parts kept for a resume."""

    partial: tuple[str, ...] = ()


Report = Identified | Tick | Stage | Line | Waiting | Finished | Failed | Stopped
Terminal = Finished | Failed | Stopped
