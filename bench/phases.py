"""What a run may be in the middle of when it is asked to stop.

That a phase is reached is told by the origin and by the kernel, never by the run:
so it is the same instant for every way of running yt-dlp.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from bench.processes import connecting, descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.site import Site

LOOK: Final = 0.02
"""Seconds between two looks; all of them are before the clock runs."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A place to be stopped at: reached when all that is said here is true."""

    name: str
    path: str
    query: Mapping[str, object] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = False
    requests: int = 1
    """Requests that the origin has seen; the first one of a plain file is the extractor's."""
    converting: bool = False
    """A program that was started by the run has an input."""
    connecting: bool = False
    """Somebody waits for the connection that never comes about."""
    settle: float = 0.15
    """Seconds from there on until the stop."""
    native: bool = False
    """The thread is out of Python's reach: it can only be given up."""
    slow: bool = False
    """Eight things move slowly at once."""
    backoff: float = 0.0
    """Seconds that a peer waits before it tries again; ours have their own rule."""

    def url(self, site: Site, token: str) -> str:
        """Return where it happens."""
        if self.connecting:
            return f"http://127.0.0.1:{site.ports.full}/{token}/{self.path}"
        return site.url(token, self.path, tls=self.tls, **self.query)

    async def wait_reached(
        self, site: Site, token: str, root: int | None, over: Callable[[], object]
    ) -> None:
        """Wait for the phase, in a run whose processes are below `root` (this process).

        Raises:
            RuntimeError: the run was over before.
        """
        while not await self._reached(site, token, root):
            if over():
                raise RuntimeError("the run ended before it was in this phase")
            await trio.sleep(LOOK)

    async def _reached(self, site: Site, token: str, root: int | None) -> bool:
        if self.connecting:
            return connecting(site.ports.full)
        visit = await site.visit(token)
        if sum(visit.requests.values()) < self.requests:
            return False
        return not self.converting or any(_converts(pid) for pid in descendants(root))


def _converts(pid: int) -> bool:
    """Whether a process is an ffmpeg with an input (or the stubborn one), for 0.1 s at least."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / 100
    except OSError:
        return False
    working = b"-i" in words or words[0] == b"sleep"
    return working and time.clock_gettime(time.CLOCK_BOOTTIME) - began > 0.1


BIG: Final = 400_000_000
WEBM: Final = {"postprocessors": [{"key": "FFmpegVideoConvertor", "preferedformat": "webm"}]}
SLOW_H264: Final = {"merger+ffmpeg_o": ["-c:v", "libx264", "-preset", "veryslow"]}
EIGHT: Final = {"concurrent_fragment_downloads": 8}
HLS: Final = "hls/200/index.m3u8"
SLOW: Final = {"bytes": 30_000, "rate": 15_000}
STALLING: Final = {"bytes": 30_000, "stall_from": 3}


def phases(stubborn: Path) -> tuple[Phase, ...]:
    """Return all phases; `stubborn` is the ffmpeg that ignores SIGTERM."""
    big = f"file/{BIG}/big.mp4"
    return (
        Phase("direct, 12 MB/s", big, {"rate": 12_000_000}, requests=2),
        Phase("direct, 60 KB/s", big, {"rate": 60_000}, requests=2),
        Phase("direct, stalled", big, {"stall": 600_000}, requests=2),
        Phase("direct, stalled, TLS", big, {"stall": 600_000}, tls=True, requests=2),
        Phase("no response headers", "hang"),
        Phase("redirect loop", "loop/0", {"delay": 0.1}, requests=4),
        Phase("CPU loop in an extractor", "x/cpu/30"),
        Phase("slow playlist enumeration", "x/list/1000", requests=1),
        Phase("HLS x1, slow", HLS, SLOW, requests=4),
        Phase("HLS x1, stalled", HLS, STALLING, requests=6),
        Phase("HLS x8, slow", HLS, SLOW, EIGHT, requests=11, slow=True),
        Phase("HLS x8, stalled", HLS, STALLING, EIGHT, requests=13),
        Phase("sleep interval", big, params={"sleep_interval": 25}, settle=0.5),
        Phase("retry back-off", "x/busy/503", requests=3, settle=0.4, backoff=25),
        Phase("TCP connect", "nobody", connecting=True),
        Phase("DNS", "x/native/6", native=True),
        Phase(
            "ffmpeg merge",
            "x/streams/0",
            params={"format": "v+a", "postprocessor_args": SLOW_H264},
            requests=3,
            converting=True,
        ),
        Phase("ffmpeg re-encode", "media/clip.mp4", params=WEBM, requests=2, converting=True),
        Phase(
            "ffmpeg that ignores SIGTERM",
            "media/clip.mp4",
            params={**WEBM, "ffmpeg_location": str(stubborn)},
            requests=2,
            converting=True,
        ),
    )
