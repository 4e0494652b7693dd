"""What counts as the end of a process group."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidra_trio.engine.pool import group_runs

EXIT = {"x86_64": 60, "aarch64": 93}
"""The number of the system call that ends one thread."""

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


@pytest.mark.skipif(platform.machine() not in EXIT, reason="the number of a system call")
def test_a_process_whose_first_thread_has_ended_runs() -> None:
    """It is shown as a zombie, but its files are open, and may be written to."""
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(flush=True)\n"
        f"ctypes.CDLL(None).syscall({EXIT[platform.machine()]}, 0)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        status = Path(f"/proc/{process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.001)
        assert group_runs(process.pid)
        process.kill()
