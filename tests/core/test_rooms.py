"""Rooms and their audiences."""

from __future__ import annotations

import pytest

from vidra_trio.core.rooms import Rooms


def watchers(rooms: Rooms[str], *names: str) -> list[str]:
    """Return who hears of something that is published in `names`."""
    return [watcher for audience in rooms.audiences(names) for watcher in audience.watchers]


def test_watchers_of_the_same_rooms_are_one_audience() -> None:
    """They are sorted for once, in the order in which they came."""
    rooms: Rooms[str] = Rooms()
    rooms.add(frozenset("ab"), "first")
    rooms.add(frozenset("ba"), "second")
    rooms.add(frozenset("a"), "third")
    assert len(rooms.audiences("a")) == 2
    assert watchers(rooms, "b") == ["first", "second"]
    assert list(rooms) == ["first", "second", "third"]


def test_an_audience_of_two_rooms_is_found_once() -> None:
    """What is published in both of a watcher's rooms concerns it once."""
    rooms: Rooms[str] = Rooms()
    rooms.add(frozenset("ab"), "both")
    assert watchers(rooms, "a", "b") == ["both"]


def test_nothing_is_kept_of_those_who_left() -> None:
    """A room that everybody left is not watched, whoever stays elsewhere is."""
    rooms: Rooms[str] = Rooms()
    rooms.add(frozenset("ab"), "both")
    rooms.add(frozenset("ab"), "too")
    rooms.add(frozenset("a"), "one")
    rooms.discard(frozenset("ab"), "both")
    assert watchers(rooms, "b") == ["too"]
    rooms.discard(frozenset("ab"), "too")
    assert rooms.watched(["a"])
    assert not rooms.watched(["b"])
    rooms.discard(frozenset("a"), "one")
    assert not rooms.watched("ab")
    assert list(rooms) == []


def test_leaving_twice_is_a_mistake() -> None:
    """Who is not there cannot be let out."""
    rooms: Rooms[str] = Rooms()
    rooms.add(frozenset("a"), "one")
    rooms.discard(frozenset("a"), "one")
    with pytest.raises(KeyError):
        rooms.discard(frozenset("a"), "one")


def test_a_watcher_of_no_room_is_still_there() -> None:
    """It hears nothing, and can leave."""
    rooms: Rooms[str] = Rooms()
    rooms.add(frozenset(), "nobody")
    assert list(rooms) == ["nobody"]
    rooms.discard(frozenset(), "nobody")
    assert list(rooms) == []
