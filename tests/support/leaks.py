"""What this process and all that came of it hold: counted before, counted after.

    with tagged():
        census = Census(engine, folders, origin.ports)
        before = census()
        ...
        await nothing_left(before, census)

A census is a `Counter` of words such as `thread vidra run 7`, `socket to the origin
(ESTABLISHED)` or `file downloads/.vidra-1/tmp/clip.mp4.part`; what is in the second one
and not in the first was left behind, and the words say what it is. Linux: it reads /proc.

What an engine keeps on purpose (its warm workers, with their pipes and tasks) is left out;
so are a test origin's own threads and its ends of the connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.support.process import alive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from vidra_trio.engine.base import Engine

TAG = "CENSUS_TAG"
"""In the environment of all our children: found again even when their parent is gone."""

_TCP_STATES = {
    "01": "ESTABLISHED",
    "02": "SYN_SENT",
    "08": "CLOSE_WAIT",
}
"""States that somebody's descriptor keeps a connection in."""

_IDLE = re.compile(r"Trio thread \d+")  # waits in Trio's cache; it has another name at work
_ORIGIN = re.compile(r"origin|Thread-\d+ \(process_request_thread\)")
_LISTENER = "WorkerProcess.listen_to_stderr"

WRAPPED = (
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket, "getaddrinfo"),
    (ssl.SSLSocket, "do_handshake"),
    (ssl.SSLContext, "sslsocket_class"),
    (time, "sleep"),
    (subprocess.Popen, "__init__"),
)
"""What hooks may stand in for while a run works in a thread, and not a moment longer."""


@dataclass(frozen=True)
class Census:
    """How to count: whose workers are no strangers, which folders and ports matter."""

    engine: Engine
    folders: tuple[Path, ...]
    ports: Collection[int]

    def __call__(self) -> Counter[str]:
        """Count everything now; some milliseconds. In Trio's thread."""
        workers = self._workers()
        return Counter(
            word
            for words in (
                _threads(),
                _processes(workers),
                _descriptors(workers, self.ports),
                _connections(self.ports),
                _files(self.folders),
                _tasks(len(workers)),
                _wrappers(),
            )
            for word in words
        )

    def _workers(self) -> set[int]:
        pool = getattr(self.engine, "pool", None)
        return set() if pool is None else {worker.pid for worker in pool.workers}


async def nothing_left(
    before: Counter[str], census: Callable[[], Counter[str]], seconds: float = 5.0
) -> None:
    """Wait until nothing is there that was not there before.

    Raises:
        AssertionError: it takes too long; says what was left.
    """
    deadline = trio.current_time() + seconds
    while left := census() - before:
        words = [f"  {count} x {word}" for word, count in sorted(left.items())]
        assert trio.current_time() < deadline, "\n".join([f"left after {seconds:g} s:", *words])
        await trio.sleep(0.01)


def at_large(pids: Iterable[int]) -> list[int]:
    """Return those of `pids` that may still do something: alive, and with no SIGKILL under way."""
    return [pid for pid in alive(list(pids)) if not _is_doomed(pid)]


def _is_doomed(pid: int) -> bool:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        pending = re.findall(r"^(?:Sig|Shd)Pnd:\t(\w+)", status, re.MULTILINE)
        return any(int(mask, 16) & 1 << (signal.SIGKILL - 1) for mask in pending)
    return True


@contextlib.contextmanager
def tagged() -> Iterator[None]:
    """Mark all processes that are started in the block as ours."""
    os.environ[TAG] = uuid.uuid4().hex
    try:
        yield
    finally:
        del os.environ[TAG]


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if not _IDLE.fullmatch(thread.name) and not _ORIGIN.fullmatch(thread.name):
            yield f"thread {thread.name}"


def _processes(workers: set[int]) -> Iterator[str]:
    mark = f"{TAG}={os.environ[TAG]}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            name, parent, state = _status(folder)
            if state == "Z" and parent == os.getpid() and pid not in workers:
                yield f"zombie {name}"
            elif pid not in workers and mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield f"process {command[:100]}"


def _status(folder: Path) -> tuple[str, int, str]:
    head, _, tail = (folder / "stat").read_text().rpartition(")")
    state, parent = tail.split()[:2]
    return head.partition("(")[2], int(parent), state


def _descriptors(workers: set[int], ports: Collection[int]) -> Iterator[str]:
    theirs = {inode for pid in workers for _, inode in _links(pid) if inode.startswith("pipe:")}
    servers = {inode for local, _, _, inode in _tcp() if local in ports}
    for number, target in _links(os.getpid()):
        if target in theirs or target in servers or _pid_of(number) in workers:
            continue
        yield f"descriptor {target.partition('[')[0]}"


def _links(pid: int) -> Iterator[tuple[int, str]]:
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield int(link.name), str(link.readlink())


def _pid_of(descriptor: int) -> int | None:
    """Return the process that a pidfd stands for."""
    with contextlib.suppress(OSError):
        found = re.search(
            r"^Pid:\t(\d+)", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE
        )
        if found:
            return int(found[1])
    return None


def _connections(ports: Collection[int]) -> Iterator[str]:
    for _, remote, state, _ in _tcp():
        if remote in ports and state in _TCP_STATES:
            yield f"socket to the origin ({_TCP_STATES[state]})"


def tcp_states(port: int) -> list[str]:
    """Return the states of all connections of this machine to a port of it."""
    return [_TCP_STATES.get(state, state) for _, remote, state, _ in _tcp() if remote == port]


def _tcp() -> Iterator[tuple[int, int, str, str]]:
    """Yield local port, remote port, state and inode of every TCP socket of this machine."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[n].rpartition(":")[2], 16) for n in (1, 2))
        yield local, remote, fields[3], f"socket:[{fields[9]}]"


def _files(folders: tuple[Path, ...]) -> Iterator[str]:
    for folder in folders:
        for path in folder.rglob("*"):
            yield f"file {path.relative_to(folder.parent)}"


def _tasks(workers: int) -> Iterator[str]:
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        if task is None:
            continue
        if task.name.endswith(_LISTENER) and workers > 0:
            workers -= 1
        elif task is not trio.lowlevel.current_task():
            yield f"task {task.name}"
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]


def _wrappers() -> Iterator[str]:
    for owner, name in WRAPPED:
        found = getattr(owner, name)
        module = getattr(found, "__module__", "builtins")
        yield f"{owner.__name__}.{name} is {module}.{found.__qualname__} ({id(found)})"
