"""Waiting for a video that is announced but not there yet (`wait_for_video`).

yt-dlp would do it, but only while it also processes what it found; and it looks at
its watch every second. Here the run's own sleep is used: it is told as `Waiting`, and
a stop ends it.
"""

from __future__ import annotations

import math
import random
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LONGEST: Final = 86_400.0
"""Seconds before the site is asked again in any case: announcements are put forward, too."""

SLICE: Final = 60.0
"""Seconds of one sleep: a clock that jumps (a laptop that slept) is noticed after that."""


def seconds_until(
    found: Mapping[str, Any],
    limits: Sequence[float | None],
    now: float | None = None,
    draw: Callable[[float, float], float] = random.uniform,
) -> float:
    """Return how long to wait before the site is asked again; 0 when there is something to take.

    `limits` are the user's least and most seconds. A known release is waited for
    within them; an unknown one is looked for after some time between the two.
    """
    if found.get("_type", "video") != "video" or found.get("formats") or found.get("url"):
        return 0.0
    least, most = limits[0] or 0.0, limits[1] or math.inf
    release = found.get("release_timestamp")
    if isinstance(release, (int, float)) and not math.isnan(release):
        wanted = release - (time.time() if now is None else now)
    else:
        wanted = draw(least, most) if most < math.inf else least
    return min(max(wanted, least), most, LONGEST)


def wait(
    seconds: float, sleep: Callable[[float], None], clock: Callable[[], float] = time.time
) -> None:
    """Sleep for `seconds` of the wall's clock, in slices; whatever `sleep` raises ends it."""
    until = clock() + seconds
    while (left := until - clock()) > 0:
        sleep(min(left, SLICE))
