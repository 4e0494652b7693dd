"""Which engine a server gets, and why."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from vidra_trio.core.report import Failed
from vidra_trio.engine import choice
from vidra_trio.engine.base import EngineStatistics, RunSpec
from vidra_trio.engine.choice import Chosen, known_verdict, open_engine
from vidra_trio.engine.process import open_process_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vidra_trio.engine.choice import Wanted

PYTHONS = ("/usr/bin/python3", "/v/bin/python3.13", "C:\\Py\\python.exe", "/opt/pypy3", "Python")


@pytest.mark.parametrize(
    ("wanted", "embedded", "platform", "executable", "kind", "words"),
    [
        ("process", True, "ios", "", "process", "settings ask"),
        ("thread", False, "linux", "/usr/bin/python3", "thread", "settings ask"),
        ("auto", True, "linux", "/usr/bin/python3", "thread", "embedded"),
        ("auto", False, "ios", "/usr/bin/python3", "thread", "ios"),
        ("auto", False, "android", "/usr/bin/python3", "thread", "android"),
        ("auto", False, "linux", "", "thread", "own program"),
        ("auto", False, "linux", None, "thread", "own program"),
        ("auto", False, "linux", "/opt/vidra/vidra", "thread", "vidra is no Python"),
        (
            "auto",
            False,
            "darwin",
            "/Applications/Vidra.app/Contents/MacOS/Vidra",
            "thread",
            "Vidra",
        ),
    ],
)
def test_what_can_be_seen_is_not_tried(
    wanted: Wanted, embedded: bool, platform: str, executable: str | None, kind: str, words: str
) -> None:
    """A packaged application would open its window again."""
    verdict = known_verdict(wanted, embedded=embedded, platform=platform, executable=executable)
    assert verdict is not None
    assert verdict[0] == kind
    assert words in verdict[1]


@pytest.mark.parametrize("executable", PYTHONS)
def test_a_python_is_tried(executable: str) -> None:
    """Whatever its version and its name's case."""
    name = executable.rpartition("\\")[2]
    assert known_verdict("auto", embedded=False, platform="linux", executable=name) is None


@asynccontextmanager
async def open_here(
    tmp_path: Path, wanted: Wanted = "auto", owner: str | None = None
) -> AsyncIterator[Chosen]:
    """Open what is chosen, with a limit."""
    with trio.fail_after(60):
        async with open_engine(wanted, cache=tmp_path / "c", size=1, owner=owner) as chosen:
            yield chosen


@pytest.mark.slow
async def test_a_worker_that_answers_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept for the first run; the log says what was chosen and why."""
    caplog.set_level("INFO")
    async with open_here(tmp_path) as chosen:
        assert chosen.kind == chosen.reason == ""
        assert chosen.statistics() == EngineStatistics()
        await chosen.wait_made()
        assert chosen.kind == "process"
        assert chosen.statistics() == EngineStatistics(workers=1, idle=1)
    assert "engine: process (a worker answered)" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('no module here')", "no module here"),
        ("import time; time.sleep(600)", "silence for 1 s"),
        (None, "No such file"),
    ],
)
async def test_without_an_answer_items_run_in_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None, words: str
) -> None:
    """Runs that came first wait for that, and nothing is left of the attempt."""
    command = (sys.executable, "-c", program) if program else (str(tmp_path / "nothing"),)

    opened = partial(open_process_engine, command=command)
    monkeypatch.setattr(choice, "open_process_engine", opened)
    monkeypatch.setattr(choice, "PROBE_SECONDS", 1.0)
    spec = RunSpec("j", "http://127.0.0.1:1/x", tmp_path, tmp_path / ".vidra-j" / "0", "%(id)s")
    async with open_here(tmp_path) as chosen:
        async with chosen.open(spec) as run:
            reports = [report async for report in run]
        assert isinstance(reports[-1], Failed)
        assert reports[-1].code == "network_error"
        assert chosen.kind == "thread"
        assert words in chosen.reason
        assert chosen.statistics() == EngineStatistics()


@pytest.mark.slow
async def test_leaving_before_the_choice_is_fine(tmp_path: Path) -> None:
    """A server that is stopped at once."""
    async with open_here(tmp_path) as chosen:
        pass
    assert chosen.kind == ""


@pytest.mark.slow
async def test_the_disk_does_not_wait_for_the_choice(tmp_path: Path) -> None:
    """Removing, looking and sweeping need no engine."""
    work = tmp_path / ".vidra-j" / "0"
    (work / "tmp").mkdir(parents=True)
    (work / "tmp" / "a.mp4.part").write_text("x")
    async with open_here(tmp_path, "thread", owner="me") as chosen:
        assert await chosen.partial_files(work) == (str(work / "tmp" / "a.mp4.part"),)
        await chosen.discard(work.parent)
        assert not work.exists()
        work.mkdir(parents=True)
        assert await chosen.sweep([tmp_path], {"j"}) == ()
        assert await chosen.sweep([tmp_path], ()) == (str(work.parent),)


@pytest.mark.slow
def test_a_server_does_not_import_yt_dlp() -> None:
    """0.2 s and 30 MB that belong to the workers."""
    code = "import sys, vidra_trio.server; sys.exit('yt_dlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
