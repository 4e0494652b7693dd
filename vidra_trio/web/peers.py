"""The far end of a subscription, joined to what carries it.

Our own connections take frames directly, past the framework; any other server,
and the framework's test client, get texts through the framework's socket. Both
keep the hub's promises, only the direct one without waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from vidra_trio.wire.frames import CONNECTION_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from quart import Websocket

    from vidra_trio.hub import Message, Peer


class Connection(Protocol):
    """What this module needs of a connection that takes frames."""

    def try_send(self, data: bytes) -> bool:
        """Take all of `data` now, or nothing."""

    async def send_frames(self, data: bytes) -> None:
        """Write the unsent tail, then `data`; return when handed over or gone."""

    @property
    def behind(self) -> bool:
        """A tail of an earlier `try_send` is unsent."""


class DirectPeer:
    """Writes frames to the connection itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def try_send(self, messages: Sequence[Message], /) -> bool:
        """Take all messages or none, without waiting."""
        return self._connection.try_send(b"".join(message.frame for message in messages))

    async def send(self, messages: Sequence[Message], /) -> None:
        """Wait until what is unsent, and `messages`, are handed over, or the peer is gone."""
        await self._connection.send_frames(b"".join(message.frame for message in messages))

    @property
    def behind(self) -> bool:
        """Something taken is unsent."""
        return self._connection.behind


class TextPeer:
    """Writes texts through the framework's socket. Never takes anything without waiting."""

    behind: Final = False

    def __init__(self, socket: Websocket) -> None:
        self._socket = socket

    def try_send(self, _messages: Sequence[Message], /) -> bool:
        """Refuse: the framework cannot send without waiting."""
        return False

    async def send(self, messages: Sequence[Message], /) -> None:
        """Send one text after the other; a peer that is gone is no error."""
        try:
            for message in messages:
                await self._socket.send(message.text.decode())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.lowlevel.checkpoint()


def peer_of(socket: Websocket) -> Peer:
    """Return the best way to the far end of an accepted socket."""
    state: Mapping[str, Connection] = socket.scope.get("state") or {}
    connection = state.get(CONNECTION_KEY)
    return TextPeer(socket) if connection is None else DirectPeer(connection)
