"""What a run does about silence, with workers that keep silent on purpose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from vidra_trio.core.report import Failed, Finished, Report, Stopped
from vidra_trio.core.stall import StallLimits
from vidra_trio.engine import disk
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import open_process_engine
from vidra_trio.engine.tools import Ffmpeg

pytestmark = pytest.mark.slow

SHORT = 0.15
LONG = 3600.0

HEAD = """
import os, sys, json, time
def say(**message): os.write(1, json.dumps(message).encode() + b"\\n")
say(type="hello", pid=os.getpid(), version="1")
work = json.loads(sys.stdin.readline())["work"]
def found(): say(type="identified", kind="video")
def begin(): say(type="stage", name="download", key="a")
def tick(n=1): say(type="tick", key="a", downloaded_bytes=n)
def end(): say(type="ended", end=dict(type="produced", skipped="why")); sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here needs an ffmpeg."""
    none = Ffmpeg("", "", "none", has_ffprobe=False)
    monkeypatch.setattr(disk, "find_ffmpeg", lambda: none)


async def run(
    tmp_path: Path, body: str, limits: StallLimits, params: dict[str, Any] | None = None
) -> Report:
    """Run `body` as a worker with these limits; return the last report."""
    command = (sys.executable, "-c", HEAD + body)
    downloads = tmp_path / "downloads"
    spec = RunSpec("j", "http://x", downloads, downloads / ".vidra-j" / "0", "%(id)s", params or {})
    with trio.fail_after(30):
        async with (
            open_process_engine(
                cache=tmp_path / "c", size=1, limits=limits, command=command
            ) as engine,
            engine.open(spec) as one,
        ):
            reports = [report async for report in one]
    return reports[-1]


def only(phase: str) -> StallLimits:
    """Return limits that end nothing but silence in `phase`."""
    return StallLimits(**{**dict.fromkeys(PHASES, LONG), phase: SHORT})


PHASES = {
    "extract": "",
    "connect": "found(); begin();",
    "transfer": "found(); begin(); tick();",
    "postprocess": "found(); begin(); tick(); say(type='stage', name='Merger');",
}


@pytest.mark.parametrize("phase", PHASES)
async def test_silence_ends_a_run_with_its_phases_code(tmp_path: Path, phase: str) -> None:
    """Instead of a job that hangs for ever."""
    end = await run(tmp_path, f"{PHASES[phase]}time.sleep(600)", only(phase))
    assert isinstance(end, Failed)
    assert end.code == f"stalled_{phase}"
    assert end.retryable is (phase != "postprocess")
    assert end.message == f"no sign of life for {SHORT:g} s ({phase})"


async def test_what_moves_is_left_alone(tmp_path: Path) -> None:
    """However slowly, and however long it takes altogether."""
    body = "found(); begin()\nfor n in range(8): tick(n); time.sleep(0.1)\nend()"
    assert await run(tmp_path, body, StallLimits(LONG, LONG, 0.4, LONG)) == Finished()


async def test_a_file_that_grows_is_a_sign_of_life(tmp_path: Path) -> None:
    """ffmpeg says nothing while it works."""
    body = """
found(); say(type="stage", name="VideoConvertor")
with open(work + "/tmp/out.webm", "wb", buffering=0) as out:
    for n in range(16): out.write(b"x"); time.sleep(0.05)
say(type="stage", name="VideoConvertor", finished=True); end()
"""
    assert await run(tmp_path, body, StallLimits(LONG, LONG, LONG, 0.3)) == Finished()


async def test_an_announced_wait_is_no_stall(tmp_path: Path) -> None:
    """A sleep interval is what the user asked for."""
    body = "say(type='waiting', seconds=0.8); time.sleep(0.6); end()"
    assert await run(tmp_path, body, only("extract")) == Finished()


async def test_a_clients_own_patience_counts(tmp_path: Path) -> None:
    """Who sets a longer time-out for the site's answer means it."""
    body = "time.sleep(0.6); end()"
    params = {"socket_timeout": 20}
    assert await run(tmp_path, body, only("extract"), params) == Finished()


async def test_zero_is_never(tmp_path: Path) -> None:
    """The watchdog can be switched off."""
    assert await run(tmp_path, "time.sleep(0.5); end()", StallLimits(0, 0, 0, 0)) == Finished()


async def test_a_stop_is_not_a_stall(tmp_path: Path) -> None:
    """Silence after a pause was asked for is the pause's business."""
    command = (sys.executable, "-c", HEAD + "time.sleep(600)")
    spec = RunSpec("j", "http://x", tmp_path / "d", tmp_path / "d" / "w" / "0", "%(id)s")
    limits = StallLimits(0.4, 0.4, 0.4, 0.4)
    with trio.fail_after(30):
        async with (
            open_process_engine(
                cache=tmp_path / "c", size=1, limits=limits, command=command
            ) as engine,
            engine.open(spec) as one,
        ):
            one.stop_grace = 0.8
            one.stop()
            assert [report async for report in one] == [Stopped()]
