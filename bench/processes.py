"""What the kernel says about processes and threads. Linux only, as the benches that use it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from types import FrameType

_TICK: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_BUSY: Final = ("/yt_dlp/", "/vidra_trio/engine/ytdlp/", "/concurrent/futures/")
"""Where a thread of a run is: in yt-dlp, or in the pool that fetches fragments."""


class Process(contextlib.AbstractContextManager["Process"]):
    """A process that is known by more than its number: that one is not given away meanwhile."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.name = Path(f"/proc/{pid}/comm").read_text().strip()
        self._fd = os.pidfd_open(pid)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def wait_ended(self) -> float:
        """Wait for its end, and return when that was seen."""
        await trio.lowlevel.wait_readable(self._fd)
        return time.monotonic()

    def kill(self) -> None:
        """End it, now."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)


def open_processes(pids: Iterable[int], stack: contextlib.ExitStack) -> list[Process]:
    """Return those that still run."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(stack.enter_context(Process(pid)))
    return found


def descendants(root: int | None = None) -> set[int]:
    """Return the children of a process (this one), and theirs, as far as they still run."""
    families: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) and fields[0] != "Z":
            families.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    fresh = [root or os.getpid()]
    while fresh:
        fresh = [child for parent in fresh for child in families.get(parent, [])]
        found.update(fresh)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time of processes so far, with that of their children that have ended."""
    times = (_stat(pid)[11:15] for pid in pids)
    return sum(int(ticks) for fields in times for ticks in fields) / _TICK


def waited_for_cpu() -> float:
    """Return how many seconds this thread was ready to run while others ran."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def downloading_threads() -> set[int]:
    """Return the threads of this process that execute yt-dlp, or wait to do so."""
    return {ident for ident, frame in sys._current_frames().items() if _is_busy(frame)}


def connecting(port: int) -> bool:
    """Whether anybody on this machine waits for a connection to that local port."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[3] == "02" and int(row[2].partition(":")[2], 16) == port for row in rows)


async def wait_ended(processes: Collection[Process]) -> float:
    """Wait for the end of them all; return the last one's moment."""
    moments = [0.0]

    async def watch(process: Process) -> None:
        moments.append(await process.wait_ended())

    async with trio.open_nursery() as nursery:
        for process in processes:
            nursery.start_soon(watch, process)
    return max(moments)


def _stat(pid: int) -> list[str]:
    """Return the fields after the name: state, parent, ...; none when it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_busy(frame: FrameType | None) -> bool:
    while frame is not None:
        if any(place in frame.f_code.co_filename for place in _BUSY):
            return True
        frame = frame.f_back
    return False
