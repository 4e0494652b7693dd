"""Fragments that a site did not have and yt-dlp skipped: remembered as long as the parts are.

A run that continues from parts with a hole in them has not met it, and must not pass
the file for a whole one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

HOLES: Final = "holes"
"""In the work directory: a line per skipped fragment, its stream's name and its number."""


class Holes:
    """The holes in the streams of one work directory."""

    def __init__(self, work: Path) -> None:
        self._path = work / HOLES

    def add(self, stream: str, fragment: int) -> None:
        """Note a fragment that could not be had."""
        with self._path.open("a", encoding="ascii") as file:
            # The line before may be torn: not this one with it.
            file.write(f"\n{json.dumps([stream, fragment])}\n")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all())

    def forget(self, reached: Callable[[str], float]) -> None:
        """Forget those behind the fragment that `reached` says of a stream: it is asked again."""
        known = self._all()
        kept = {(stream, fragment) for stream, fragment in known if fragment <= reached(stream)}
        if kept != known:
            fresh = self._path.with_name(f"{HOLES}.new")
            lines = "".join(json.dumps(hole) + "\n" for hole in sorted(kept))
            fresh.write_text(lines, encoding="ascii")
            fresh.replace(self._path)

    def _all(self) -> set[tuple[str, int]]:
        try:
            lines = self._path.read_text("ascii", "replace").splitlines()
        except FileNotFoundError:
            return set()
        found = set()
        for line in lines:
            try:
                stream, fragment = json.loads(line)
                found.add((str(stream), int(fragment)))
            except (ValueError, TypeError):  # torn by a kill, or empty
                continue
        return found
