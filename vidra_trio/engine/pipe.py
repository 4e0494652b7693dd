"""What server and worker say to each other: one JSON line per message.

Reports travel as they are (core.report). Every order carries the number of its
run, so that a stop that comes late never hits the next item of a reused worker.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vidra_trio.core.report import Failed, Identified, Line, Stage, Stopped, Tick, Waiting

MAX_LINE: Final = 1 << 20
"""A longer line is no message of ours: previews are cut long before."""


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Server to worker: run this item. Paths are absolute; `params` as in RunSpec."""

    run: int
    url: str
    work: str
    destination: str
    template: str
    cache: str
    params: dict[str, Any]
    overwrite: bool = True
    ffmpeg: str | None = None  # a program's path; None: what is on PATH


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Server to worker: end this run at a point from which it can go on."""

    run: int


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Worker to server, once: imports are done."""

    pid: int
    version: str


class Produced(msgspec.Struct, frozen=True, tag="produced"):
    """The files are whole and in `work/out`; the server publishes them.

    `main` is relative to `out`. `already` are files that are at the destination
    from before (relative to it), `skipped` says why nothing was to be done.
    """

    main: str | None = None
    already: tuple[str, ...] = ()
    skipped: str | None = None


End = Produced | Failed | Stopped


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """Worker to server, last of a run. Not reusable: the process is in doubt, replace it."""

    end: End
    reusable: bool = True


Order = Start | Stop
Message = Hello | Ended | Identified | Tick | Stage | Line | Waiting

_encoder = msgspec.json.Encoder()
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_messages: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def dump_line(message: Order | Message) -> bytes:
    """Return the message as one line."""
    return _encoder.encode(message) + b"\n"


def parse_order(line: bytes) -> Order:
    """Parse a line that the server wrote.

    Raises:
        msgspec.MsgspecError: it is no order.
    """
    return _orders.decode(line)


def parse_message(line: bytes | bytearray) -> Message:
    """Parse a line that a worker wrote.

    Raises:
        msgspec.MsgspecError: it is no message.
    """
    return _messages.decode(line)
