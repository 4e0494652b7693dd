"""A fork in one thread does not harm the thread pools of another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LATE = """
import sys
import vidra_trio.engine.hooks
assert "concurrent.futures.thread" in sys.modules
"""

STRESS = """
import concurrent.futures, subprocess, sys, threading
import vidra_trio.engine.hooks

def fork():
    while not over.is_set():
        subprocess.run(["true"], preexec_fn=lambda: None)

def use_a_pool():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(str, range(30)))
    fine.append(True)

over, fine = threading.Event(), []
sys.setswitchinterval(1e-5)
forks = [threading.Thread(target=fork) for _ in range(3)]
users = [threading.Thread(target=use_a_pool) for _ in range(3)]
for thread in (*forks, *users):
    thread.start()
for thread in users:
    thread.join()
over.set()
for thread in forks:
    thread.join()
assert len(fine) == 3
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("code", [LATE, STRESS], ids=["late", "stress"])
def test_a_pool_is_not_loaded_while_somebody_forks(code: str) -> None:
    """It would release a lock that it never took, from under a download's fragments."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
