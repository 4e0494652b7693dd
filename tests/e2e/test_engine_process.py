"""The process engine's contract, with real workers against the test origin."""

from __future__ import annotations

import os
import random
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.origin import Origin, digest, media_root, open_origin
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stage, Stopped, Tick
from vidra_trio.engine import pool
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.process import ProcessEngine, open_process_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from vidra_trio.core.report import Report

pytestmark = pytest.mark.slow

SIZE = 2_000_000
PATIENCE = 60
"""A liveness bound on a busy machine; speed is not judged here."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


@dataclass
class Bench:
    """An engine, a destination, and what the last run reported."""

    engine: ProcessEngine
    downloads: Path
    reports: list[Report] = field(default_factory=list)

    def spec(self, url: str, job: str = "j", **changes: Any) -> RunSpec:  # noqa: ANN401
        params = {"retries": 3, "fixup": "never", **changes.pop("params", {})}
        made: dict[str, Any] = {
            "job_id": job,
            "url": url,
            "destination": self.downloads,
            "work": self.downloads / f".vidra-{job}",
            "template": "%(title)s.%(ext)s",
            "params": params,
        }
        return RunSpec(**{**made, **changes})

    async def run(self, spec: RunSpec) -> Report:
        self.reports = []
        async with self.engine.open(spec) as run:
            self.reports = [report async for report in run]
        return self.reports[-1]

    async def finish(self, spec: RunSpec) -> Path:
        end = await self.run(spec)
        assert isinstance(end, Finished), end
        assert end.main is not None
        return Path(end.main)

    def published(self) -> list[str]:
        names = (p.name for p in self.downloads.iterdir() if not p.name.startswith(".vidra-"))
        return sorted(names)

    def worker(self) -> int:
        (pid,) = (one.pid for one in self.engine.pool.workers)
        return pid


@asynccontextmanager
async def open_bench(
    root: Path, *, size: int = 1, patience: float = PATIENCE
) -> AsyncIterator[Bench]:
    (root / "downloads").mkdir(exist_ok=True)
    with trio.fail_after(patience):
        async with open_process_engine(cache=root / "cache", size=size) as engine:
            yield Bench(engine, root / "downloads")


def group(pid: int) -> list[int]:
    """Return the processes of a worker's group that still run, ffmpeg and all."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something outside of Trio's sight."""
    while True:
        if condition():
            return
        await trio.sleep(0.01)


async def sent(origin: Origin, path: str, size: int) -> None:
    await wait_until(lambda: sum(one.sent for one in origin.seen(path)) >= size)


async def test_a_file_arrives_with_its_reports_in_order(tmp_path: Path, origin: Origin) -> None:
    """Identified, ticks, one terminal report; the bytes are right and nothing else is left."""
    async with open_bench(tmp_path) as bench:
        path = await bench.finish(bench.spec(origin.file("ñandú ✓.mp4", SIZE)))
    assert path == bench.downloads / "ñandú ✓.mp4"
    assert digest(path) == origin.digest("ñandú ✓.mp4", SIZE)
    assert list(bench.downloads.iterdir()) == [path]
    kinds = [type(one) for one in bench.reports if not isinstance(one, Line)]
    assert kinds[0] is Identified
    assert Tick in kinds
    assert kinds[-1] is Finished
    assert sum(kind in (Finished, Failed, Stopped) for kind in kinds) == 1
    last = [one for one in bench.reports if isinstance(one, Tick)][-1]
    assert last.downloaded_bytes == last.total_bytes == SIZE


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
            pids.append({one.pid for one in bench.engine.pool.workers})
    for name in bench.published():
        assert digest(bench.downloads / name) == origin.digest(name, SIZE)
    assert len(bench.published()) == 4
    assert pids[0] == pids[1]


async def test_no_more_runs_are_open_than_the_engine_is_wide(
    tmp_path: Path, origin: Origin
) -> None:
    """A further one waits, and can be cancelled while it waits."""
    async with open_bench(tmp_path) as bench, bench.engine.open(bench.spec(origin.at("/hang"))):
        assert bench.engine.statistics().running == 1
        with trio.move_on_after(0.1) as waited:
            async with bench.engine.open(bench.spec(origin.at("/html"), "k")):
                pass
        assert waited.cancelled_caught


HANG = {
    "transfer": ("stops.mp4", {"rate": 1_000_000}),
    "stall": ("stalls.mp4", {"stall": 100_000}),
}


@pytest.mark.parametrize("name", HANG)
async def test_leaving_the_block_stops_a_transfer(
    tmp_path: Path, origin: Origin, name: str
) -> None:
    """No process, no connection, no published file; and the next item is fine."""
    file, faults = HANG[name]
    async with open_bench(tmp_path) as bench:
        async with bench.engine.open(bench.spec(origin.file(file, SIZE, **faults))) as run:
            async for report in run:
                if isinstance(report, Tick):
                    break
            pid = bench.worker()
        assert group(pid) == []
        await wait_until(lambda: origin.open_connections() == 0)
        assert bench.published() == []
        await bench.finish(bench.spec(origin.file("after.mp4", 1000), "next"))


async def test_cancelling_the_task_stops_a_site_that_never_answers(
    tmp_path: Path, origin: Origin
) -> None:
    """The scope ends while nothing moves anywhere."""
    async with open_bench(tmp_path) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.run, bench.spec(origin.at("/hang", who="cancel")))
            await wait_until(lambda: bool(origin.seen("/hang")))
            pid = bench.worker()
            nursery.cancel_scope.cancel()
        assert group(pid) == []
        await wait_until(lambda: origin.open_connections() == 0)


async def test_leaving_the_block_takes_ffmpeg_along(tmp_path: Path, origin: Origin) -> None:
    """A merge that would go on for ever is gone with its worker."""
    slow = tmp_path / "ffmpeg"
    slow.write_text(
        '#!/bin/sh\ncase "$*" in *-bsfs*) echo ffmpeg version 9;; *) sleep 600;; esac\n'
    )
    slow.chmod(0o755)
    async with open_bench(tmp_path) as bench:
        spec = bench.spec(origin.media("dash/manifest.mpd"), params={"ffmpeg_location": str(slow)})
        async with bench.engine.open(spec) as run:
            async for report in run:
                if report == Stage("Merger"):
                    break
            pid = bench.worker()
            await wait_until(lambda: len(group(pid)) >= 3)  # worker, sh, sleep
        assert group(pid) == []
        assert bench.published() == []


async def test_a_pause_keeps_the_parts_and_the_next_run_continues(
    tmp_path: Path, origin: Origin
) -> None:
    """With a Range, to the exact bytes; a stop is harmless twice and after the end."""
    async with open_bench(tmp_path) as bench:
        spec = bench.spec(origin.file("pause.mp4", SIZE, rate=2_000_000))
        async with bench.engine.open(spec) as run:
            async for report in run:
                if isinstance(report, Tick) and report.downloaded_bytes > 600_000:
                    run.stop()
                    run.stop()
                end = report
            run.stop()
            with pytest.raises(StopAsyncIteration):
                await anext(run)
        assert isinstance(end, Stopped)
        assert [Path(one).name for one in end.partial] == ["pause.mp4.part"]
        assert await bench.engine.partial_files(spec.work) == end.partial
        path = await bench.finish(bench.spec(origin.file("pause.mp4", SIZE)))
        assert digest(path) == origin.digest("pause.mp4", SIZE)
        assert (origin.seen("pause.mp4")[-1].range or "").startswith("bytes=")


async def test_a_pause_of_what_does_not_move_is_made_the_hard_way(
    tmp_path: Path, origin: Origin
) -> None:
    """After its grace; what there is can be continued all the same."""
    async with open_bench(tmp_path) as bench:
        bench.engine.stop_grace = 0.2
        url = origin.file("stuck.mp4", SIZE, stall=500_000)
        async with bench.engine.open(bench.spec(url)) as run:
            async for report in run:
                if isinstance(report, Tick):
                    await sent(origin, "stuck.mp4", 500_000)
                    run.stop()
        assert isinstance(report, Stopped)
        assert len(report.partial) == 1
        path = await bench.finish(bench.spec(origin.file("stuck.mp4", SIZE)))
        assert digest(path) == origin.digest("stuck.mp4", SIZE)


async def test_discarding_leaves_nothing(tmp_path: Path, origin: Origin) -> None:
    """Also when there is nothing."""
    async with open_bench(tmp_path) as bench:
        spec = bench.spec(origin.file("away.mp4", SIZE, drop=1000), params={"retries": 0})
        end = await bench.run(spec)
        assert isinstance(end, Failed)
        assert spec.work.exists()
        for _ in range(2):
            await bench.engine.discard(spec.work)
        assert list(bench.downloads.iterdir()) == []


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
        bench.engine.pool.warm()
        pids = [one.pid for one in bench.engine.pool.workers]
        assert bench.engine.statistics().workers == len(pids) >= 1
    assert [group(pid) for pid in pids] == [[]] * len(pids)
    assert bench.engine.statistics().workers == 0
    async with open_bench(tmp_path):
        pass  # left before the first worker said hello


async def test_what_is_there_stays_without_overwrite(tmp_path: Path, origin: Origin) -> None:
    """It counts as done, its bytes are the old ones; with overwrite they are replaced."""
    async with open_bench(tmp_path) as bench:
        (bench.downloads / "same.mp4").write_text("old")
        path = await bench.finish(bench.spec(origin.file("same.mp4", SIZE), overwrite=False))
        assert path.read_text() == "old"
        assert bench.published() == ["same.mp4"]
        assert not (bench.downloads / ".vidra-j").exists()
        await bench.finish(bench.spec(origin.file("same.mp4", SIZE)))
        assert digest(path) == origin.digest("same.mp4", SIZE)


async def test_a_destination_is_made_or_refused(tmp_path: Path, origin: Origin) -> None:
    """Missing folders are made inside the roots; outside nothing is."""
    async with open_bench(tmp_path) as bench:
        roots = (bench.downloads,)
        new = bench.downloads / "a" / "b"
        inside = bench.spec(
            origin.file("x.mp4", 1000), destination=new, work=new / ".vidra-j", roots=roots
        )
        assert (await bench.finish(inside)).parent == new
        out = tmp_path / "outside"
        outside = bench.spec(origin.at("/html"), destination=out, work=out / ".v", roots=roots)
        end = await bench.run(outside)
        assert isinstance(end, Failed)
        assert end.code == "path_not_allowed"
        assert not out.exists()
        (tmp_path / "file").write_text("x")
        bad = tmp_path / "file" / "sub"
        end = await bench.run(bench.spec(origin.at("/html"), destination=bad, work=bad / ".v"))
        assert isinstance(end, Failed)
        assert end.code == "destination_unavailable"


async def test_a_hard_stop_publishes_nothing(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the worker is through with everything."""
    async with open_bench(tmp_path) as bench:
        async with trio.open_nursery() as nursery:
            real = ProcessEngine.publish

            async def publish(engine: ProcessEngine, spec: RunSpec, main: str) -> tuple[str, ...]:
                nursery.cancel_scope.cancel()
                return await real(engine, spec, main)

            monkeypatch.setattr(ProcessEngine, "publish", publish)
            nursery.start_soon(bench.run, bench.spec(origin.file("late.mp4", 1000)))
        assert bench.published() == []
        assert (bench.downloads / ".vidra-j" / "out" / "late.mp4").exists()


