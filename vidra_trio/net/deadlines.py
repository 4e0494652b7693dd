"""Every time limit of a connection, in one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a peer may leave us waiting, in seconds.

    `write`: the peer takes none of 64 KiB that we want to hand over; then it is reset.
    `head`: no complete request head, idle or dripping; then the connection is closed.
    `body`: no complete request body; then 408 and close.
    `ping`: between two pings on a WebSocket.
    `silence`: a WebSocket peer sends nothing, not even a pong; then it is dropped.
    `close`: one side has said goodbye and the other does not follow.
    `grace`: what is under way at shutdown, and an application whose peer is gone.
    """

    write: float = 10.0
    head: float = 5.0
    body: float = 10.0
    ping: float = 20.0
    silence: float = 60.0
    close: float = 2.0
    grace: float = 3.0


DEFAULT_DEADLINES = Deadlines()
