"""The kernel ends a worker whose server is gone, whatever the worker is doing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import alive, wait_until
from vidra_trio.engine.lifeline import Lifeline, hang_on

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel helps on Linux only")

WORKER = """
import subprocess, sys
from vidra_trio.engine.lifeline import hang_on
print(hang_on(sys.argv))
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
sum(range(10 ** 15))  # in C, and no other thread of this process gets to run
"""


def start(lifeline: Lifeline, *, leads_group: bool) -> tuple[subprocess.Popen[str], int]:
    """Start a worker that keeps the interpreter; return it and its child's id."""
    with lifeline.handed_over():
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *lifeline.arguments],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=lifeline.inherited,
            start_new_session=leads_group,
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process, int(process.stdout.readline())


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
def test_a_worker_that_lets_no_thread_run_goes_with_the_line(tmp_path: Path) -> None:
    """With everything in its group, once the server's end is closed, and not before."""
    lifeline = Lifeline()
    process, child = start(lifeline, leads_group=True)
    with process:
        assert alive([process.pid, child]) == [process.pid, child]
        lifeline.cut()
        lifeline.cut()
        assert process.wait(10) == -9
        wait_until(lambda: not alive([child]), 10, "the child's end")


@pytest.mark.slow
def test_a_worker_that_leads_no_group_goes_alone() -> None:
    """Started by hand in a shell it must not kill the shell's other jobs: this one's, here."""
    lifeline = Lifeline()
    process, child = start(lifeline, leads_group=False)
    with process:
        lifeline.cut()
        assert process.wait(10) == -9
        assert alive([child]) == [child]
        os.kill(child, 9)


@pytest.mark.slow
def test_a_server_that_went_before_is_noticed() -> None:
    """There is no signal for what has happened already; and children inherit no line."""
    code = "import os, sys; from vidra_trio.engine.lifeline import hang_on; "
    code += "print(hang_on(sys.argv), os.get_inheritable(int(sys.argv[1][11:])))"
    lifeline = Lifeline()
    with lifeline.handed_over():
        lifeline.cut()
        said = subprocess.check_output(
            [sys.executable, "-c", code, *lifeline.arguments],
            cwd=Path(__file__).parents[2],
            text=True,
            pass_fds=lifeline.inherited,
        )
    assert said == "False False\n"


def test_without_a_line_nothing_happens() -> None:
    """A worker that is started by hand has none."""
    assert hang_on(["worker.py", "--other"])


def test_a_start_that_fails_leaves_no_descriptor() -> None:
    """Nobody holds either end."""
    before = open_descriptors()
    lifeline = Lifeline()
    with pytest.raises(OSError, match="no such program"), lifeline.handed_over():
        raise OSError("no such program")
    assert open_descriptors() == before
    assert (lifeline.arguments, lifeline.inherited) == ((), ())
