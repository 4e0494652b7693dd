"""One peer's connection: Hypercorn's protocol inside, our rules around it.

1. Nothing a peer sends can get out of `run`: an exception ends this
   connection and no other. (Hypercorn 0.18 lets it end the whole server.)
2. A write is never cut by a cancelled task, only by its deadline or by
   `abort`. So what was serialised is on the wire in that order, or the
   connection is dead; there is no third state.
3. Every write flushes the tail of an earlier `try_send` first. Control frames
   of Hypercorn and direct frames therefore never tear each other.
4. Direct frames stop as soon as a Close frame is serialised, that is, before
   its first byte is written.
5. The reader owns the deadlines of the peer (see `phase`): whose turn it is
   decides which one runs, and none runs while it is ours.
6. Nothing outlives the reader by more than `Deadlines.grace`. Pings are the
   reader's business too; there is no task for them.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from typing import TYPE_CHECKING

import trio
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState as StateOfConnection
from hypercorn.utils import parse_socket_addr
from wsproto.connection import ConnectionState

from vidra_trio.net.application import ApplicationGroup
from vidra_trio.net.errorlog import describe, logger
from vidra_trio.net.http1 import Http1
from vidra_trio.net.patience import Lapse, Patience
from vidra_trio.net.phase import Phase, phase_of, websocket_of
from vidra_trio.wire.frames import CONNECTION_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypercorn.config import Config
    from hypercorn.events import Event
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper, LifespanState
    from wsproto.connection import Connection as WebSocketProtocol

    from vidra_trio.net.deadlines import Deadlines

RECEIVE_SIZE = 2**16

# A long answer to a slow reader is fine as long as this much of it leaves
# within the write deadline: at the default that is 6.4 KiB a second.
WRITE_BLOCK = 2**16

# What we read and drop of a request that was answered early, so that the answer
# is not lost in a reset. Sixteen times the largest body anybody may send.
DISCARD_LIMIT = 2**24

# A TLS handshake record; no request begins with it, so h11 answers 400 anyway.
TLS_HELLO = b"\x16\x03"

PING = b"\x89\x00"

# l_onoff, l_linger: closing resets the connection and forgets what is unsent.
_RESET = struct.pack("HH" if os.name == "nt" else "ii", 1, 0)


class Connection(TCPServer):
    """A peer, from accept to close. The application finds it under `CONNECTION_KEY`."""

    protocol: Http1  # type: ignore[assignment]  # Hypercorn's wrapper would speak HTTP/2

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        sock: socket.socket,
        deadlines: Deadlines,
    ) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        super().__init__(app, config, context, state, self._stream)  # type: ignore[arg-type]
        self._socket = sock
        self._deadlines = deadlines
        self._patience = Patience()
        self._phase: Phase | None = None
        self._websocket: WebSocketProtocol | None = None
        self._tail = b""
        self._gone = False
        self._finished = False
        self._reading = trio.CancelScope()
        self._living = trio.CancelScope()

    # --- what an application may do ---

    @property
    def behind(self) -> bool:
        """Whether the end of an earlier `try_send` still waits for room; `send_frames` sends it."""
        return bool(self._tail)

    def try_send(self, data: bytes) -> bool:
        """Hand over whole WebSocket frames without waiting.

        True: all of it is the peer's now, or our tail which goes first in the
        next write. False: nothing of it was taken, because the peer is behind,
        a write is under way, or no open WebSocket is (any more) there.
        """
        if self._tail or self.send_lock.locked() or not self._takes_frames():
            return False
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return False
        except OSError:
            self.abort()
            return False
        if sent < len(data):
            self._tail = data[sent:]
        return True

    async def send_frames(self, data: bytes = b"") -> None:
        """Write whole WebSocket frames, after the tail and whatever is under way.

        Returns when the kernel has them all, or when nobody takes them any
        more: the peer is gone, was reset at its write deadline, or a Close
        frame came first. A cancelled caller leaves when the frames are whole.
        """
        await self._write(data, direct=True)

    def abort(self) -> None:
        """Reset the connection now; whoever reads or writes it wakes up. Twice is once."""
        if self._gone:
            return
        self._gone = True
        self._tail = b""
        with contextlib.suppress(OSError):  # the peer may have reset it already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._close_socket()
        self._reading.cancel("aborted")

    # --- what the accept loop does ---

    async def run(self) -> None:
        """Serve the peer until one side has had enough; no `Exception` gets out."""
        try:
            if not await self._survives(self._converse):
                self._living = trio.CancelScope()
                await self._survives(self._apologise)
        finally:
            self._close_socket()

    def retire(self) -> None:
        """At shutdown: an idle connection closes at once, a busy one after its answer."""
        if self._phase in {None, Phase.HEAD}:
            self._reading.cancel("retired")

    # --- the two ends of a conversation ---

    async def _survives(self, conduct: Callable[[], Awaitable[None]]) -> bool:
        """The boundary: what goes wrong here ends this connection and nothing else."""
        fine = True
        try:
            with self._living:
                await conduct()
        except* OSError:
            pass  # reset before we could even look who it was
        except* Exception as errors:  # noqa: BLE001  # see above
            logger.warning("connection dropped: %s", describe(errors))
            fine = False
        return fine

    async def _converse(self) -> None:
        async with ApplicationGroup() as group:
            self.protocol = self._speak_http1(group)
            self._reconsider()
            await self._read_requests()
            await self._see_off()

    def _speak_http1(self, group: TaskGroup) -> Http1:
        family = self._socket.family
        return Http1(
            self.app,
            self.config,
            self.context,
            group,
            StateOfConnection({**self.state, CONNECTION_KEY: self}),
            False,  # no TLS
            parse_socket_addr(family, self._socket.getpeername()),
            parse_socket_addr(family, self._socket.getsockname()),
            self.protocol_send,
        )

    async def _see_off(self) -> None:
        """The application learns that its peer is gone and has `grace` to leave."""
        self._living.deadline = trio.current_time() + self._deadlines.grace
        await self.protocol.handle(Closed())
        if self._finished and not self.protocol.all_heard:
            await self._linger()
        self._close_socket()

    async def _apologise(self) -> None:
        """A 400 for the request that broke us, if nothing was answered; one last write."""
        with trio.move_on_after(self._deadlines.write + self._deadlines.close):
            await self.protocol.refuse(400)
            await self._linger()

    async def _linger(self) -> None:
        """Read and drop what is still on its way: closing before that would reset the answer."""
        room = DISCARD_LIMIT
        with trio.move_on_after(self._deadlines.close):
            while room > 0 and (dropped := await self._receive()):
                room -= len(dropped)

    # --- reading ---

    async def _read_requests(self) -> None:
        with self._reading:
            while True:
                heard = await self._patience.wait(self._receive)
                if heard is Lapse.NUDGE:
                    await self._ping()
                elif heard is Lapse.LATE:
                    return await self._give_up()
                elif heard:
                    await self._hear(heard)
                else:
                    return await self._hear_end()

    async def _receive(self) -> bytes:
        """The peer's next bytes; none when it is gone, politely or not."""
        try:
            return bytes(await self._stream.receive_some(RECEIVE_SIZE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.abort()
            return b""

    async def _hear(self, data: bytes) -> None:
        if self._phase is Phase.HEAD and data.startswith(TLS_HELLO):
            logger.warning("a client speaks TLS: this port is plain http, put a proxy in front")
        began = trio.current_time()
        await self.protocol.handle(RawData(data))
        self._reconsider()
        self._renew(Phase.SOCKET)
        if self._phase is Phase.BODY:
            # An application that is slow to take the body is not the peer's fault.
            self._patience.stretch(trio.current_time() - began)

    async def _hear_end(self) -> None:
        """A peer that shut its sending side still gets an answer that comes soon."""
        if not self._gone:
            await self.protocol.handle(RawData(b""))
            if phase_of(self.protocol) is Phase.ANSWER:
                await trio.sleep(self._deadlines.close)

    async def _give_up(self) -> None:
        if self._phase is Phase.BODY:
            await self.protocol.refuse(408)
        elif self._phase is not Phase.HEAD:
            self.abort()

    async def _ping(self) -> None:
        began = trio.current_time()
        await self._write(PING, direct=True)
        self._patience.nudge_in(self._deadlines.ping)
        # Neither is it the peer's fault that other writes of ours went first.
        self._patience.stretch(trio.current_time() - began)

    def _reconsider(self) -> None:
        """Grant the peer what its turn is worth, if it is another turn than before."""
        phase = phase_of(self.protocol)
        if phase is not self._phase:
            self._enter(phase)
            self._phase = phase
            self._renew()

    def _renew(self, *only_in: Phase) -> None:
        if self._phase is not None and (not only_in or self._phase in only_in):
            self._patience.grant(self._worth(self._phase))

    def _enter(self, phase: Phase) -> None:
        if phase is Phase.SOCKET:
            self._websocket = websocket_of(self.protocol)
            self._patience.nudge_in(self._deadlines.ping)
        else:
            self._patience.nudge_in(math.inf)

    def _worth(self, phase: Phase) -> float:
        limits = self._deadlines
        return {
            Phase.HEAD: limits.head,
            Phase.BODY: limits.body,
            Phase.ANSWER: math.inf,
            Phase.SOCKET: limits.silence,
            Phase.CLOSING: limits.close,
        }[phase]

    # --- writing ---

    async def protocol_send(self, event: Event) -> None:
        """Hypercorn's way out: bytes, the wish to close, or news about idleness."""
        if isinstance(event, RawData):
            await self._write(event.data)
            return
        if isinstance(event, Closed):
            self._finish()
        self._reconsider()

    def _takes_frames(self) -> bool:
        websocket = self._websocket
        return (
            websocket is not None
            and websocket.state is ConnectionState.OPEN
            and not (self._gone or self._finished)
        )

    async def _write(self, data: bytes, *, direct: bool = False) -> None:
        # Shielded, but bounded: whoever holds the lock is under the write deadline,
        # and after an abort everybody behind it finds nothing to do.
        with trio.CancelScope(shield=True):
            async with self.send_lock:
                if direct and not self._takes_frames():
                    data = b""
                data, self._tail = self._tail + data, b""
                if data and not (self._gone or self._finished):
                    await self._push(data)
        self._reconsider()  # before a cancellation can get in between
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _push(self, data: bytes) -> None:
        """Give all of `data` to the kernel, or abort."""
        with trio.move_on_after(self._deadlines.write) as patience:
            with contextlib.suppress(OSError, trio.ClosedResourceError):  # reset by either side
                await self._offer_all(memoryview(data), patience)
                return
        self.abort()

    async def _offer_all(self, rest: memoryview, patience: trio.CancelScope) -> None:
        mark = len(rest) - WRITE_BLOCK
        while rest := rest[self._offer(rest) :]:
            if len(rest) <= mark:
                mark = len(rest) - WRITE_BLOCK
                patience.deadline = trio.current_time() + self._deadlines.write
                self._renew(Phase.SOCKET, Phase.CLOSING)  # it reads, so it is there
            await trio.lowlevel.wait_writable(self._socket)

    def _offer(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def _finish(self) -> None:
        """Say that nothing more comes, and stop reading requests. Twice is once."""
        if self._gone or self._finished:
            return
        self._finished = True
        self._reading.cancel("finished")
        if self._tail:  # cut in the middle of a frame: not an end that may look like one
            self.abort()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _close_socket(self) -> None:
        self._stream.socket.close()
