"""Subscriptions whose peers do not keep up: what they get, in which order, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.watching import (
    FakePeer,
    GonePeer,
    SlowPeer,
    changed,
    counts,
    deleted,
    encode,
    logged,
    progress,
)
from vidra_trio.core.events import OVERVIEW, job_room
from vidra_trio.hub import Hub, Peer, Subscription, SubscriptionStatistics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from vidra_trio.core.events import Event
    from vidra_trio.hub import Message

A = job_room("a")


@pytest.fixture
async def hub(nursery: trio.Nursery) -> AsyncIterator[Hub]:
    """Return a running hub with small limits."""
    hub = Hub(encode, outbox_bytes=1000, join_bytes=200)
    await nursery.start(hub.run)
    yield hub
    nursery.cancel_scope.cancel()


def watch(hub: Hub, peer: Peer, *first: bytes) -> Subscription:
    """Subscribe `peer` to the overview and to job `a`."""
    return hub.subscribe([OVERVIEW, A], peer, lambda: first)


async def publish(hub: Hub, *events: Event) -> None:
    """Publish, and wait until everybody has done what can be done."""
    for event in events:
        hub.publish(event)
    await wait_all_tasks_blocked()


async def test_what_is_refused_is_sent_by_the_pump(hub: Hub, nursery: trio.Nursery) -> None:
    """A peer that cannot take something now gets it when it can, in order."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, logged("a", 1), logged("a", 2))
    assert peer.got == []
    assert subscription.statistics().owed > 0
    nursery.start_soon(subscription.pump)
    await publish(hub, logged("a", 3))
    assert peer.got == ["log a 1", "log a 2", "log a 3"]
    assert subscription.statistics() == SubscriptionStatistics(sent=3, merged=0, dropped=0, owed=0)


async def test_a_subscription_that_owes_nothing_is_direct_again(
    hub: Hub, nursery: trio.Nursery
) -> None:
    """The pump is for the time of trouble only."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    nursery.start_soon(subscription.pump)
    await publish(hub, logged("a", 1))
    assert len(peer.sends) == 1
    peer.recover()
    await publish(hub, logged("a", 2))
    assert len(peer.sends) == 1
    assert peer.got == ["log a 1", "log a 2"]


async def test_nothing_overtakes_what_is_owed(hub: Hub, nursery: trio.Nursery) -> None:
    """While anything is owed or being sent, the direct path is not even tried."""
    peer = SlowPeer()
    peer.stalled = True
    subscription = watch(hub, peer)
    nursery.start_soon(subscription.pump)
    await publish(hub, logged("a", 1))
    assert peer.sending
    tried = len(peer.tried)
    await publish(hub, logged("a", 2))
    await publish(hub, logged("a", 3))
    assert len(peer.tried) == tried
    peer.recover()
    await publish(hub, logged("a", 4))
    assert peer.got == [f"log a {n}" for n in (1, 2, 3, 4)]


async def test_a_newer_state_replaces_an_older_one_that_is_owed(
    hub: Hub, nursery: trio.Nursery
) -> None:
    """Latest wins, one per key, at the place of the newest."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, progress("a", 1), counts(2), logged("a", 3), progress("a", 4), counts(5))
    await publish(hub, progress("a", 6))
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got == ["log a 3", "overview - 5", "progress a 6"]
    assert subscription.statistics().merged == 3


