"""The hub with peers that keep up: who hears what, in which order, at what cost."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.watching import (
    FakePeer,
    changed,
    counts,
    deleted,
    encode,
    logged,
    progress,
    spell,
)
from vidra_trio.core.errors import JobNotFound, ShuttingDown
from vidra_trio.core.events import OVERVIEW, job_room
from vidra_trio.hub import Hub, HubStatistics, Subscription
from vidra_trio.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vidra_trio.core.events import Event
    from vidra_trio.hub import Message

A, B = job_room("a"), job_room("b")


def nothing() -> list[bytes]:
    """Begin without a word."""
    return []


@contextmanager
def watching(hub: Hub, *rooms: str) -> Iterator[FakePeer]:
    """Subscribe a good peer for the length of the block."""
    peer = FakePeer()
    subscription = hub.subscribe(rooms, peer, nothing)
    yield peer
    subscription.close()


async def test_an_event_reaches_those_in_its_room_and_nobody_else(nursery: trio.Nursery) -> None:
    """A room is what keeps one job's stream from the readers of another."""
    hub = Hub(encode)
    await nursery.start(hub.run)
    with watching(hub, A) as a, watching(hub, B) as b, watching(hub, OVERVIEW) as everybody:
        hub.publish(logged("a", 1))
        hub.publish(progress("b", 2))
        hub.publish(counts(3))
        await wait_all_tasks_blocked()
    assert a.got == ["log a 1"]
    assert b.got == ["progress b 2"]
    assert everybody.got == ["overview - 3"]
    nursery.cancel_scope.cancel()


async def test_an_event_in_two_rooms_of_a_subscription_arrives_once(nursery: trio.Nursery) -> None:
    """Who watches the overview and a job is told of the job's update one time."""
    hub = Hub(encode)
    await nursery.start(hub.run)
    with watching(hub, OVERVIEW, A, B) as peer:
        hub.publish(changed("a", 1))
        hub.publish(deleted("b", 2))
        await wait_all_tasks_blocked()
    assert peer.got == ["update a 1", "deleted b 2"]
    nursery.cancel_scope.cancel()


async def test_an_event_is_encoded_and_framed_once_for_all(nursery: trio.Nursery) -> None:
    """However many watch it, in whatever rooms, they share one message."""
    encoded: list[str] = []

    def encode_once(event: Event) -> bytes:
        encoded.append(spell(event))
        return encode(event)

    hub = Hub(encode_once)
    await nursery.start(hub.run)
    with watching(hub, A) as one, watching(hub, A) as two, watching(hub, OVERVIEW, B) as three:
        hub.publish(changed("a", 1))
        await wait_all_tasks_blocked()
    assert encoded == ["update a 1"]
    (message,) = one.messages
    assert two.messages[0] is three.messages[0] is message
    assert message.frame == text_frame(message.text) == text_frame(b"update a 1")
    nursery.cancel_scope.cancel()


def test_what_nobody_watches_is_not_encoded() -> None:
    """An event without an audience costs a look into a table; it does not even wait anywhere."""

    def never(event: Event) -> bytes:
        raise NotImplementedError(event)

    hub = Hub(never)
    with watching(hub, B) as peer:
        hub.publish(logged("a", 1))
        assert hub.statistics().channel_used == 0
        hub.publish(logged("b", 2))
    hub.publish(logged("b", 3))
    hub.close()
    assert peer.got == []
    assert hub.statistics().published == 3


async def test_what_one_scheduler_pass_brings_is_handed_over_at_once(
    nursery: trio.Nursery,
) -> None:
    """A burst costs each subscriber one write, up to a batch."""
    hub = Hub(encode)
    await nursery.start(hub.run)
    with watching(hub, A) as peer:
        for n in range(5):
            hub.publish(logged("a", n))
        await wait_all_tasks_blocked()
        assert peer.tried == [5]
        for n in range(5, 5 + 130):
            hub.publish(logged("a", n))
        await wait_all_tasks_blocked()
    assert peer.tried == [5, 64, 64, 2]
    assert peer.got == [f"log a {n}" for n in range(135)]
    nursery.cancel_scope.cancel()


