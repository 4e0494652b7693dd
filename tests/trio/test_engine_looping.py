"""How a loop is told from a thread that is about to end, and how it is struck."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vidra_trio.engine.control import Control, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

counts = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody counts")


@contextlib.contextmanager
def exposed(control: Control, body: Callable[[], None]) -> Iterator[threading.Thread]:
    """Run `body` in a thread that may be struck, until it returns."""
    begun = threading.Event()

    def run() -> None:
        with contextlib.suppress(Interrupted):
            control.expose()
            begun.set()
            body()
        control.conceal()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    yield thread
    thread.join(30)
    assert not thread.is_alive()


def test_nobody_exposed_computes_nothing() -> None:
    """Without a thread there is no clock to look at."""
    control = Control()
    assert control.computed() is None
    control.expose()
    control.conceal()
    assert control.computed() is None


@counts
def test_only_computing_counts() -> None:
    """A thread that waits gains nothing, however long it takes; one that loops does."""
    control, go = Control(), threading.Event()

    def body() -> None:
        go.wait(30)
        while (control.computed() or 0) < limit:
            pass

    with exposed(control, body):
        threading.Event().wait(0.05)
        limit = (control.computed() or 0) + 0.02
        threading.Event().wait(0.05)
        assert (control.computed() or 0) < limit
        go.set()


def test_a_loop_is_struck() -> None:
    """Wherever it is."""
    control = Control()

    def body() -> None:
        while True:
            pass

    with exposed(control, body) as thread:
        while thread.is_alive():
            control.interrupt()
            thread.join(0.01)


def test_who_may_hold_a_lock_is_not_struck() -> None:
    """An exception after a condition's lock was taken, and before that is known, keeps it."""
    control, go, returned = Control(), threading.Event(), []

    def body() -> None:
        returned.append(go.wait(30))

    with exposed(control, body):
        for _ in range(20):
            control.interrupt()
            time.sleep(0.001)
        go.set()
    assert returned == [True]


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(on: bool) -> None:
    """The host may have switched it off."""
    control = Control()
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        control.expose()
        with pytest.raises(Interrupted):
            control.interrupt()
        control.conceal()
        assert gc.isenabled() is on
    finally:
        (gc.enable if before else gc.disable)()


TRACED = """
import sys, threading
from vidra_trio.engine.control import Control, Interrupted
trace = lambda *_: None
sys.settrace(trace)
threading.settrace(trace)
for _ in range(100):
    control = Control()
    control.expose()
    control.conceal()
    control.expose()
    try:
        control.interrupt()
        control.conceal()
    except Interrupted:
        pass
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
print("goes on")
"""


@pytest.mark.slow
def test_a_host_under_a_debugger_goes_on() -> None:
    """A flag that is left for an exception which never comes stops all that is traced."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("goes on\n", "")
