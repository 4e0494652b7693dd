"""The engines' contract, kept by both: real yt-dlp against the test origin."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.engines import ENGINES, PATIENCE, Bench, open_bench, sent, wait_until
from tests.support.origin import Origin, digest, open_origin
from tests.support.process import descendants
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stage, Stopped, Tick
from vidra_trio.core.stall import StallLimits
from vidra_trio.engine.disk import Disk
from vidra_trio.engine.holes import Holes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidra_trio.engine.base import RunSpec

pytestmark = pytest.mark.slow

SIZE = 2_000_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test with each engine."""
    name: str = request.param
    return name


async def test_a_file_arrives_with_its_reports_in_order(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """Identified, ticks, one terminal report; the bytes are right and nothing else is left."""
    async with open_bench(tmp_path, kind) as bench:
        path = await bench.finish(bench.spec(origin.file("ñandú ✓.mp4", SIZE)))
    assert path == bench.downloads / "ñandú ✓.mp4"
    assert digest(path) == origin.digest("ñandú ✓.mp4", SIZE)
    assert bench.published() == [path.name]
    assert not (bench.downloads / ".vidra-j" / "0").exists()
    kinds = [type(one) for one in bench.reports if not isinstance(one, Line)]
    assert kinds[0] is Identified
    assert Tick in kinds
    assert kinds[-1] is Finished
    assert sum(kind in (Finished, Failed, Stopped) for kind in kinds) == 1
    last = [one for one in bench.reports if isinstance(one, Tick)][-1]
    assert last.downloaded_bytes == last.total_bytes == SIZE


async def test_no_more_runs_are_open_than_the_engine_is_wide(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """A further one waits, and can be cancelled while it waits."""
    async with (
        open_bench(tmp_path, kind) as bench,
        bench.engine.open(bench.spec(origin.at("/hang"))),
    ):
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
    tmp_path: Path, origin: Origin, kind: str, name: str
) -> None:
    """No process, no connection, no published file; and the next item is fine."""
    file, faults = HANG[name]
    async with open_bench(tmp_path, kind) as bench:
        async with bench.engine.open(bench.spec(origin.file(file, SIZE, **faults))) as run:
            async for report in run:
                if isinstance(report, Tick):
                    break
            left = bench.mark()
        assert left() == []
        await wait_until(lambda: origin.open_connections() == 0)
        assert bench.published() == []
        await bench.finish(bench.spec(origin.file("after.mp4", 1000), "next"))


async def test_cancelling_the_task_stops_a_site_that_never_answers(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """The scope ends while nothing moves anywhere."""
    async with open_bench(tmp_path, kind) as bench:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.run, bench.spec(origin.at("/hang", who="cancel")))
            await wait_until(lambda: bool(origin.seen("/hang")))
            left = bench.mark()
            nursery.cancel_scope.cancel()
        assert left() == []
        await wait_until(lambda: origin.open_connections() == 0)


async def test_leaving_the_block_takes_ffmpeg_along(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """A merge that would go on for ever is gone with its worker."""
    slow = tmp_path / "ffmpeg"
    slow.write_text(
        '#!/bin/sh\ncase "$*" in *-bsfs*) echo ffmpeg version 9;; *) sleep 600;; esac\n'
    )
    slow.chmod(0o755)
    async with open_bench(tmp_path, kind) as bench:
        spec = bench.spec(origin.media("dash/manifest.mpd"), params={"ffmpeg_location": str(slow)})
        busy = {"process": 3, "thread": 2}[kind]  # the worker, sh, sleep
        async with bench.engine.open(spec) as run:
            async for report in run:
                if report == Stage("Merger"):
                    break
            await wait_until(lambda: len(descendants(os.getpid())) >= busy)
            left = bench.mark()
        assert left() == []
        assert bench.published() == []


async def test_a_pause_keeps_the_parts_and_the_next_run_continues(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """With a Range, to the exact bytes; a stop is harmless twice and after the end."""
    async with open_bench(tmp_path, kind) as bench:
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


async def test_a_pause_of_what_does_not_move_is_heard(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """The read that waits is ended; what came before it is continued from."""
    async with open_bench(tmp_path, kind) as bench:
        url = origin.file("stuck.mp4", SIZE, stall=500_000)
        async with bench.engine.open(bench.spec(url)) as run:
            run.stop_grace = PATIENCE  # it is not made the hard way
            async for report in run:
                if isinstance(report, Tick):
                    await sent(origin, "stuck.mp4", 500_000)
                    run.stop()
        assert isinstance(report, Stopped)
        assert len(report.partial) == 1
        path = await bench.finish(bench.spec(origin.file("stuck.mp4", SIZE)))
        assert digest(path) == origin.digest("stuck.mp4", SIZE)


async def test_discarding_leaves_nothing(tmp_path: Path, origin: Origin, kind: str) -> None:
    """Also when there is nothing."""
    async with open_bench(tmp_path, kind) as bench:
        spec = bench.spec(origin.file("away.mp4", SIZE, drop=1000), params={"retries": 0})
        end = await bench.run(spec)
        assert isinstance(end, Failed)
        assert spec.work.parent.exists()
        for _ in range(2):
            await bench.engine.discard(spec.work.parent)
        assert list(bench.downloads.iterdir()) == []


async def test_what_is_there_stays_without_overwrite(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """It counts as done, its bytes are the old ones; with overwrite they are replaced."""
    async with open_bench(tmp_path, kind) as bench:
        (bench.downloads / "same.mp4").write_text("old")
        path = await bench.finish(bench.spec(origin.file("same.mp4", SIZE), overwrite=False))
        assert path.read_text() == "old"
        assert bench.published() == ["same.mp4"]
        assert not list((bench.downloads / ".vidra-j").glob("[0-9]*"))
        await bench.finish(bench.spec(origin.file("same.mp4", SIZE)))
        assert digest(path) == origin.digest("same.mp4", SIZE)


async def test_a_destination_is_made_or_refused(tmp_path: Path, origin: Origin, kind: str) -> None:
    """Missing folders are made inside the roots; outside nothing is."""
    async with open_bench(tmp_path, kind) as bench:
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
    tmp_path: Path, origin: Origin, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the worker is through with everything."""
    async with open_bench(tmp_path, kind) as bench:
        async with trio.open_nursery() as nursery:
            real = Disk.publish

            async def publish(disk: Disk, spec: RunSpec, main: str) -> tuple[str, ...]:
                nursery.cancel_scope.cancel()
                return await real(disk, spec, main)

            monkeypatch.setattr(Disk, "publish", publish)
            nursery.start_soon(bench.run, bench.spec(origin.file("late.mp4", 1000)))
        assert bench.published() == []
        assert list((bench.downloads / ".vidra-j").glob("0*/out/late.mp4"))


async def test_a_link_out_of_the_destination_is_not_published_through(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """The template's folder turns out to be somebody else's."""
    (tmp_path / "elsewhere").mkdir()
    async with open_bench(tmp_path, kind) as bench:
        (bench.downloads / "sub").symlink_to(tmp_path / "elsewhere")
        end = await bench.run(
            bench.spec(origin.file("x.mp4", 1000), template="sub/%(title)s.%(ext)s")
        )
        assert isinstance(end, Failed)
        assert end.code == "path_not_allowed"
        assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_the_clients_cookies_are_read_and_left_alone(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """Runs share the file, it may be read-only, and a stop may hit any line of a rewrite."""
    cookies = tmp_path / "cookies.txt"
    lines = [f"127.0.0.1\tFALSE\t/\tFALSE\t2000000000\tname{n}\tvalue" for n in range(500)]
    cookies.write_text("\n".join(["# Netscape HTTP Cookie File", *lines, ""]))
    cookies.chmod(0o444)
    before = cookies.read_bytes(), cookies.stat().st_mtime_ns, cookies.stat().st_ino
    async with open_bench(tmp_path, kind) as bench:
        params = {"cookiefile": str(cookies)}
        await bench.finish(bench.spec(origin.file("cookies.mp4", 1000), params=params))
        slow = origin.file("cookies-slow.mp4", SIZE, rate=100_000)
        async with bench.engine.open(bench.spec(slow, "slow", params=params)):
            await sent(origin, "cookies-slow.mp4", 10_000)
    assert before == (cookies.read_bytes(), cookies.stat().st_mtime_ns, cookies.stat().st_ino)


async def test_holes_are_remembered_across_a_pause(
    tmp_path: Path, origin: Origin, kind: str
) -> None:
    """A fragment that was skipped before the pause is told after it, too; a mended one is not."""
    url = origin.hls(f"gap-{kind}", 8, 40_000, rate=40_000)
    params = {"fragment_retries": 0}
    async with open_bench(tmp_path, kind) as bench:
        spec = bench.spec(url, params=params)
        await stopped_at(bench, spec, 100_000)
        for hole, told in ((1, True), (7, False)):
            (place,) = spec.work.parent.glob("0*")
            (state,) = (place / "tmp").glob("*.ytdl")
            Holes(place).add(state.name.removesuffix(".ytdl"), hole)
            end = await bench.run(spec)
            assert isinstance(end, Finished), end
            errors = [one.message for one in bench.reports if isinstance(one, Line)]
            assert ("the file has holes: 1 fragments" in errors) is told
            await bench.engine.discard(spec.work.parent)
            if told:
                await stopped_at(bench, spec, 100_000)


async def stopped_at(bench: Bench, spec: RunSpec, size: int) -> None:
    """Pause a run when so many bytes are there."""
    async with bench.engine.open(spec) as run:
        async for report in run:
            if isinstance(report, Tick) and report.downloaded_bytes > size:
                run.stop()
    assert isinstance(report, Stopped)


@pytest.mark.parametrize(("url", "code"), [("/hang", "extract"), ("/file", "transfer")])
async def test_a_site_that_keeps_silent_is_a_stall(
    tmp_path: Path, origin: Origin, kind: str, url: str, code: str
) -> None:
    """After what the operator says, not after as many tries as yt-dlp likes."""
    limits = StallLimits(extract=1.5, transfer=1.5)
    where = origin.at(url) if url == "/hang" else origin.file("s.mp4", SIZE, stall=300_000)
    async with open_bench(tmp_path, kind, limits=limits) as bench:
        end = await bench.run(bench.spec(where, params={"socket_timeout": 15}))
        assert isinstance(end, Failed)
        assert (end.code, end.retryable) == (f"stalled_{code}", True)
        await wait_until(lambda: origin.open_connections() == 0)


async def test_a_folder_that_vanishes_is_named(tmp_path: Path, origin: Origin, kind: str) -> None:
    """It is the destination's fault, not the site's or a defect."""
    async with open_bench(tmp_path, kind) as bench:
        url = origin.file("vanishes.mp4", SIZE, rate=2_000_000)
        async with bench.engine.open(bench.spec(url)) as run:
            async for report in run:
                if isinstance(report, Tick):
                    shutil.rmtree(bench.downloads, ignore_errors=True)
        assert isinstance(report, Failed)
        assert report.code == "destination_unavailable"
