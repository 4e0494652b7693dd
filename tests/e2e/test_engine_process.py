"""What only the process engine has to do: workers kept warm, replaced, buried."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.engines import Bench, open_bench, wait_until
from tests.support.origin import Origin, digest, open_origin
from tests.support.process import descendants
from vidra_trio.core.report import Failed, Tick
from vidra_trio.engine import pool
from vidra_trio.engine.process import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

SIZE = 2_000_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


def workers(bench: Bench) -> set[int]:
    assert isinstance(bench.engine, ProcessEngine)
    return {one.pid for one in bench.engine.pool.workers}


async def test_two_items_run_at_once_and_their_workers_are_used_again(
    tmp_path: Path, origin: Origin
) -> None:
    """Both are right; the next two start no process."""
    async with open_bench(tmp_path, size=2) as bench:
        benches = [Bench(bench.engine, bench.downloads) for _ in range(2)]
        pids = []
        for round_ in ("1", "2"):
            async with trio.open_nursery() as nursery:
                for number, one in enumerate(benches):
                    name = f"both-{round_}-{number}.mp4"
                    url = origin.file(name, SIZE, rate=8_000_000)
                    nursery.start_soon(one.finish, bench.spec(url, name))
            pids.append(workers(bench))
    for name in bench.published():
        assert digest(bench.downloads / name) == origin.digest(name, SIZE)
    assert len(bench.published()) == 4
    assert pids[0] == pids[1]


async def test_a_worker_that_dies_costs_its_run_only(tmp_path: Path, origin: Origin) -> None:
    """A crash, or the kernel short of memory: `engine_died`, worth another try."""
    async with open_bench(tmp_path) as bench:
        url = origin.file("dies.mp4", SIZE, rate=1_000_000)
        async with bench.engine.open(bench.spec(url)) as run:
            async for report in run:
                if isinstance(report, Tick):
                    os.kill(bench.worker(), signal.SIGKILL)
        assert isinstance(report, Failed)
        assert (report.code, report.retryable) == ("engine_died", True)
        assert "SIGKILL" in report.message
        path = await bench.finish(bench.spec(origin.file("dies.mp4", SIZE)))
        assert digest(path) == origin.digest("dies.mp4", SIZE)


async def test_a_worker_that_died_while_idle_is_not_used(tmp_path: Path, origin: Origin) -> None:
    """Nobody notices."""
    async with open_bench(tmp_path) as bench:
        await bench.finish(bench.spec(origin.file("one.mp4", 1000)))
        dead = bench.worker()
        os.kill(dead, signal.SIGKILL)
        assert isinstance(bench.engine, ProcessEngine)
        (worker,) = bench.engine.pool.workers
        await wait_until(lambda: not worker.alive())
        await bench.finish(bench.spec(origin.file("two.mp4", 1000), "k"))
        assert bench.worker() != dead


async def test_workers_are_replaced_in_time(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many runs a fresh one takes over, started ahead of need."""
    monkeypatch.setattr(pool, "RECYCLE_AFTER", 2)
    async with open_bench(tmp_path) as bench:
        pids = []
        for number in range(4):
            await bench.finish(bench.spec(origin.file(f"r{number}.mp4", 1000), str(number)))
            await wait_until(lambda: bench.engine.statistics().idle == 1)
            pids.append(bench.worker())
        assert pids[0] != pids[1] == pids[2] != pids[3]


async def test_no_token_reaches_a_worker(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment can be read by whatever a site makes it run."""
    monkeypatch.setenv("VIDRA_SERVER_TOKEN", "top-secret-token")
    async with open_bench(tmp_path) as bench:
        await bench.finish(bench.spec(origin.file("env.mp4", 1000)))
        environment = await trio.Path(f"/proc/{bench.worker()}/environ").read_bytes()
        assert b"YTDLP_NO_PLUGINS=1" in environment
        assert b"VIDRA" not in environment
        assert b"top-secret-token" not in environment


async def test_leaving_the_engine_leaves_no_process(tmp_path: Path, origin: Origin) -> None:
    """Idle ones, busy ones, and one that is just being started."""
    async with open_bench(tmp_path, size=3) as bench:
        await bench.finish(bench.spec(origin.file("x.mp4", 1000)))
        pids = workers(bench)
        assert bench.engine.statistics().workers == len(pids) >= 1
    assert descendants(os.getpid()) == []
    assert bench.engine.statistics().workers == 0
    async with open_bench(tmp_path):
        pass  # left before the first worker said hello