async def test_no_progress_follows_the_end_of_its_job(hub: Hub, nursery: trio.Nursery) -> None:
    """The last progress before a fact is sent before it; after the end there is none to send."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, progress("a", 1), changed("a", 2), progress("a", 3), progress("a", 4))
    await publish(hub, changed("a", 5), deleted("a", 6), counts(7))
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got == [
        "update a 2",
        "progress a 4",
        "update a 5",
        "deleted a 6",
        "overview - 7",
    ]


async def test_a_state_in_the_pumps_hands_is_not_replaced(hub: Hub, nursery: trio.Nursery) -> None:
    """What is being sent is sent; the newer state follows it."""
    peer = SlowPeer()
    peer.stalled = True
    subscription = watch(hub, peer)
    nursery.start_soon(subscription.pump)
    await publish(hub, progress("a", 1))
    await publish(hub, progress("a", 2))
    await publish(hub, progress("a", 3))
    peer.recover()
    await wait_all_tasks_blocked()
    assert peer.got == ["progress a 1", "progress a 3"]


async def test_a_tail_is_the_pumps_business(hub: Hub, nursery: trio.Nursery) -> None:
    """A write that went out in part is finished even if nothing more is ever published."""
    peer = SlowPeer()
    peer.refuses, peer.leaves_tail = False, True
    subscription = watch(hub, peer)
    await publish(hub, logged("a", 1))
    assert peer.behind
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert not peer.behind
    assert peer.sends == [0]
    await publish(hub, logged("a", 2))
    assert peer.got == ["log a 1", "log a 2"]


async def test_what_follows_a_tail_waits_for_it(hub: Hub, nursery: trio.Nursery) -> None:
    """The tail goes first, and what came meanwhile with it."""
    peer = SlowPeer()
    peer.refuses, peer.leaves_tail = False, True
    subscription = watch(hub, peer)
    await publish(hub, logged("a", 1))
    await publish(hub, logged("a", 2))
    assert peer.got == ["log a 1"]
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got == ["log a 1", "log a 2"]
    assert len(peer.sends) == 1


async def test_what_is_owed_is_joined_up_to_a_limit(hub: Hub, nursery: trio.Nursery) -> None:
    """Few writes, each of them bounded; what waits behind can still be merged."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, *(logged("a", n, "." * 40) for n in range(10)))
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert len(peer.got) == 10
    assert len(peer.sends) == 3
    assert max(peer.sends) <= 200


async def test_facts_beyond_the_budget_end_the_subscription(
    hub: Hub, nursery: trio.Nursery
) -> None:
    """Facts are not dropped one by one: the reader is told to start over, and is free from now."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, *(logged("a", n, "." * 90) for n in range(9)))
    assert not subscription.overrun.is_set()
    await publish(hub, *(logged("a", n, "." * 90) for n in range(9, 20)))
    assert subscription.overrun.is_set()
    assert subscription.statistics() == SubscriptionStatistics(sent=0, merged=0, dropped=20, owed=0)
    assert hub.statistics().subscriptions == 0
    await publish(hub, logged("a", 20))
    await subscription.pump()
    assert peer.got == []


async def test_what_is_being_sent_draws_on_the_budget(hub: Hub, nursery: trio.Nursery) -> None:
    """Bytes that the pump holds are owed as well: a stalled send gives no new credit."""
    peer = SlowPeer()
    peer.stalled = True
    subscription = watch(hub, peer)
    nursery.start_soon(subscription.pump)
    for n in range(20):
        await publish(hub, logged("a", n, "." * 90))
        assert subscription.statistics().owed <= 1000 + 110
    assert subscription.overrun.is_set()


async def test_states_never_overrun_a_subscription(hub: Hub, nursery: trio.Nursery) -> None:
    """However long a peer stalls, states cost one message per key."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    for n in range(1000):
        await publish(hub, progress("a", n), counts(n))
    assert not subscription.overrun.is_set()
    assert subscription.statistics().owed < 100
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got == ["progress a 999", "overview - 999"]


async def test_states_are_still_merged_past_the_budget(hub: Hub, nursery: trio.Nursery) -> None:
    """A budget that facts have used up keeps no state out."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, logged("a", 1, "." * 2000), progress("a", 2))
    await publish(hub, progress("a", 3))
    assert not subscription.overrun.is_set()
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got[1:] == ["progress a 3"]


async def test_a_single_fact_may_be_larger_than_the_budget(hub: Hub, nursery: trio.Nursery) -> None:
    """A large event costs nobody his subscription who was only a moment behind."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    await publish(hub, logged("a", 1), logged("a", 2, "." * 5000))
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    await publish(hub, logged("a", 3))
    assert [text[:7] for text in peer.got] == ["log a 1", "log a 2", "log a 3"]


async def test_what_a_reader_starts_with_is_not_held_against_it(
    hub: Hub, nursery: trio.Nursery
) -> None:
    """A large snapshot that cannot be written at once leaves the whole budget for what follows."""
    peer = SlowPeer()
    subscription = watch(hub, peer, b"s" * 3000, b"t" * 3000)
    assert subscription.statistics().owed > 6000
    await publish(hub, logged("a", 1), progress("a", 2))
    assert not subscription.overrun.is_set()
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    assert peer.got == ["s" * 3000, "t" * 3000, "log a 1", "progress a 2"]


