"""The table of paths: what the server answers and the client asks.

1. A path is fixed words and at most one `{job_id}`, which is one segment.
2. Fixed words win: `POST /api/jobs/cancel` is the bulk command, and every other
   method there belongs to a job of that name.
3. A trailing slash means nothing.
4. The configured prefixes are second names of the fixed ones, never replacements:
   a client that knows only the old paths still gets through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

HEALTH: Final = "/"
JOBS: Final = "/api/jobs"
CANCEL_MANY: Final = "/api/jobs/cancel"
JOB: Final = "/api/jobs/{job_id}"
CANCEL: Final = "/api/jobs/{job_id}/cancel"
PAUSE: Final = "/api/jobs/{job_id}/pause"
RESUME: Final = "/api/jobs/{job_id}/resume"
RETRY: Final = "/api/jobs/{job_id}/retry"
OPTIONS: Final = "/api/jobs/{job_id}/options"
LOGS: Final = "/api/jobs/{job_id}/logs"
PLAYLIST: Final = "/api/jobs/{job_id}/playlist"
PLAYLIST_ITEMS: Final = "/api/jobs/{job_id}/playlist/items"
PLAYLIST_DELTA: Final = "/api/jobs/{job_id}/playlist/items/delta"
PLAYLIST_SELECTION: Final = "/api/jobs/{job_id}/playlist/selection"
PLAYLIST_RETRY: Final = "/api/jobs/{job_id}/playlist/retry"
PLAYLIST_DELETE: Final = "/api/jobs/{job_id}/playlist/delete"
PROFILES: Final = "/api/profiles"
DIAGNOSTICS: Final = "/api/diagnostics"

WS_OVERVIEW: Final = "/ws/overview"
WS_JOB: Final = "/ws/jobs/{job_id}"
WS_DOWNLOADS: Final = "/ws/downloads"

SOCKET: Final = "SOCKET"
"""Stands where an HTTP route has its method."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row: a request of this method at this path belongs to the view called `name`."""

    method: str
    path: str
    name: str


ROUTES: Final = (
    Route("GET", HEALTH, "health"),
    Route("POST", JOBS, "create"),
    Route("GET", JOBS, "list"),
    Route("POST", CANCEL_MANY, "cancel_many"),
    Route("GET", JOB, "detail"),
    Route("DELETE", JOB, "delete"),
    Route("POST", CANCEL, "cancel"),
    Route("POST", PAUSE, "pause"),
    Route("POST", RESUME, "resume"),
    Route("POST", RETRY, "retry"),
    Route("GET", OPTIONS, "options"),
    Route("GET", LOGS, "logs"),
    Route("GET", PLAYLIST, "playlist"),
    Route("GET", PLAYLIST_ITEMS, "playlist_items"),
    Route("GET", PLAYLIST_DELTA, "playlist_delta"),
    Route("POST", PLAYLIST_SELECTION, "playlist_selection"),
    Route("POST", PLAYLIST_RETRY, "playlist_retry"),
    Route("POST", PLAYLIST_DELETE, "playlist_delete"),
    Route("GET", PROFILES, "profiles"),
    Route("GET", DIAGNOSTICS, "diagnostics"),
    Route(SOCKET, WS_OVERVIEW, "overview_socket"),
    Route(SOCKET, WS_JOB, "job_socket"),
    Route(SOCKET, WS_DOWNLOADS, "downloads_socket"),
)

Segments = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A known path: its fixed spelling, and every row that has it."""

    path: str
    rows: tuple[Route, ...]

    @property
    def methods(self) -> frozenset[str]:
        """What may be asked here; HEAD wherever GET is, OPTIONS everywhere."""
        asked = {row.method for row in self.rows}
        return frozenset(asked | {"OPTIONS"} | ({"HEAD"} if "GET" in asked else set()))


@dataclass(frozen=True, slots=True)
class Table:
    """The fixed paths, and the second names a server was given for some of them."""

    second_names: tuple[tuple[Segments, Segments], ...] = ()

    @classmethod
    def named(cls, names: Iterable[tuple[str, str]]) -> Table:
        """Make a table from (configured prefix, fixed prefix); the longest is tried first."""
        pairs = {(_words(given), _words(fixed)) for given, fixed in names}
        others = [pair for pair in pairs if pair[0] != pair[1]]
        return cls(tuple(sorted(others, key=lambda pair: (-len(pair[0]), pair))))

    def find(self, path: str, *, socket: bool = False) -> Found | None:
        """Look a decoded path up; None when nothing is there."""
        if not path.startswith("/"):
            return None
        asked = _segments(path)
        for segments in (asked, *self._renamed(asked)):
            rows = tuple(
                row
                for row, template in _TEMPLATES
                if (row.method is SOCKET) is socket and _fits(template, segments)
            )
            if rows:
                return Found("/" + "/".join(segments), rows)
        return None

    def _renamed(self, asked: Segments) -> Iterable[Segments]:
        for given, fixed in self.second_names:
            if asked[: len(given)] == given:
                yield fixed + asked[len(given) :]


def _words(prefix: str) -> Segments:
    return tuple(word.strip() for word in prefix.split("/") if word.strip())


def _segments(path: str) -> Segments:
    return tuple(path.rstrip("/").split("/")[1:])


def _fits(template: Segments, segments: Segments) -> bool:
    return len(template) == len(segments) and all(
        word == given or (word == "{job_id}" and given != "")
        for word, given in zip(template, segments, strict=True)
    )


_TEMPLATES: Final = tuple((row, _segments(row.path)) for row in ROUTES)
