"""Who hears of what: rooms, subscriptions, and the one pass that serves them.

1. `publish` is sync and puts an event into one bounded channel; a *pass*, sync
   too, takes a batch from it, encodes and frames each event once, and hands each
   subscription what is its own in one `try_send`. The hub task runs a pass
   whenever something was published; whoever finds the channel full, or subscribes,
   runs one himself. So nothing blocks and nothing is lost.
2. The hub task waits for an event of its own, never in the channel's `receive`:
   trio hands an item straight to a waiting receiver, where a pass run by somebody
   else would overtake it, and a new subscriber would get it after its snapshot.
3. There is one order, that of `publish`, and each subscription gets a subsequence
   of it: all facts (merge_key None), and of each state at least the last.
4. A subscription is *direct* until its peer refuses; then everything goes
   through its outbox, paid by its own `pump`, until it owes nothing. Never both:
   what is handed over directly cannot overtake what is owed.
5. A slow peer costs its outbox and nobody else anything. How long it may stall is
   its connection's write deadline; how much it may owe is OUTBOX_BYTES.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from vidra_trio.core.errors import ShuttingDown
from vidra_trio.core.outbox import Outbox
from vidra_trio.core.rooms import Rooms
from vidra_trio.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from vidra_trio.core.events import Event, Room
    from vidra_trio.core.rooms import Audience

CHANNEL_EVENTS: Final = 256
"""Events between two passes. Four batches: more would only delay the publisher's own pass."""

BATCH_EVENTS: Final = 64
"""Events a pass takes. At 3 us a subscriber and pass, coalescing more saves nothing that shows,
and the joined frames (20 KiB) still fit a socket's buffer."""

OUTBOX_BYTES: Final = 128 * 1024
"""What a subscription may owe in facts: some 300 updates, minutes of a busy job."""

JOIN_BYTES: Final = 64 * 1024
"""What the pump joins into one send; what waits behind it can still be merged."""

