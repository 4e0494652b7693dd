"""The soft stop of one run, as the code that downloads sees it.

yt-dlp is asked at every hook, log line and request whether it should go on. The
answer "no" is a BaseException: extractors are full of `except Exception`, and
yt-dlp swallows ordinary ones (one raised in a hook becomes a skipped fragment
and a *finished*, broken file).
"""

from __future__ import annotations

import threading


class Interrupted(BaseException):
    """The run was asked to stop; only the worker's boundary catches this."""


class Control:
    """One run's stop flag, set from any thread."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """The run should end itself."""
        return self._asked.is_set()

    def stop(self) -> None:
        """Ask the run to end itself; twice is once."""
        self._asked.set()

    def check(self) -> None:
        """Go on, or raise `Interrupted`."""
        if self._asked.is_set():
            raise Interrupted
