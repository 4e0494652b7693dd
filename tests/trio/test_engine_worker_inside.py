"""The worker's own course, in this process: only what ends or renames a process is replaced."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from vidra_trio.core.report import Stopped
from vidra_trio.engine import worker as module
from vidra_trio.engine import ytdlp
from vidra_trio.engine.pipe import Ended, Hello, Produced, Start, Stop, dump_line, parse_message
from vidra_trio.engine.worker import DOUBTFUL, ORPHANED, Worker, leave, main, resident, take_pipes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vidra_trio.engine.control import Control
    from vidra_trio.engine.reporting import Emit

ORDERS = [Start(n, f"http://x/{n}", "/w", "/d", "%(id)s", "/c", {}) for n in range(3)]


class ProcessEnded(BaseException):
    """What `os._exit` does here."""


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record how the process would have ended."""
    found: list[object] = []

    def exit_(code: int) -> None:
        found.append(code)
        raise ProcessEnded

    monkeypatch.setattr(os, "_exit", exit_)
    monkeypatch.setattr(os, "killpg", lambda *group: found.append(group))
    return found


def test_a_worker_greets_then_serves_until_it_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One hello, runs in their order, and no further one once a run left the process in doubt."""
    ends = iter([Ended(Produced("a.mp4")), Ended(Stopped(), reusable=False)])
    left = threading.Event()
    monkeypatch.setattr(module, "leave", left.set)
    monkeypatch.setattr(ytdlp, "run_item", lambda *_: next(ends))
    monkeypatch.setattr(ytdlp, "prewarm", lambda wanted: wanted())
    messages = io.BytesIO()
    code = Worker(io.BytesIO(b"".join(map(dump_line, ORDERS))), messages).run()
    assert code == DOUBTFUL
    hello, *told = [parse_message(line) for line in messages.getvalue().splitlines()]
    assert hello == Hello(os.getpid(), ytdlp.version())
    assert told == [Ended(Produced("a.mp4")), Ended(Stopped(), reusable=False)]
    assert left.wait(10), "the end of the control pipe is the end of the worker"


def test_a_worker_that_grew_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library leaks is not kept for fifty runs."""
    sizes = iter([50 << 20, 100 << 20, 400 << 20])
    monkeypatch.setattr(module, "resident", lambda: next(sizes))
    monkeypatch.setattr(ytdlp, "run_item", lambda *_: Ended(Produced("a.mp4")))
    messages = io.BytesIO()
    worker = Worker(io.BytesIO(), messages)
    assert worker.serve_one(ORDERS[0])
    assert not worker.serve_one(ORDERS[1])
    assert b'"reusable":false' in messages.getvalue()


def test_the_size_of_this_process_is_known() -> None:
    """Where the kernel tells it."""
    assert sys.platform != "linux" or resident() > 10 << 20


def test_a_stop_that_overtakes_its_run_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while the order was on its way from one thread to the other."""

    def run_item(_: Start, __: Emit, control: Control) -> Ended:
        return Ended(Stopped() if control.asked else Produced("a.mp4"))

    monkeypatch.setattr(ytdlp, "run_item", run_item)
    messages = io.BytesIO()
    worker = Worker(io.BytesIO(), messages)
    worker.accept(dump_line(Stop(1)))
    worker.serve_one(ORDERS[0])
    worker.serve_one(ORDERS[1])
    ends = [parse_message(line) for line in messages.getvalue().splitlines()]
    assert ends == [Ended(Produced("a.mp4")), Ended(Stopped())]


def test_a_message_of_several_threads_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragment threads report at once: a line is never torn."""

    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, line: object) -> int:
            assert isinstance(line, bytes)
            for byte in line:
                self.data.append(byte)
            return len(line)

    slow = Slow()
    worker = Worker(io.BytesIO(), slow)  # type: ignore[arg-type]

    def speak() -> None:
        for _ in range(50):
            worker.send(Hello(1, "x" * 50))

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    lines = bytes(slow.data).splitlines()
    assert {parse_message(line) for line in lines} == {Hello(1, "x" * 50)}
    assert len(lines) == 200


@pytest.mark.parametrize("leads", [True, False])
def test_a_worker_takes_its_group_along_only_if_it_is_its_own(
    exits: list[object], monkeypatch: pytest.MonkeyPatch, leads: bool
) -> None:
    """Started by hand in a shell it must not kill the shell's other jobs."""
    monkeypatch.setattr(os, "getpgrp", lambda: os.getpid() + (not leads))
    with pytest.raises(ProcessEnded):
        leave()
    assert exits == ([(0, signal.SIGKILL)] if leads else []) + [ORPHANED]


def test_pipes_are_moved_where_no_library_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fd 0 reads nothing, fd 1 is stderr, and the copies are closed in children."""
    moved: list[tuple[object, int]] = []
    (tmp_path / "orders").write_bytes(b"an order\n")
    given = {
        0: os.open(tmp_path / "orders", os.O_RDONLY),
        1: os.open(tmp_path / "messages", os.O_WRONLY | os.O_CREAT),
    }
    nowhere: list[int] = []
    real_dup, real_open = os.dup, os.open

    def open_(path: str, flags: int) -> int:
        nowhere.append(real_open(path, flags))
        return nowhere[-1]

    monkeypatch.setattr(os, "dup", lambda fd: real_dup(given[fd]))
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "dup2", lambda *pair: moved.append(pair))
    orders, messages = take_pipes()
    monkeypatch.undo()
    with orders, messages:
        assert orders.readline() == b"an order\n"
        messages.write(b"a message")
        assert (tmp_path / "messages").read_bytes() == b"a message", "nothing is held back"
        assert not os.get_inheritable(orders.fileno())
        assert not os.get_inheritable(messages.fileno())
    assert moved == [(nowhere[0], 0), (2, 1)]
    for fd in given.values():
        os.close(fd)


@pytest.mark.parametrize("polite", [True, False])
def test_a_worker_is_nice_and_does_not_wait_for_its_threads(
    exits: list[object], monkeypatch: pytest.MonkeyPatch, polite: bool
) -> None:
    """Threads of a run in doubt may hang; where niceness is refused it goes on without."""

    def nice(_: int) -> None:
        if not polite:
            raise PermissionError

    def run(_: Worker) -> int:
        return DOUBTFUL

    monkeypatch.setattr(os, "nice", nice)
    monkeypatch.setattr(Worker, "run", run)
    monkeypatch.setattr(module, "take_pipes", lambda: (io.BytesIO(), io.BytesIO()))
    with pytest.raises(ProcessEnded):
        main()
    assert exits == [DOUBTFUL]


def test_nonsense_on_the_pipe_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes there is not our server; nothing of it is run."""
    left = threading.Event()
    ran: list[Start] = []

    def run_item(order: Start, emit: Emit, control: Control) -> Ended:
        ran.append(order)
        return Ended(Stopped(), reusable=False)

    def prewarm(wanted: Callable[[], bool]) -> None:
        assert left.wait(10)
        assert wanted()

    monkeypatch.setattr(module, "leave", left.set)
    monkeypatch.setattr(ytdlp, "run_item", run_item)
    monkeypatch.setattr(ytdlp, "prewarm", prewarm)
    lines = dump_line(ORDERS[0]) + b"nonsense\n" + dump_line(ORDERS[1])
    Worker(io.BytesIO(lines), io.BytesIO()).run()
    assert ran == [ORDERS[0]]
