"""Who watches which room.

Watchers of exactly the same rooms are one audience: whatever is published
concerns all of them or none, so it is sorted once per audience, not per watcher.
Nothing is kept for a room or an audience that nobody is in.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from vidra_trio.core.events import Room

W = TypeVar("W")


class Audience(Generic[W]):
    """The watchers of one set of rooms, in the order in which they came."""

    def __init__(self) -> None:
        self.watchers: Final[dict[W, None]] = {}


class Rooms(Generic[W]):
    """An index from rooms to audiences; iterating it gives every watcher once."""

    def __init__(self) -> None:
        self._audiences: dict[frozenset[Room], Audience[W]] = {}
        self._watching: dict[Room, list[Audience[W]]] = {}

    def __iter__(self) -> Iterator[W]:
        return itertools.chain.from_iterable(
            audience.watchers for audience in self._audiences.values()
        )

    def watched(self, rooms: Iterable[Room]) -> bool:
        """Is anybody in one of `rooms`?"""
        return any(room in self._watching for room in rooms)

    def audiences(self, rooms: Iterable[Room]) -> Collection[Audience[W]]:
        """Return the audiences of `rooms`, each once, however many of them it watches."""
        return dict.fromkeys(
            audience for room in rooms for audience in self._watching.get(room, ())
        )

    def add(self, rooms: frozenset[Room], watcher: W) -> None:
        """Let `watcher` in."""
        audience = self._audiences.get(rooms)
        if audience is None:
            audience = self._audiences[rooms] = Audience()
            for room in rooms:
                self._watching.setdefault(room, []).append(audience)
        audience.watchers[watcher] = None

    def discard(self, rooms: frozenset[Room], watcher: W) -> None:
        """Let `watcher` out of the `rooms` it was added with.

        Raises:
            KeyError: it is not there.
        """
        audience = self._audiences[rooms]
        del audience.watchers[watcher]
        if audience.watchers:
            return
        del self._audiences[rooms]
        for room in rooms:
            self._watching[room].remove(audience)
            if not self._watching[room]:
                del self._watching[room]