async def test_a_link_out_of_the_destination_is_not_published_through(
    tmp_path: Path, origin: Origin
) -> None:
    """The template's folder turns out to be somebody else's."""
    (tmp_path / "elsewhere").mkdir()
    async with open_bench(tmp_path) as bench:
        (bench.downloads / "sub").symlink_to(tmp_path / "elsewhere")
        end = await bench.run(
            bench.spec(origin.file("x.mp4", 1000), template="sub/%(title)s.%(ext)s")
        )
        assert isinstance(end, Failed)
        assert end.code == "path_not_allowed"
        assert list((tmp_path / "elsewhere").iterdir()) == []


async def killed_again_and_again(bench: Bench, spec: RunSpec, kills: int, seed: int) -> Path:
    """Kill a run at random instants after its first tick, then let it finish."""
    chance = random.Random(seed)
    for _ in range(kills):
        async with bench.engine.open(spec) as run:
            async for report in run:
                if isinstance(report, (Tick, Stage)):
                    await trio.sleep(chance.random() * 0.2)
                    break
    return await bench.finish(spec)


async def check_kills(tmp_path: Path, origin: Origin, rounds: int, connections: int) -> None:
    segments = sorted((media_root() / "hls").glob("seg*.ts"))
    expected = b"".join(segment.read_bytes() for segment in segments)
    async with open_bench(tmp_path, patience=PATIENCE * rounds) as bench:
        url = origin.media("hls/index.m3u8", rate=1_500_000)
        spec = bench.spec(url, params={"concurrent_fragment_downloads": connections})
        for seed in range(rounds):
            path = await killed_again_and_again(bench, spec, 3, seed * 10 + connections)
            assert path.read_bytes() == expected, f"seed {seed}"
            path.unlink()


@pytest.mark.parametrize("connections", [1, 4])
async def test_a_run_killed_at_any_instant_ends_with_the_right_bytes(
    tmp_path: Path, origin: Origin, connections: int
) -> None:
    """HLS, where stock yt-dlp breaks most files: the small twin of the soak below."""
    await check_kills(tmp_path, origin, 1, connections)


@pytest.mark.soak
@pytest.mark.parametrize("connections", [1, 4, 8])
async def test_many_kills(tmp_path: Path, origin: Origin, connections: int) -> None:
    """The same, many times."""
    await check_kills(tmp_path, origin, 12, connections)
