"""CPU per event and subscriber: the hub against the plain way.

The plain way is what one writes first: a bounded memory channel and a task for
each subscriber, which spells and frames the event for itself. Both run in this
process with peers that only count, so sockets and their kernel are not in it.
Jobs publish in turns: each scheduler pass brings one event of each.
"""

from __future__ import annotations

import gc
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from bench.report import Report, Row
from vidra_trio.core.events import ProgressChanged, job_room
from vidra_trio.core.job import JobSpec, Snapshot
from vidra_trio.core.progress import Progress
from vidra_trio.core.states import JobState
from vidra_trio.hub import Hub
from vidra_trio.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from vidra_trio.core.events import Event
    from vidra_trio.hub import Message

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
CHANNEL: Final = 64
"""Events that each subscriber's own channel holds, the plain way."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is published, and to how many."""

    subscribers: int
    jobs: int
    events: int
    """Of each job."""

    @property
    def deliveries(self) -> int:
        """Events times subscribers."""
        return self.subscribers * self.jobs * self.events


LOADS: Final = (
    Load(subscribers=1, jobs=10, events=500),
    Load(subscribers=10, jobs=10, events=200),
    Load(subscribers=100, jobs=1, events=200),
    Load(subscribers=100, jobs=10, events=50),
)


class NullPeer:
    """Joins what it is given, as a peer with a socket would, and counts it."""

    behind = False

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    def try_send(self, messages: Sequence[Message], /) -> bool:
        self.messages += len(messages)
        self.bytes += len(b"".join([message.frame for message in messages]))
        return True

    async def send(self, messages: Sequence[Message], /) -> None:
        raise NotImplementedError("a null peer is never behind")


def event(job: str, number: int) -> ProgressChanged:
    """Return a progress event as a download makes it."""
    progress = Progress(
        status="downloading",
        stage="downloading",
        stage_name="video",
        percent=number % 100,
        stage_percent=number % 100,
        downloaded_bytes=65536 * number,
        total_bytes=734003200,
        speed=5242880.5 + number,
        eta=120,
        elapsed=number / 10,
    )
    snapshot = Snapshot(job, JobSpec(()), JobState.RUNNING, EPOCH, progress=progress)
    return ProgressChanged(snapshot, EPOCH + timedelta(seconds=number))


def payload(happened: Event) -> dict[str, object]:
    """Return what is sent, the same for both ways: some 300 bytes as JSON."""
    assert isinstance(happened, ProgressChanged)  # noqa: S101 - nothing else is published here
    progress = happened.job.progress
    return {
        "event": "progress",
        "payload": {
            "job_id": happened.job.job_id,
            "timestamp": happened.at.isoformat(),
            "status": progress.status,
            "stage": progress.stage,
            "stage_name": progress.stage_name,
            "percent": progress.percent,
            "stage_percent": progress.stage_percent,
            "downloaded_bytes": progress.downloaded_bytes,
            "total_bytes": progress.total_bytes,
            "speed": progress.speed,
            "eta": progress.eta,
            "elapsed": progress.elapsed,
        },
    }


async def through_the_hub(load: Load) -> int:
    """Publish `load`; return how many messages arrived."""
    spell = msgspec.json.Encoder().encode
    hub = Hub(lambda happened: spell(payload(happened)))
    names = [f"job-{n}" for n in range(load.jobs)]
    rooms = [job_room(name) for name in names]
    peers = [NullPeer() for _ in range(load.subscribers)]
    for peer in peers:
        hub.subscribe(rooms, peer, list)

    async def job(name: str) -> None:
        for number in range(load.events):
            hub.publish(event(name, number))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        async with trio.open_nursery() as jobs:
            for name in names:
                jobs.start_soon(job, name)
        hub.close()
        nursery.cancel_scope.cancel()
    return sum(peer.messages for peer in peers)


async def the_plain_way(load: Load) -> int:
    """Publish `load`; return how many messages arrived."""
    peers = [NullPeer() for _ in range(load.subscribers)]
    subscribers: list[trio.MemorySendChannel[dict[str, object]]] = []

    async def subscriber(
        peer: NullPeer, inbox: trio.MemoryReceiveChannel[dict[str, object]]
    ) -> None:
        async for happened in inbox:
            peer.messages += 1
            peer.bytes += len(text_frame(json.dumps(happened).encode()))

    async def job(name: str) -> None:
        for number in range(load.events):
            happened = payload(event(name, number))
            for outbox in subscribers:
                await outbox.send(happened)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            outbox, inbox = trio.open_memory_channel[dict[str, object]](CHANNEL)
            subscribers.append(outbox)
            nursery.start_soon(subscriber, peer, inbox)
        async with trio.open_nursery() as jobs:
            for number in range(load.jobs):
                jobs.start_soon(job, f"job-{number}")
        for outbox in subscribers:
            outbox.close()
    return sum(peer.messages for peer in peers)


def cpu_per_delivery(way: Callable[[Load], Awaitable[int]], load: Load) -> float:
    """Return microseconds of this process's CPU per event and subscriber.

    Raises:
        RuntimeError: not everything arrived, so the number would mean nothing.
    """
    gc.collect()
    before = time.process_time()
    arrived = trio.run(partial(way, load))
    spent = time.process_time() - before
    if arrived != load.deliveries:
        raise RuntimeError(f"{arrived} of {load.deliveries} messages arrived")
    return round(spent / load.deliveries * 1e6, 3)


def measure(loads: Sequence[Load] = LOADS, *, rounds: int = 5) -> Report:
    """Let both ways take turns under each load."""
    rows = []
    for load in loads:
        pairs = [
            (cpu_per_delivery(through_the_hub, load), cpu_per_delivery(the_plain_way, load))
            for _ in range(rounds)
        ]
        rows.append(
            Row(
                load={
                    "subscribers": load.subscribers,
                    "jobs": load.jobs,
                    "events": load.jobs * load.events,
                },
                ours=[ours for ours, _ in pairs],
                theirs=[theirs for _, theirs in pairs],
            )
        )
    return Report(
        scenario="hub",
        unit="microseconds of CPU per event and subscriber, no sockets",
        ours="hub",
        theirs="a channel and json.dumps per subscriber",
        rows=rows,
    )
