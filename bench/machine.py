"""Where a number was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from vidra_trio.engine.tools import engine_version


def facts() -> dict[str, str]:
    """Return what somebody who compares has to know."""
    return {
        "cpu": _cpu(),
        "cores": f"{len(os.sched_getaffinity(0))} cores",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"Python {platform.python_version()}",
        "yt-dlp": f"yt-dlp {engine_version()}",
    }


def load() -> str:
    """Return the load averages: of 1, 5 and 15 minutes."""
    return " ".join(f"{one:.2f}" for one in os.getloadavg())


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"
