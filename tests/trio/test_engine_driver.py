"""The server's side of the pipe, with workers that misbehave on purpose."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from vidra_trio.core.report import Failed, Finished, Line, Report, Stage, Stopped, Tick
from vidra_trio.core.states import Level
from vidra_trio.engine import disk, pool, process
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.pipe import Ended, Produced, dump_line
from vidra_trio.engine.pool import WorkerProcess
from vidra_trio.engine.process import ProcessEngine, open_process_engine
from vidra_trio.engine.tools import Ffmpeg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow

HEAD = """
import os, sys, json, time
def say(**message): os.write(1, json.dumps(message).encode() + b"\\n")
def hello(): say(type="hello", pid=os.getpid(), version="1")
def order(): return json.loads(sys.stdin.readline())
def end(**end): say(type="ended", end=end)
"""


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here needs an ffmpeg."""
    none = Ffmpeg("", "", "none", has_ffprobe=False)
    monkeypatch.setattr(disk, "find_ffmpeg", lambda: none)


@asynccontextmanager
async def open_fake(tmp_path: Path, body: str) -> AsyncIterator[tuple[ProcessEngine, RunSpec]]:
    """Open an engine whose workers run `body`."""
    command = (sys.executable, "-c", HEAD + body)
    downloads = tmp_path / "downloads"
    with trio.fail_after(30):
        async with open_process_engine(cache=tmp_path / "c", size=1, command=command) as engine:
            spec = RunSpec("j", "http://x", downloads, downloads / ".vidra-j", "%(id)s")
            yield engine, spec


async def run(engine: ProcessEngine, spec: RunSpec) -> list[Report]:
    async with engine.open(spec) as one:
        return [report async for report in one]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('no such module: yt_dlp')", "exit code 1: no such module: yt_dlp"),
        ("hello(); order(); os._exit(3)", "exit code 3"),
        ("hello(); order(); os.write(1, b'Traceback...\\n'); time.sleep(60)", "SIGKILL"),
        ("hello(); order(); say(type='dance'); time.sleep(60)", "SIGKILL"),
        ("hello(); order(); os.write(1, b'x' * (3 << 20)); time.sleep(60)", "SIGKILL"),
        ("hello(); order(); print('token=hunter22', file=sys.stderr); os.abort()", "token=***"),
    ],
)
async def test_a_worker_that_ends_or_talks_nonsense_is_an_end(
    tmp_path: Path, body: str, words: str
) -> None:
    """`engine_died`, how it died, its last words without secrets."""
    async with open_fake(tmp_path, body) as (engine, spec):
        (end,) = await run(engine, spec)
        assert isinstance(end, Failed)
        assert (end.code, end.retryable) == ("engine_died", True)
        assert words in end.message


async def test_a_worker_that_never_starts_is_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that is far above any start."""
    monkeypatch.setattr(process, "HELLO_SECONDS", 0.2)
    async with open_fake(tmp_path, "time.sleep(60)") as (engine, spec):
        (end,) = await run(engine, spec)
        assert isinstance(end, Failed)
        assert "did not start" in end.message


async def test_a_program_that_cannot_be_started_is_an_end(tmp_path: Path) -> None:
    """No exception out of `open`."""
    command = (str(tmp_path / "nothing"),)
    async with open_process_engine(cache=tmp_path / "c", size=1, command=command) as engine:
        spec = RunSpec("j", "http://x", tmp_path, tmp_path / "w", "%(id)s")
        (end,) = await run(engine, spec)
        assert isinstance(end, Failed)
        assert end.code == "engine_error"


async def test_reports_wait_for_their_reader(tmp_path: Path) -> None:
    """A worker that talks faster than it is read is slowed down; no line is lost."""
    body = """
hello(); order()
written = os.open("written", os.O_WRONLY | os.O_CREAT)
for n in range(5000):
    os.pwrite(written, str(n).encode(), 0)
    say(type="line", level="info", message="x" * 1000)
end(type="produced")
order()
"""
    async with open_fake(tmp_path, body) as (engine, spec), engine.open(spec) as one:
        first = await anext(one)
        written = tmp_path / "c" / "written"
        before = -1
        while (now := int(written.read_text() or "0")) != before:  # until it stands still
            before = now
            await trio.sleep(0.2)
        assert before < 1000
        rest = [report async for report in one]
        assert first == rest[0] == Line(Level.INFO, "x" * 1000)
        assert len(rest) == 5000
        assert rest[-1] == Finished()


async def test_an_older_tick_makes_room_for_a_newer_one(tmp_path: Path) -> None:
    """Of what came at once, the newest of each file; everything else in order."""
    body = """
hello(); order()
out = b""
for n in range(100):
    for key in "ab":
        out += json.dumps({"type": "tick", "key": key, "downloaded_bytes": n}).encode() + b"\\n"
out += b'{"type":"stage","name":"download","finished":true,"key":"a"}\\n'
os.write(1, out)
end(type="produced", skipped="why")
order()
"""
    async with open_fake(tmp_path, body) as (engine, spec), engine.open(spec) as one:
        reports = [report async for report in one]
    assert reports[-1] == Finished()
    ticks = [report for report in reports if isinstance(report, Tick)]
    assert [tick.downloaded_bytes for tick in ticks[-2:]] == [99, 99]
    assert len(ticks) < 100
    assert reports[-2] == Stage("download", finished=True, key="a")


async def test_a_run_that_never_stops_is_stopped(tmp_path: Path) -> None:
    """After the grace of a soft stop, the hard way; the report is the same."""
    async with open_fake(tmp_path, "hello(); order(); time.sleep(60)") as (engine, spec):
        async with engine.open(spec) as one:
            one.stop_grace = 0.1
            one.stop()
            assert [report async for report in one] == [Stopped()]
        assert engine.statistics().abandoned == 0


async def test_a_stop_that_comes_too_late_changes_nothing(tmp_path: Path) -> None:
    """The worker was through: a success is a success."""
    body = "hello(); order(); end(type='produced', already=['a.mp4']); order(); order()"
    async with open_fake(tmp_path, body) as (engine, spec), engine.open(spec) as one:
        await trio.sleep(0.2)
        one.stop()
        (end,) = [report async for report in one]
        path = str(spec.destination / "a.mp4")
        assert end == Finished((path,), path)


async def test_a_process_that_cannot_be_reaped_is_given_up_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stuck in the kernel: the run ends in bounded time all the same."""
    monkeypatch.setattr(pool, "REAP_SECONDS", 0.1)
    async with open_fake(tmp_path, "hello(); order(); time.sleep(60)") as (engine, spec):
        with monkeypatch.context() as patch:
            patch.setattr(WorkerProcess, "kill", lambda _: None)
            async with engine.open(spec) as one:
                (worker,) = engine.pool.workers
                one.stop()
        assert engine.statistics().abandoned == 1
        assert worker.exit_code is None
        worker.kill()
        assert await worker.end()
        worker.kill()
        assert not worker.alive()


async def test_a_message_is_parsed_as_it_was_dumped() -> None:
    """The fake workers above speak the same language as the real one."""
    assert dump_line(Ended(Produced(skipped="why"))).startswith(b'{"type":"ended","end":{"type":')