_UNENCODABLE: Final = (
    msgspec.MsgspecError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""How an encoder fails over one event's values. That event is lost; the hub and all others stay."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Message:
    """One event, encoded once (`text`, for any transport) and framed once (`frame`, WebSocket)."""

    text: bytes
    frame: bytes


class Peer(Protocol):
    """The far end of a subscription; `web` joins it to a connection.

    No method may call the hub, save that closing a subscription is fine.
    """

    def try_send(self, messages: Sequence[Message], /) -> bool:
        """Take all messages or none, never waiting.

        True: they are the peer's business, though a tail may be unsent (`behind`).
        False: nothing was taken; always so while `behind`, during `send` and when
        the peer is gone. All subscriptions to the same rooms are given the same
        tuple, so joining its frames once, by identity, is allowed.
        """

    async def send(self, messages: Sequence[Message], /) -> None:
        """Write the unsent tail, then `messages` (perhaps none); wait until all is handed over.

        Returns when the peer is gone, too, and then without complaint.
        """

    @property
    def behind(self) -> bool:
        """A tail of an earlier `try_send` is unsent. False once the peer is gone."""


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """How one subscription stands."""

    sent: int
    """Messages handed to the peer, directly or by the pump."""
    merged: int
    """States that a newer one replaced before they were sent."""
    dropped: int
    """Messages that will never be sent: owed when the subscription ended, or came with its end."""
    owed: int
    """Bytes in the outbox and in the pump's hands."""


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """How the hub stands."""

    subscriptions: int
    published: int
    """Events published, those that nobody watched included."""
    delivered: int
    """Messages handed to peers, over all subscriptions that are or were."""
    unencodable: int
    """Events dropped because the encoder failed."""
    passes: int
    channel_used: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one audience gets out of a pass: the same messages, with and without their keys."""

    messages: tuple[Message, ...]
    keys: tuple[Hashable | None, ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[Message, Hashable | None]]) -> _Batch:
        return cls(tuple(message for message, _ in pairs), tuple(key for _, key in pairs))


class Subscription:
    """One reader's bounded, merging view of some rooms. Made by `Hub.subscribe`.

    The owner runs `pump` beside its reader, waits for `overrun` and says `close`.
    """

    def __init__(
        self, peer: Peer, *, budget: int, join: int, forget: Callable[[Subscription], None]
    ) -> None:
        self.overrun: Final = trio.Event()
        """Set when the facts owed passed the budget: close the socket with 1013."""
        self._peer = peer
        self._join = join
        self._forget = forget
        self._outbox: Outbox[Message] = Outbox(budget)
        self._behind = trio.Event()
        self._pumped = False
        self._paying = False
        self._closed = False
        self._sent = self._merged = self._dropped = 0

    async def pump(self) -> None:
        """Pay what is owed, whenever something is; return when the subscription is closed.

        Cancelling it, like any other way out, closes the subscription: it may be
        in the middle of a message, after which nothing more can be written.

        Raises:
            trio.BusyResourceError: it runs, or ran, already.
        """
        if self._pumped:
            raise trio.BusyResourceError("a subscription has one pump")
        self._pumped = True
        try:
            while True:
                await self._behind.wait()
                if self._closed:
                    return
                self._behind = trio.Event()
                await self._pay()
        finally:
            self.close()

    def close(self) -> None:
        """Unsubscribe; what is owed is dropped. Sync, and fine twice or in the middle of a pass.

        The peer is left alone: a send under way is finished, and after it nobody but
        the owner writes there, so a close frame can follow.
        """
        if self._closed:
            return
        self._closed = True
        self._dropped += self._outbox.clear()
        self._behind.set()
        self._forget(self)

    def statistics(self) -> SubscriptionStatistics:
        """Return a frozen picture; it stays readable after `close`."""
        return SubscriptionStatistics(
            sent=self._sent, merged=self._merged, dropped=self._dropped, owed=self._outbox.owed
        )

    async def _pay(self) -> None:
        while not self._closed and (self._outbox or self._peer.behind):
            messages = self._outbox.take(self._join)
            self._sent += len(messages)
            self._paying = True
            await self._peer.send(messages)
            self._paying = False
            self._outbox.settle()
            # A peer that is gone need not wait in `send`; its reader must get a turn to notice.
            await trio.lowlevel.checkpoint()

    def _greet(self, messages: Sequence[Message]) -> None:
        """Queue what the reader starts with. It precedes all else, and the budget is not for it."""
        if messages and not self._handed_over(messages):
            for message in messages:
                # A key of its own: nothing replaces it, and it does not count as a fact.
                self._owe(message, key=object())
            self._behind.set()

    def _offer(self, batch: _Batch) -> None:
        """Deliver one pass's messages: all at once, or all by the outbox."""
        if not self._closed and not self._handed_over(batch.messages):
            for message, key in zip(batch.messages, batch.keys, strict=True):
                self._owe(message, key)
            self._behind.set()

    def _handed_over(self, messages: Sequence[Message]) -> bool:
        if self._outbox or self._paying or not self._peer.try_send(messages):
            return False
        self._sent += len(messages)
        if self._peer.behind:
            self._behind.set()
        return True

    def _owe(self, message: Message, key: Hashable | None) -> None:
        if key is None and self._outbox.overdrawn:
            self.close()
            self.overrun.set()
        if self._closed:  # just now, earlier in this batch, or by its peer's refusal
            self._dropped += 1
            return
        self._merged += self._outbox.put(message, len(message.frame), key)


class Hub:
    """Rooms and those who watch them; one per server, used from its Trio thread only."""

    def __init__(
        self,
        encode: Callable[[Event], bytes],
        *,
        channel_events: int = CHANNEL_EVENTS,
        batch_events: int = BATCH_EVENTS,
        outbox_bytes: int = OUTBOX_BYTES,
        join_bytes: int = JOIN_BYTES,
    ) -> None:
        self._encode = encode
        self._batch_events = batch_events
        self._outbox_bytes = outbox_bytes
        self._join_bytes = join_bytes
        self._put, self._take = trio.open_memory_channel["Event"](channel_events)
        self._rooms: Rooms[Subscription] = Rooms()
        self._stirred = trio.Event()
        self._passing = False
        self._closed = False
        self._published = self._unencodable = self._passes = 0
        self._delivered_before = 0  # by subscriptions that are gone

    def publish(self, event: Event) -> None:
        """Tell everybody in the event's rooms, soon; sync, never blocks.

        Nothing happens when nobody is there. When the channel is full the caller
        serves a batch itself. After `close` it is a no-op.

        Raises:
            RuntimeError: a peer or the encoder published into a full channel.
        """
        if self._closed:
            return
        self._published += 1
        # Whoever comes later starts with a snapshot that holds this event already.
        if not self._rooms.watched(event.rooms):
            return
        try:
            self._put.send_nowait(event)
        except trio.WouldBlock:
            self._pass()
            self._put.send_nowait(event)
        self._stirred.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve what is published, a batch per scheduler pass, until cancelled.

        Cancelling it loses nothing: what is in the channel stays there, and a full
        channel or `close` still serves it.
        """
        task_status.started()
        while True:
            await self._stirred.wait()
            if self._pass() < self._batch_events:
                self._stirred = trio.Event()

    def subscribe(
        self, rooms: Iterable[Room], peer: Peer, first: Callable[[], Sequence[bytes]]
    ) -> Subscription:
        """Let a peer watch `rooms`, beginning with the messages that `first` returns.

        Sync, hence atomic: what was published before is served first and does not
        reach this peer, what `first` sees is what the peer starts from, and all that
        is published later follows it. An event in several of the rooms comes once.

        Raises:
            ShuttingDown: the hub is closed.
            Exception: whatever `first` raises; nothing is left of the subscription then.
        """
        if self._closed:
            raise ShuttingDown
        self._flush()
        greeting = tuple(Message(text, text_frame(text)) for text in first())
        watched = frozenset(rooms)
        subscription = Subscription(
            peer,
            budget=self._outbox_bytes,
            join=self._join_bytes,
            forget=lambda gone: self._drop(watched, gone),
        )
        self._rooms.add(watched, subscription)
        subscription._greet(greeting)
        return subscription

    def close(self) -> None:
        """Serve what was published, then take no more; sync, fine twice.

        Subscriptions stay until their owners close them, so what they owe is still paid.
        """
        if not self._closed:
            self._flush()
            self._closed = True

    def statistics(self) -> HubStatistics:
        """Return a frozen picture."""
        sent = [subscription.statistics().sent for subscription in self._rooms]
        return HubStatistics(
            subscriptions=len(sent),
            published=self._published,
            delivered=self._delivered_before + sum(sent),
            unencodable=self._unencodable,
            passes=self._passes,
            channel_used=self._take.statistics().current_buffer_used,
        )

    def _flush(self) -> None:
        while self._pass() == self._batch_events:
            pass

    def _pass(self) -> int:
        """Serve the next batch; return how many events it held."""
        if self._passing:
            raise RuntimeError("a peer or the encoder called the hub in the middle of a pass")
        self._passing = True
        try:
            events = self._next_batch()
            for audience, batch in self._sort(events):
                for subscription in tuple(audience.watchers):
                    subscription._offer(batch)
        finally:
            self._passing = False
        self._passes += 1
        return len(events)

    def _next_batch(self) -> list[Event]:
        events: list[Event] = []
        with contextlib.suppress(trio.WouldBlock):
            while len(events) < self._batch_events:
                events.append(self._take.receive_nowait())
        return events

    def _sort(self, events: Iterable[Event]) -> list[tuple[Audience[Subscription], _Batch]]:
        """Encode each event that somebody watches and lay it out for each audience."""
        picked: dict[Audience[Subscription], list[tuple[Message, Hashable | None]]] = {}
        for event in events:
            audiences = self._rooms.audiences(event.rooms)
            message = self._message(event) if audiences else None
            if message is not None:
                for audience in audiences:
                    picked.setdefault(audience, []).append((message, event.merge_key))
        return [(audience, _Batch.of(pairs)) for audience, pairs in picked.items()]

    def _message(self, event: Event) -> Message | None:
        try:
            text = self._encode(event)
        except _UNENCODABLE:
            self._unencodable += 1
            _logger.exception("an event was dropped: %s cannot be encoded", type(event).__name__)
            return None
        return Message(text, text_frame(text))

    def _drop(self, rooms: frozenset[Room], subscription: Subscription) -> None:
        self._rooms.discard(rooms, subscription)
        self._delivered_before += subscription.statistics().sent
