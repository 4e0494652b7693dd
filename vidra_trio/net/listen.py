"""Listening sockets, bound to exactly what was asked for."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from vidra_trio.core.errors import ConfigurationError, PortBusy

# Peers that may wait for us while the loop is busy elsewhere; the kernel caps
# it at somaxconn. 128 was what Linux gave for decades.
BACKLOG = 256

# Port 0 on a name with several addresses: the port that one family got may be
# taken on the other. Then we ask for another one, this often.
ATTEMPTS = 10

Address = tuple[str, int]

# What the socket module hands out: two members for IPv4, four for IPv6.
SocketAddress = tuple[str | int | bytes, ...]


def listen(host: str, port: int, backlog: int = BACKLOG) -> list[socket.socket]:
    """Sockets that listen on every address of `host` (a literal or a name), on one port.

    Port 0 takes a free one, the same for all addresses. A name is looked up
    here, blocking: call it before there is anything to serve. The caller
    closes the sockets; `open_server` does.

    Raises:
        PortBusy: an address cannot be bound; nothing is left open.
        ConfigurationError: `host` is no address of this machine.
    """
    try:
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(_OtherFamilyTaken):
                return _listen_everywhere(host, port, backlog)
        return _listen_everywhere(host, port, backlog)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            expected = f"expected an address of this machine, got {host!r}"
            raise ConfigurationError("VIDRA_SERVER_HOST", expected) from error
        raise PortBusy(host, port, error.strerror or str(error)) from error


def address_of(sock: socket.socket) -> Address:
    """Where a listening socket can be reached: (host, port), for both families."""
    host, port = sock.getsockname()[:2]
    return host, port


class _OtherFamilyTaken(OSError):
    """The kernel's choice for the first address is somebody's on the next one."""


def _listen_everywhere(host: str, port: int, backlog: int) -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for family, address in _addresses(host, port):
            if port == 0 and sockets:
                address = _with_port(address, address_of(sockets[0])[1])
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            try:
                _bind(sock, address, backlog)
            except OSError as error:
                if port == 0 and sockets and error.errno == errno.EADDRINUSE:
                    raise _OtherFamilyTaken(error.errno, error.strerror) from error
                raise
            sockets.append(sock)
        undo.pop_all()
        return sockets


def _addresses(host: str, port: int) -> list[tuple[int, SocketAddress]]:
    """Each (family, address) once, in the resolver's order, of those this machine has."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    unique = dict.fromkeys((int(family), address) for family, _, _, _, address in found)
    return [pair for pair in unique if _bindable(*pair)] or list(unique)


def _bindable(family: int, address: SocketAddress) -> bool:
    """Whether this machine has the address at all (`localhost` names ::1 where IPv6 is off)."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(_with_port(address, 0))
    except OSError:
        return False
    return True


def _with_port(address: SocketAddress, port: int) -> SocketAddress:
    return (address[0], port, *address[2:])


def _bind(sock: socket.socket, address: SocketAddress, backlog: int) -> None:
    if os.name == "nt":
        # There SO_REUSEADDR would let anybody take our port over.
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", ~4), 1)
    else:
        # A restart must not wait for old connections in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
    sock.listen(backlog)
    sock.setblocking(False)