async def test_closing_drops_what_is_owed(hub: Hub, nursery: trio.Nursery) -> None:
    """The pump returns, nothing more is written, and a second close changes nothing."""
    peer = SlowPeer()
    peer.stalled = True
    subscription = watch(hub, peer)
    async with trio.open_nursery() as owner:
        owner.start_soon(subscription.pump)
        await publish(hub, logged("a", 1))
        await publish(hub, logged("a", 2))
        subscription.close()
        subscription.close()
        assert subscription.statistics() == SubscriptionStatistics(
            sent=1, merged=0, dropped=1, owed=0
        )
        peer.let_one_through()
    await publish(hub, logged("a", 3))
    assert peer.got == ["log a 1"]
    assert not subscription.overrun.is_set()


async def test_closing_ends_an_idle_pump(hub: Hub) -> None:
    """The owner need not cancel it."""
    subscription = watch(hub, FakePeer())
    async with trio.open_nursery() as owner:
        owner.start_soon(subscription.pump)
        await wait_all_tasks_blocked()
        subscription.close()


async def test_a_cancelled_pump_closes_the_subscription(hub: Hub) -> None:
    """Something may be half written, so nothing more may be."""
    peer = SlowPeer()
    peer.stalled = True
    subscription = watch(hub, peer)
    async with trio.open_nursery() as owner:
        owner.start_soon(subscription.pump)
        await publish(hub, logged("a", 1))
        owner.cancel_scope.cancel()
    assert subscription.statistics().owed == 0
    tried = len(peer.tried)
    peer.recover()
    await publish(hub, logged("a", 2))
    assert len(peer.tried) == tried
    assert hub.statistics().subscriptions == 0


async def test_a_second_pump_is_refused(hub: Hub, nursery: trio.Nursery) -> None:
    """Two would overtake each other; the first one goes on."""
    peer = SlowPeer()
    subscription = watch(hub, peer)
    nursery.start_soon(subscription.pump)
    await wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await subscription.pump()
    await publish(hub, logged("a", 1))
    assert peer.got == ["log a 1"]


async def test_a_peer_that_is_gone(hub: Hub, nursery: trio.Nursery) -> None:
    """It neither blocks nor spins, costs nothing, and closing its subscription ends it."""
    peer = GonePeer()
    subscription = watch(hub, peer)
    async with trio.open_nursery() as owner:
        owner.start_soon(subscription.pump)
        for n in range(100):
            await publish(hub, logged("a", n, "." * 90))
        assert subscription.statistics().owed == 0
        subscription.close()


async def test_a_peer_that_forgets_to_say_that_it_is_gone(hub: Hub) -> None:
    """Even one that pretends to be behind for ever leaves the others their turns."""

    class Undead(GonePeer):
        def __init__(self) -> None:
            super().__init__()
            self.behind = True

    subscription = watch(hub, Undead())
    hub.publish(logged("a", 1))
    with trio.fail_after(60):
        async with trio.open_nursery() as owner:
            owner.start_soon(subscription.pump)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            subscription.close()


async def test_a_peer_that_closes_its_subscription_and_refuses(hub: Hub) -> None:
    """What a peer refuses on its way out is dropped, not kept for nobody."""
    closing: list[Subscription] = []

    class Leaving(FakePeer):
        def accept(self, messages: Sequence[Message]) -> bool:
            closing[0].close()
            return not messages

    closing.append(watch(hub, Leaving()))
    await publish(hub, logged("a", 1), progress("a", 2))
    assert closing[0].statistics() == SubscriptionStatistics(sent=0, merged=0, dropped=2, owed=0)


async def test_a_stalled_subscriber_costs_the_healthy_ones_nothing(
    hub: Hub, nursery: trio.Nursery
) -> None:
    """The two beside one that never reads miss nothing and wait for nothing."""
    stalled, healthy = SlowPeer(), [FakePeer(), FakePeer()]
    stalled.stalled = True
    subscriptions = [watch(hub, peer) for peer in (healthy[0], stalled, healthy[1])]
    for subscription in subscriptions:
        nursery.start_soon(subscription.pump)
    expected = []
    for n in range(200):
        await publish(hub, progress("a", n), logged("a", n))
        expected += [f"progress a {n}", f"log a {n}"]
        assert healthy[0].got == healthy[1].got == expected
    assert subscriptions[1].overrun.is_set()
    assert [s.overrun.is_set() for s in subscriptions] == [False, True, False]