async def test_others_get_a_turn_between_two_batches(nursery: trio.Nursery) -> None:
    """A full channel does not keep the scheduler to itself."""
    hub = Hub(encode, channel_events=64, batch_events=8)
    with watching(hub, A) as peer:
        for n in range(64):
            hub.publish(logged("a", n))
        await nursery.start(hub.run)
        seen = []
        while len(peer.got) < 64:
            await trio.lowlevel.checkpoint()
            seen.append(len(peer.got))
    assert len(set(seen)) >= 4
    nursery.cancel_scope.cancel()


async def test_the_same_rooms_are_given_the_same_tuple(nursery: trio.Nursery) -> None:
    """A peer may join the frames once for all of its audience, by identity."""
    given: list[Sequence[Message]] = []

    class Noting(FakePeer):
        def accept(self, messages: Sequence[Message]) -> bool:
            given.append(messages)
            return True

    hub = Hub(encode)
    await nursery.start(hub.run)
    for _ in range(2):
        hub.subscribe([A, OVERVIEW], Noting(), nothing)
    hub.publish(logged("a", 1))
    await wait_all_tasks_blocked()
    assert given[0] is given[1]
    nursery.cancel_scope.cancel()


def test_a_full_channel_is_served_by_whoever_fills_it() -> None:
    """`publish` never blocks, loses or reorders, even when the hub task never gets to run."""
    hub = Hub(encode)
    with watching(hub, A) as peer:
        for n in range(1000):
            hub.publish(logged("a", n))
            assert hub.statistics().channel_used <= 256
        assert 1000 - 256 <= len(peer.got) < 1000
        hub.close()
    assert peer.got == [f"log a {n}" for n in range(1000)]


async def test_a_subscriber_starts_from_its_snapshot(nursery: trio.Nursery) -> None:
    """No gap, and nothing older than the snapshot after it, even while the hub is being woken."""
    hub = Hub(encode)
    await nursery.start(hub.run)
    await wait_all_tasks_blocked()
    late = FakePeer()
    with watching(hub, A) as early:
        hub.publish(logged("a", 1))  # the hub task is woken by this and has not run yet
        hub.publish(logged("a", 2))
        hub.subscribe([A], late, lambda: [b"snapshot at 2", b"and more"])
        assert early.got == ["log a 1", "log a 2"]
        hub.publish(logged("a", 3))
        await wait_all_tasks_blocked()
    assert late.got == ["snapshot at 2", "and more", "log a 3"]
    assert late.messages[0].frame == text_frame(b"snapshot at 2")
    assert early.got == ["log a 1", "log a 2", "log a 3"]
    nursery.cancel_scope.cancel()


def test_a_subscriber_arriving_at_a_full_channel() -> None:
    """All that waits, however many batches, is served before the newcomer is let in."""
    hub = Hub(encode)
    late = FakePeer()
    with watching(hub, A) as early:
        for n in range(256):
            hub.publish(logged("a", n))
        hub.subscribe([A], late, nothing)
        assert early.tried == [64] * 4
        assert late.tried == []


def test_a_snapshot_that_cannot_be_had_leaves_no_subscription() -> None:
    """What `first` raises goes to the caller, and the hub is as it was."""

    def first() -> list[bytes]:
        raise JobNotFound("a")

    hub = Hub(encode)
    with pytest.raises(JobNotFound):
        hub.subscribe([A], FakePeer(), first)
    assert hub.statistics().subscriptions == 0


def test_a_closed_hub() -> None:
    """Closing serves what was published; then nothing is taken, and nobody is let in."""
    hub = Hub(encode)
    with watching(hub, A) as peer:
        hub.publish(logged("a", 1))
        hub.close()
        assert peer.got == ["log a 1"]
        hub.publish(logged("a", 2))
        hub.close()
        with pytest.raises(ShuttingDown):
            hub.subscribe([A], FakePeer(), nothing)
        assert hub.statistics().published == 1
    assert peer.got == ["log a 1"]


async def test_a_cancelled_hub_task_loses_nothing() -> None:
    """What is in the channel stays there, for the next pass, whoever runs it."""
    hub = Hub(encode)
    with watching(hub, A) as peer:
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await wait_all_tasks_blocked()
            hub.publish(logged("a", 1))
            nursery.cancel_scope.cancel()
        hub.close()
    assert peer.got == ["log a 1"]


