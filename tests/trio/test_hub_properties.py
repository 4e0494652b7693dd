"""What holds for any interleaving of publishing, refusing, sending and leaving."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.watching import (
    FakePeer,
    SlowPeer,
    changed,
    counts,
    encode,
    logged,
    progress,
    spell,
)
from vidra_trio.core.events import OVERVIEW, job_room
from vidra_trio.hub import Hub, Peer, Subscription
from vidra_trio.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vidra_trio.core.events import Event, Room

Step: TypeAlias = str

PUBLISHING: dict[Step, Callable[[int], Event]] = {
    "log a": lambda n: logged("a", n),
    "log b": lambda n: logged("b", n),
    "update a": lambda n: changed("a", n),
    "progress a": lambda n: progress("a", n),
    "progress b": lambda n: progress("b", n),
    "counts": counts,
}
MANNERS: dict[Step, Callable[[SlowPeer], None]] = {
    "refuse": lambda peer: setattr(peer, "refuses", True),
    "take": lambda peer: setattr(peer, "refuses", False),
    "leave tails": lambda peer: setattr(peer, "leaves_tail", True),
    "leave no tails": lambda peer: setattr(peer, "leaves_tail", False),
    "stall": lambda peer: setattr(peer, "stalled", True),
    "let one through": SlowPeer.let_one_through,
    "recover": SlowPeer.recover,
}
# "wait" lets every task do what it can, "turn" runs each that is ready once.
STEPS = st.lists(
    st.sampled_from([*PUBLISHING, *PUBLISHING, *MANNERS, "turn", "turn", "wait"]), max_size=60
)
WATCHED = st.sampled_from(
    [(OVERVIEW,), (job_room("a"),), (OVERVIEW, job_room("a")), (job_room("a"), job_room("b"))]
)


def is_fact(event: Event) -> bool:
    """Tell what must arrive from what may be replaced."""
    return event.merge_key is None


class Scene:
    """A slow peer between two healthy ones, all in the same rooms, and all that was published."""

    def __init__(self, rooms: Iterable[Room], *, outbox_bytes: int = 1_000_000) -> None:
        self.rooms = frozenset(rooms)
        self.hub = Hub(
            encode, channel_events=8, batch_events=3, outbox_bytes=outbox_bytes, join_bytes=60
        )
        self.slow = SlowPeer()
        self.healthy = (FakePeer(), FakePeer())
        self.published: list[Event] = []
        self._numbers = count()
        self._peers: tuple[Peer, ...] = (self.healthy[0], self.slow, self.healthy[1])
        self.subscriptions = [
            self.hub.subscribe(rooms, peer, lambda: [b"first"]) for peer in self._peers
        ]

    @property
    def subscription(self) -> Subscription:
        """The slow one's."""
        return self.subscriptions[1]

    async def play(self, steps: Iterable[Step]) -> None:
        """Do `steps` with hub and pumps running, then let everybody recover and finish."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for subscription in self.subscriptions:
                nursery.start_soon(subscription.pump)
            for step in steps:
                await self._do(step)
                self.check_memory()
            self.slow.recover()
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def _do(self, step: Step) -> None:
        if step == "wait":
            await wait_all_tasks_blocked()
        elif step == "turn":
            await trio.lowlevel.checkpoint()
        elif step in MANNERS:
            MANNERS[step](self.slow)
        else:
            event = PUBLISHING[step](next(self._numbers))
            if not self.rooms.isdisjoint(event.rooms):
                self.published.append(event)
            self.hub.publish(event)

    def check_memory(self) -> None:
        """No more is owed than the facts nobody got yet, and two states of each key."""
        if self.subscription.overrun.is_set():
            assert self.subscription.statistics().owed <= 60
            return
        got = set(self.slow.got)
        sizes = [
            (event, len(text_frame(encode(event))))
            for event in self.published
            if spell(event) not in got
        ]
        facts = sum(size for event, size in sizes if is_fact(event))
        states = {event.merge_key: size for event, size in sizes if not is_fact(event)}
        first = len(text_frame(b"first"))
        assert self.subscription.statistics().owed <= facts + 2 * sum(states.values()) + first


@settings(deadline=None)
@given(rooms=WATCHED, steps=STEPS)
@example(
    rooms=(job_room("a"),), steps=["refuse", "progress a", "log a", "turn", "recover", "log a"]
)
async def test_any_interleaving(rooms: tuple[Room, ...], steps: list[Step]) -> None:
    """All facts once and in order, each state's last value last, and neighbours untouched."""
    scene = Scene(rooms)
    await scene.play(steps)

    published = [spell(event) for event in scene.published]
    for peer in scene.healthy:
        assert peer.got == ["first", *published]

    assert scene.slow.got[0] == "first"
    got = scene.slow.got[1:]
    places = [published.index(text) for text in got]
    assert places == sorted(set(places)), "the order of publishing, nothing twice, nothing stale"
    facts = [spell(event) for event in scene.published if is_fact(event)]
    assert [text for text in got if text in set(facts)] == facts
    last = {event.merge_key: spell(event) for event in scene.published if not is_fact(event)}
    assert set(last.values()) <= set(got)

    statistics = scene.subscription.statistics()
    assert statistics.owed == 0
    assert statistics.sent == len(got) + 1
    assert statistics.merged == len(published) - len(got)


@settings(deadline=None)
@given(rooms=WATCHED, steps=STEPS)
@example(rooms=(job_room("a"),), steps=["stall", "log a", "wait", *["log a"] * 9, "wait"])
async def test_any_interleaving_within_a_small_budget(
    rooms: tuple[Room, ...], steps: list[Step]
) -> None:
    """Either nothing is missing, or the reader is told; what it got until then is in order."""
    scene = Scene(rooms, outbox_bytes=50)
    await scene.play(["stall", *steps])

    published = [spell(event) for event in scene.published]
    for peer in scene.healthy:
        assert peer.got == ["first", *published]

    got = scene.slow.got[1:]
    places = [published.index(text) for text in got]
    assert places == sorted(set(places))
    facts = [spell(event) for event in scene.published if is_fact(event)]
    facts_got = [text for text in got if text in set(facts)]
    assert facts_got == facts[: len(facts_got)], "no hole in what was delivered"
    assert scene.subscription.overrun.is_set() or facts_got == facts


@settings(deadline=None)
@given(before=st.integers(0, 20), between=st.integers(0, 20), turns=st.integers(0, 3))
async def test_a_newcomer_starts_without_gap_or_echo(before: int, between: int, turns: int) -> None:
    """Whatever state hub and channel are in: the snapshot, then exactly what came after it."""
    hub = Hub(encode, channel_events=8, batch_events=3)
    early, late = FakePeer(), FakePeer()
    hub.subscribe([job_room("a")], early, list)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        for n in range(before):
            hub.publish(logged("a", n))
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        hub.subscribe([job_room("a")], late, lambda: [b"snapshot"])
        for n in range(before, before + between):
            hub.publish(logged("a", n))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    everything = [f"log a {n}" for n in range(before + between)]
    assert early.got == everything
    assert late.got == ["snapshot", *everything[before:]]
