"""What a server can say about itself to whoever looks after it. It holds no secret."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Which engine runs the downloads, why that one, and how it stands."""

    kind: str
    """`process` or `thread`; `given` for one that the program around the server brought,
    `undecided` while the first worker is being tried."""
    reason: str
    running: int
    workers: int
    idle: int
    abandoned: int
    """Threads that did not stop when told to; each holds memory until it comes to its end."""


@dataclass(frozen=True, slots=True)
class FfmpegFacts:
    """The ffmpeg that downloads use."""

    source: str
    """`path` (of the environment), `wheel` (brought by a package), or `none`."""
    path: str
    """Stays on this machine: it may tell where somebody's home is."""
    version: str
    has_ffprobe: bool


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """A server's versions, its engine, its ffmpeg."""

    version: str
    yt_dlp: str
    python: str
    platform: str
    engine: EngineFacts
    ffmpeg: FfmpegFacts
