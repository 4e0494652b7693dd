"""The stop of one run, as the code that downloads sees it.

yt-dlp is asked at every hook, log line and request whether it should go on. The
answer "no" is a BaseException: extractors are full of `except Exception`, and
yt-dlp swallows ordinary ones (one raised in a hook becomes a skipped fragment
and a *finished*, broken file).

Where it blocks it cannot be asked, so a stop also ends what it waits for:

1. Sockets are shut down, not closed: closing a descriptor that another thread
   reads from is a race for its number. A reader then finds the end of its stream,
   and may take what it has for the whole: so whoever vouches for a file asks
   `check` first, and a stop is noted before the first socket is touched.
2. Sleeps wake up, child processes are killed.
3. What is left is code that neither waits nor asks (a loop in an extractor): an
   exception is put into its thread, again and again until it leaves the run.
   That is the last resort, because it lands between any two bytecodes.

`hooks` is what makes sockets, sleeps and children known here.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from types import FrameType

CURRENT: ContextVar[Control | None] = ContextVar("vidra_run", default=None)
"""The run that this thread works for; None in every thread that is not ours."""


_DELICATE: Final = (
    "<frozen importlib",
    f"{os.sep}threading.py",
    f"{os.sep}subprocess.py",
    f"{os.sep}logging{os.sep}__init__.py",
)
"""Files with code that is not struck: it holds locks that everybody needs, in a way that an
exception between two bytecodes breaks; a fork even calls such code of other modules."""

_OUTERMOST: Final = ("_bootstrap", "_bootstrap_inner", "run")
"""The functions of threading.py that are at the bottom of every thread, whatever it does."""


class Interrupted(BaseException):
    """The run was asked to stop; only the engine's boundary catches this."""


class Control:
    """One run's stop: asked from any thread, heard in all of the run's."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._children: weakref.WeakSet[subprocess.Popen[Any]] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._aim = threading.Lock()
        self._thread: int | None = None  # where `interrupt` may strike
        self.on_wait: Callable[[float], None] | None = None

    @property
    def asked(self) -> bool:
        """The run should end itself."""
        return self._asked.is_set()

    def stop(self) -> None:
        """Ask the run to end, and end whatever it waits for; twice is once. Any thread."""
        self._asked.set()
        with self._lock:
            children, sockets = list(self._children), list(self._sockets)
        for child in children:
            kill(child)
        for sock in sockets:
            shut_down(sock)

    def check(self) -> None:
        """Go on, or raise `Interrupted`."""
        if self._asked.is_set():
            raise Interrupted

    def enter(self) -> None:
        """Count the calling thread to the run; yt-dlp's pool threads inherit no context."""
        CURRENT.set(self)
        with self._lock:
            self._threads.add(threading.current_thread())
        self.check()

    def sleep(self, seconds: float) -> None:
        """Sleep as `time.sleep` does, but no longer than the run."""
        if self.on_wait is not None:
            self.on_wait(seconds)
        if self._asked.wait(max(0.0, seconds)):
            raise Interrupted

    def track_socket(self, sock: socket.socket) -> None:
        """Remember a socket that is about to block; after a stop it does not get that far."""
        with self._lock:
            self._sockets = {one for one in self._sockets if one.fileno() >= 0} | {sock}
        if self._asked.is_set():
            sock.close()  # it is this thread's alone, and nobody expects to have to
            raise Interrupted

    def track_child(self, child: subprocess.Popen[Any]) -> None:
        """Remember a child process; after a stop it is killed at once."""
        with self._lock:
            self._children.add(child)
        if self._asked.is_set():
            kill(child)

    def wait_alone(self, seconds: float) -> None:
        """Wait for the other threads of the run, which yt-dlp does not always do itself."""
        deadline = time.monotonic() + seconds
        with self._lock:
            others = set(self._threads) - {threading.current_thread()}
        for thread in others:
            thread.join(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Close what an interrupted run left open; none of its threads may run any more."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.close()

    # The last resort, for a thread of our own. `_aim` is entered as the lock that it is, in C:
    # no exception can strike between taking it and the block that gives it back.

    def expose(self) -> None:
        """Let `interrupt` strike the calling thread until it calls `conceal`."""
        self._thread = threading.get_ident()

    def conceal(self) -> None:
        """Let nothing strike the calling thread any more.

        What is on its way strikes before this returns. It cannot be taken back: up to
        Python 3.12, clearing it (`PyThreadState_SetAsyncExc` with NULL) leaves the flag set
        that makes every thread look for it, and with a tracing debugger or coverage on 3.11
        they do nothing else from then on (measured).
        """
        with self._aim:
            self._thread = None
        _look_for_exceptions()

    def computed(self) -> float | None:
        """Return the CPU seconds of the exposed thread; None: there is none, or no clock."""
        if sys.platform not in ("linux", "android"):
            return None
        with self._aim:
            if self._thread is None:
                return None
            try:
                return time.clock_gettime(time.pthread_getcpuclockid(self._thread))
            except OSError:  # it is just ending
                return None

    def interrupt(self) -> None:
        """Raise `Interrupted` in the exposed thread, unless it is where that does harm.

        Only for a thread that computes: one that waits in C (for a name's address) does not
        hear it before it is back, and until then Python looks for it in every thread.
        """
        with self._aim:
            if self._thread is not None and not _is_delicate(self._thread):
                what = ctypes.py_object(Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), what)


def shut_down(sock: socket.socket) -> None:
    """End both directions; a TLS socket's own method would pull its state from under a reader."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def kill(child: subprocess.Popen[Any]) -> None:
    """Kill a child process and, where it leads a group of its own, all of that."""
    if child.poll() is not None:
        return
    with contextlib.suppress(OSError):
        if sys.platform != "win32" and os.getpgid(child.pid) == child.pid:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def _is_delicate(thread: int) -> bool:
    """Return whether a thread is in code that an exception must not strike."""
    frame = _current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if any(part in code.co_filename for part in _DELICATE) and code.co_name not in _OUTERMOST:
            return True
        frame = frame.f_back
    return False


def _current_frames() -> dict[int, FrameType]:
    """Return each thread's innermost frame.

    Up to Python 3.11 the interpreter holds a lock meanwhile that a finalizer may want, too,
    should the garbage collector run: so it must not (cpython issue 106883).
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if collects:
            gc.enable()


def _look_for_exceptions() -> None:
    """Do nothing; the interpreter looks for them wherever a function begins."""
