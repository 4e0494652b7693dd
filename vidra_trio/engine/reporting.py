"""From yt-dlp's hooks and log to reports: throttled, deduplicated, cleaned.

1. A tick at most every tenth of a second per file, at the source: 1000 hooks a
   second (HLS at full speed) cost a look at the clock each. The last tick of a
   file carries its full size, then its stage ends.
2. Stages, lines and the identification are never dropped; post-processor hooks
   fire twice (yt-dlp attaches them twice) and are told once.
3. Hooks come from the run's thread and from fragment threads: one lock, and
   nothing leaves after `close`.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.redact import one_line, redact
from vidra_trio.core.report import Identified, Line, Stage, Tick, Waiting
from vidra_trio.core.states import JobKind, Level
from vidra_trio.engine import preview
from vidra_trio.engine.errors import plain
from vidra_trio.engine.places import out_of, tmp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    Emit = Callable[[Identified | Tick | Stage | Line | Waiting], None]

PERIOD: Final = 0.1
MAX_LINE: Final = 4000
_LONG_WAIT: Final = 1.0

_NOISE = re.compile(
    r"^\[download\]\s+(?:[\d.]+%|Unknown\b|\S+ at\s)"  # progress in words
    r"|^\[MoveFiles\] Moving file"  # from one private directory to another
)
_ERROR_PREFIX = re.compile(r"^(?:ERROR|WARNING):\s*")


class Reporter:
    """One run's way of telling what happens."""

    def __init__(
        self,
        emit: Emit,
        work: Path,
        secrets: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        folders = (out_of(work), tmp_of(work))
        self._prefixes = tuple(f"{folder}{os.sep}" for folder in folders)
        self._secrets = tuple(secrets)
        self._clock = clock
        self._lock = threading.RLock()
        self._sent: dict[str, float] = {}  # file -> when its last tick left
        self._running: set[str] = set()  # post-processors that have begun
        self._closed = False
        self.identified = False
        self.errors: list[str] = []

    def identify(self, info: Mapping[str, Any], now: datetime) -> None:
        """Tell what the item is; once per run."""
        with self._lock:
            if not self.identified:
                self.identified = True
                shown = preview.preview_of(info, now)
                self._send(Identified(JobKind.VIDEO, shown, preview.total_bytes(info)))

    def line(self, level: Level, text: str) -> None:
        """Log one line; what is empty or says nothing to a user is dropped."""
        message = self.clean(text)
        if not message or _NOISE.match(message):
            return
        with self._lock:
            if level is Level.ERROR:
                message = plain(message)
                if message in self.errors:
                    return
                self.errors.append(message)
            self._send(Line(level, message))

    def last_words(self, text: str) -> str:
        """Log why the run failed, unless that was the last error anyway; return it as logged."""
        message = plain(self.clean(text))
        self.line(Level.ERROR, message)
        return message

    def progress(self, hook: Mapping[str, Any]) -> None:
        """Take a progress hook's dictionary in."""
        file = str(hook.get("filename") or "")
        with self._lock:
            if hook.get("status") == "finished":
                self._finish(file, hook)
            elif hook.get("status") == "downloading":
                self._tick(file, hook)

    def postprocessing(self, name: str, *, finished: bool) -> None:
        """Take a post-processor's beginning or end in."""
        with self._lock:
            if finished is (name in self._running):
                self._running ^= {name}
                self._send(Stage(name, finished=finished))

    def waiting(self, seconds: float) -> None:
        """Tell of a wait on purpose; a short one needs no excuse."""
        if seconds >= _LONG_WAIT:
            with self._lock:
                self._send(Waiting(seconds))

    def close(self) -> None:
        """Let nothing through any more: what still runs is nobody's run."""
        with self._lock:
            self._closed = True

    def _tick(self, file: str, hook: Mapping[str, Any]) -> None:
        now = self._clock()
        if now - self._sent.get(file, -math.inf) < PERIOD:
            return
        key = self._begin(file)
        self._sent[file] = now
        self._send(_tick(key, hook))

    def _finish(self, file: str, hook: Mapping[str, Any]) -> None:
        key = self._begin(file)
        del self._sent[file]
        size = _count(hook.get("total_bytes")) or _count(hook.get("downloaded_bytes"))
        elapsed = _number(hook.get("elapsed"))
        if size:
            self._send(Tick(key, downloaded_bytes=size, total_bytes=size, eta=0.0, elapsed=elapsed))
        self._send(Stage("download", finished=True, key=key))

    def _begin(self, file: str) -> str:
        """Return the file as users know it; its first sign of life opens its stage."""
        key = self.clean(file)
        if file not in self._sent:
            self._sent[file] = -math.inf
            self._send(Stage("download", key=key))
        return key

    def clean(self, text: str) -> str:
        """Return `text` as it may be shown: one line, no secrets, no work directory."""
        for prefix in self._prefixes:
            text = text.replace(prefix, "")
        text = _ERROR_PREFIX.sub("", one_line(text))
        return redact(text[:MAX_LINE], self._secrets)[:MAX_LINE]

    def _send(self, report: Identified | Tick | Stage | Line | Waiting) -> None:
        if not self._closed:
            self._emit(report)


def _tick(key: str, hook: Mapping[str, Any]) -> Tick:
    exact = _count(hook.get("total_bytes"))
    total = exact or _count(hook.get("total_bytes_estimate"))
    done = _count(hook.get("downloaded_bytes")) or 0
    return Tick(
        key,
        downloaded_bytes=done,
        total_bytes=max(total, done) if total else None,
        estimated=bool(total and not exact),
        speed=_number(hook.get("speed")),
        eta=_number(hook.get("eta")),
        elapsed=_number(hook.get("elapsed")),
        fragment=_count(hook.get("fragment_index")),
        fragments=_count(hook.get("fragment_count")),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _count(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