@pytest.mark.parametrize(
    "defect",
    [
        msgspec.EncodeError("no"),
        TypeError("no"),
        ValueError("no"),
        KeyError("no"),
        AttributeError("no"),
        OverflowError("no"),
        RecursionError("no"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
    ],
    ids=lambda defect: type(defect).__name__,
)
async def test_an_event_that_cannot_be_encoded_harms_no_other(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, defect: Exception
) -> None:
    """It is dropped and logged; the hub and the events around it go on."""

    def fails(event: Event) -> bytes:
        if spell(event) == "log a 2":
            raise defect
        return encode(event)

    hub = Hub(fails)
    await nursery.start(hub.run)
    with watching(hub, A) as peer:
        for n in range(1, 4):
            hub.publish(logged("a", n))
        await wait_all_tasks_blocked()
        hub.publish(logged("a", 4))
        await wait_all_tasks_blocked()
    assert peer.got == ["log a 1", "log a 3", "log a 4"]
    assert hub.statistics().unencodable == 1
    assert "an event was dropped: Logged cannot be encoded" in caplog.text
    nursery.cancel_scope.cancel()


def test_a_batch_in_which_nothing_can_be_encoded() -> None:
    """There is nothing to hand over, so nobody is asked to take it."""

    def fails(_: Event) -> bytes:
        raise ValueError("no")

    hub = Hub(fails)
    with watching(hub, A) as peer:
        hub.publish(logged("a", 1))
        hub.close()
    assert peer.tried == []


def test_a_peer_that_publishes_into_a_full_channel_is_a_mistake() -> None:
    """A pass inside a pass would reorder, so it is refused loudly."""
    hub = Hub(encode, channel_events=1)

    class Talkative(FakePeer):
        def accept(self, messages: Sequence[Message]) -> bool:
            hub.publish(logged("a", 10))
            hub.publish(logged("a", 11))
            return super().accept(messages)

    hub.subscribe([A], Talkative(), nothing)
    hub.publish(logged("a", 1))
    with pytest.raises(RuntimeError, match="in the middle of a pass"):
        hub.close()


@pytest.mark.parametrize("rooms", [[A], [A, OVERVIEW]], ids=["same audience", "other audience"])
def test_a_subscription_may_be_closed_in_the_middle_of_a_pass(rooms: list[str]) -> None:
    """Whoever a peer closes, itself included, gets nothing more; all others get everything."""
    hub = Hub(encode)
    closed: list[Subscription] = []

    class Closing(FakePeer):
        def accept(self, messages: Sequence[Message]) -> bool:
            for subscription in closed:
                subscription.close()
            return super().accept(messages)

    closing, victim = Closing(), FakePeer()
    closed.append(hub.subscribe([A], closing, nothing))
    closed.append(hub.subscribe(rooms, victim, nothing))
    with watching(hub, A) as other:
        hub.publish(logged("a", 1))
        hub.publish(logged("a", 2))
        hub.subscribe([], FakePeer(), nothing)  # runs the pass
        hub.publish(logged("a", 3))
        hub.close()
    assert other.got == ["log a 1", "log a 2", "log a 3"]
    assert closing.got == ["log a 1", "log a 2"]
    assert victim.got == []


async def test_statistics(nursery: trio.Nursery) -> None:
    """The hub's numbers add up, those who left included."""
    hub = Hub(encode)
    await nursery.start(hub.run)
    with watching(hub, A), watching(hub, OVERVIEW):
        hub.publish(changed("a", 1))
        hub.publish(logged("b", 2))
        assert hub.statistics().channel_used == 1
        await wait_all_tasks_blocked()
        hub.publish(logged("a", 3))
        await wait_all_tasks_blocked()
        before = hub.statistics()
    after = hub.statistics()
    assert before.subscriptions == 2
    assert before.passes > 0
    assert after == HubStatistics(
        subscriptions=0,
        published=3,
        delivered=3,
        unencodable=0,
        passes=before.passes,
        channel_used=0,
    )
    nursery.cancel_scope.cancel()
