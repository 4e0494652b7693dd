"""How a loop is told from a thread that is about to end."""

from __future__ import annotations

import sys
import threading

import pytest

from vidra_trio.engine.control import Control


def test_nobody_exposed_computes_nothing() -> None:
    """Without a thread there is no clock to look at."""
    control = Control()
    assert control.computed() == 0
    control.expose()
    control.conceal()
    assert control.computed() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody counts")
def test_only_computing_counts() -> None:
    """A thread that waits gains nothing, however long it takes; one that loops does."""
    control, exposed, go = Control(), threading.Event(), threading.Event()

    def body() -> None:
        control.expose()
        exposed.set()
        go.wait(30)
        while control.computed() < limit:
            pass
        control.conceal()

    thread = threading.Thread(target=body)
    thread.start()
    assert exposed.wait(30)
    limit = control.computed() + 0.02
    threading.Event().wait(0.05)
    assert control.computed() < limit
    go.set()
    thread.join(30)
    assert not thread.is_alive()
