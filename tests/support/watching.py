"""Events with short names, and peers with every kind of manners, for tests of the hub."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trio

from vidra_trio.core.events import (
    Event,
    JobChanged,
    JobDeleted,
    Logged,
    OverviewChanged,
    ProgressChanged,
)
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot, Summary
from vidra_trio.core.states import JobState, Level, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidra_trio.hub import Message

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def at(number: int) -> datetime:
    """Return an instant that stands for a number."""
    return EPOCH + timedelta(seconds=number)


def snapshot(job: str) -> Snapshot:
    """Return a job of which only the name matters."""
    return Snapshot(job, JobSpec(("https://example.org/clip",)), JobState.RUNNING, EPOCH)


def logged(job: str, number: int, message: str = "") -> Logged:
    """Return a fact in the room of `job`, spelled `log <job> <number>`."""
    return Logged(job, LogEntry(at(number), Level.INFO, message))


def changed(job: str, number: int) -> JobChanged:
    """Return a fact in two rooms, spelled `update <job> <number>`."""
    return JobChanged(snapshot(job), Reason.UPDATED, at(number))


def deleted(job: str, number: int) -> JobDeleted:
    """Return the last fact of a job, spelled `deleted <job> <number>`."""
    return JobDeleted(job, JobState.COMPLETED, at(number))


def progress(job: str, number: int) -> ProgressChanged:
    """Return a state in the room of `job`, spelled `progress <job> <number>`."""
    return ProgressChanged(snapshot(job), at(number))


def counts(number: int) -> OverviewChanged:
    """Return a state in the overview, spelled `overview - <number>`."""
    return OverviewChanged(Summary({}), at(number))


def spell(event: Event) -> str:
    """Name an event so that a test can read what arrived."""
    match event:
        case Logged(job, entry):
            return f"log {job} {number(entry.timestamp)}{entry.message}"
        case JobChanged(job, _, when):
            return f"update {job.job_id} {number(when)}"
        case JobDeleted(job_id, _, when):
            return f"deleted {job_id} {number(when)}"
        case ProgressChanged(job, when):
            return f"progress {job.job_id} {number(when)}"
        case OverviewChanged(_, when):
            return f"overview - {number(when)}"
        case _:
            raise NotImplementedError(event)


def number(when: datetime) -> int:
    """Undo `at`."""
    return round((when - EPOCH).total_seconds())


def encode(event: Event) -> bytes:
    """Stand in for the wire's encoder."""
    return spell(event).encode()


class FakePeer:
    """Takes everything at once. Subclasses have worse manners; all insist on the hub's."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self.messages: list[Message] = []
        self.tried: list[int] = []
        """How many messages each `try_send` offered."""
        self.sends: list[int] = []
        """How many bytes each finished `send` was given."""
        self.behind = False
        self.sending = False

    def try_send(self, messages: Sequence[Message], /) -> bool:
        assert messages, "nothing is nothing to hand over"
        self.tried.append(len(messages))
        if self.behind or self.sending:
            return False
        return self.accept(messages)

    def accept(self, messages: Sequence[Message]) -> bool:
        """Take what is offered to a peer that has nothing else to do."""
        self.take(messages)
        return True

    async def send(self, messages: Sequence[Message], /) -> None:
        assert messages or self.behind, "there is nothing to send"
        assert not self.sending, "one send at a time"
        self.sending = True
        try:
            await self.wait_writable()
            self.behind = False
            self.take(messages)
            self.sends.append(sum(len(message.frame) for message in messages))
        finally:
            self.sending = False

    async def wait_writable(self) -> None:
        """Be as slow as the peer is."""
        await trio.lowlevel.checkpoint()

    def take(self, messages: Sequence[Message]) -> None:
        """Note what arrived."""
        self.messages += messages
        self.got += [message.text.decode() for message in messages]


class SlowPeer(FakePeer):
    """Does as it is told: refuse or take, with a tail or without, stall in `send` or not."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = True
        self.leaves_tail = False
        self.stalled = False
        self._stuck = trio.lowlevel.ParkingLot()

    def accept(self, messages: Sequence[Message]) -> bool:
        if self.refuses or self.stalled:
            return False
        self.behind = self.leaves_tail
        return super().accept(messages)

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.stalled:
            await self._stuck.park()

    def let_one_through(self) -> None:
        """Let the send that is stuck, if one is, finish; the next one is stuck again."""
        self._stuck.unpark()

    def recover(self) -> None:
        """From now on be a good peer."""
        self.refuses = self.leaves_tail = self.stalled = False
        self._stuck.unpark_all()


class GonePeer(FakePeer):
    """Nobody is there any more, and `send` says so by returning at once."""

    def accept(self, messages: Sequence[Message]) -> bool:
        assert messages
        return False

    async def send(self, messages: Sequence[Message], /) -> None:
        self.sends.append(sum(len(message.frame) for message in messages))
