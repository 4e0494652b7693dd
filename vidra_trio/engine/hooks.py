"""Where Python code blocks, made known to the run that blocks there.

Some places of the standard library are wrapped while a run needs it: a socket's
connect and TLS handshake, `time.sleep`, the start of a child process; and the two
ways of asking a person, because nobody sits in front of a server. Each wrapper
looks at `control.CURRENT`: in a thread that works for no run (all of a host's) it
does what it wraps and nothing else. Counted: the last one out puts the originals
back, unless somebody else has wrapped them meanwhile; then ours stay underneath,
inert.

Not reached: name resolution and native libraries (curl_cffi), which block in C.
"""

from __future__ import annotations

import builtins
import concurrent.futures.thread  # noqa: F401  # here, not later: see `_die_with_parent`
import contextlib
import ctypes
import functools
import getpass
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vidra_trio.engine.control import CURRENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

_lock = threading.Lock()
_users = 0
_wrapped: list[tuple[Any, str, Any, Any]] = []  # owner, name, what was there, ours


class Patch(NamedTuple):
    """An attribute of a class or module, and what makes its stand-in of the original."""

    owner: Any
    name: str
    make: Callable[[Any], Any]


@contextlib.contextmanager
def installed(more: Iterable[Patch] = (), *, own_groups: bool) -> Iterator[None]:
    """Wrap these places, and `more`, for the length of the block; nests and overlaps.

    With `own_groups` a child of a run leads a process group, so that it can be
    killed with its own children. (In a worker process it must not: there the
    whole worker is the group.) The first one in decides for all.
    """
    global _users  # what is wrapped is the process's, so is the count
    with _lock:
        _users += 1
        if _users == 1:
            for patch in (*_standard(own_groups=own_groups), *more):
                _wrap(patch)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _unwrap_all()


def wrapped() -> tuple[str, ...]:
    """Return the names of what is wrapped now."""
    return tuple(name for _, name, _, _ in _wrapped)


def _standard(*, own_groups: bool) -> Iterator[Patch]:
    yield Patch(socket.socket, "connect", _before_blocking)
    yield Patch(socket.socket, "connect_ex", _before_blocking)
    yield Patch(ssl.SSLSocket, "do_handshake", _before_blocking)
    yield Patch(time, "sleep", _sleeping)
    yield Patch(subprocess.Popen, "__init__", functools.partial(_starting, own_groups=own_groups))
    yield Patch(builtins, "input", _asking)
    yield Patch(getpass, "getpass", _asking)


def _wrap(patch: Patch) -> None:
    owner, name, make = patch
    ours = make(getattr(owner, name))
    _wrapped.append((owner, name, vars(owner).get(name), ours))
    setattr(owner, name, ours)


def _unwrap_all() -> None:
    while _wrapped:
        owner, name, before, ours = _wrapped.pop()
        if vars(owner).get(name) is not ours:
            continue
        if before is None:  # it was inherited
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _before_blocking(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def track(self: socket.socket, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        control = CURRENT.get()
        if control is None:
            return original(self, *args, **kwargs)
        control.track_socket(self)
        result = original(self, *args, **kwargs)
        if control.asked:  # a stop before there was a connection need not have ended it
            self.close()  # nobody above expects to have to
        control.check()
        return result

    return track


def _sleeping(original: Callable[[float], None]) -> Callable[[float], None]:
    @functools.wraps(original)
    def sleep(seconds: float) -> None:
        control = CURRENT.get()
        if control is None:
            original(seconds)
        else:
            control.sleep(seconds)

    return sleep


def _asking(original: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(original)
    def ask(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401
        if CURRENT.get() is None:
            return original(*args, **kwargs)
        raise EOFError("the site wants something to be typed in, and nobody is there to do it")

    return ask


def _starting(original: Callable[..., None], *, own_groups: bool) -> Callable[..., None]:
    @functools.wraps(original)
    def start(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        control = CURRENT.get()
        if control is None:
            original(self, *args, **kwargs)
            return
        control.check()
        if os.name == "posix" and own_groups and not kwargs.get("start_new_session"):
            kwargs.setdefault("process_group", 0)
        if sys.platform == "linux":
            kwargs.setdefault("preexec_fn", _die_with_parent())
        original(self, *args, **kwargs)
        control.track_child(self)

    return start


def _die_with_parent() -> Callable[[], None]:
    """Return what makes the kernel kill a child when the thread that started it is gone.

    It runs between fork and exec, where little is safe: everything is looked up
    here, and the child makes two system calls. (2 ms per child, measured: with it
    Python forks instead of using vfork.)

    A fork also runs what modules have registered for it, and a thread pool's module
    registers to take a lock before and to release it after. Loaded by another thread in
    between, it releases a lock that it never took, from under whoever holds it (half of
    150 processes, measured). So it is loaded with this module.
    """
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before the kernel knew
            os._exit(1)

    return ask
