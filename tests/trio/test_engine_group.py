"""What counts as the end of a process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from vidra_trio.engine.pool import group_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody looks")


def test_a_group_of_zombies_is_gone() -> None:
    """Nobody waits for processes that have ended, only because nobody has reaped them."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert group_runs(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(process.pid, 0)  # there is something of that number
        assert not group_runs(process.pid)
    finally:
        process.wait()


def test_a_member_that_outlives_its_leader_runs() -> None:
    """The group runs as long as one process of it does."""
    script = ["sh", "-c", "sleep 60 & echo; exec true"]
    with subprocess.Popen(script, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.wait()
        assert group_runs(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
