"""What yt-dlp does seldom: answers without a file, odd log lines, failed decorations, hangs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import yt_dlp
from yt_dlp.postprocessor.ffmpeg import FFmpegMetadataPP

from tests.support.origin import Origin, digest, open_origin
from tests.support.process import alive, descendants
from vidra_trio.core.report import Failed, Finished, Line, Stage, Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine import ytdlp
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.control import Control
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.pipe import Ended, Produced, Start
from vidra_trio.engine.process import ProcessEngine, open_process_engine
from vidra_trio.engine.ytdlp.driver import ItemYDL
from vidra_trio.engine.ytdlp.steps import sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from vidra_trio.core.report import Report
    from vidra_trio.engine.run import ItemRun

pytestmark = pytest.mark.slow

SIZE = 2_000_000
PATIENCE = 60
"""A liveness bound on a busy machine; speed is not judged here."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with ytdlp.installed(own_groups=True), open_origin() as found:
        yield found


class Inside:
    """One item in this process, and what it told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: list[object] = []

    def run(self, url: str, **params: object) -> Ended:
        work, cache = str(self.root / "work"), str(self.root / "cache")
        params = {"retries": 1, "fixup": "never", **params}
        order = Start(1, url, work, str(self.root / "d"), "%(title)s.%(ext)s", cache, params)
        return ytdlp.run_item(order, self.told.append, Control())

    def lines(self, level: Level) -> list[str]:
        return [one.message for one in self.told if isinstance(one, Line) and one.level is level]


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    """Return a place to run items in."""
    return Inside(tmp_path)


def before_extraction(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[ItemYDL], dict[str, object] | None]
) -> None:
    """Have `act` answer in the extractor's place; None leaves the answer to the extractor."""
    real = yt_dlp.YoutubeDL.extract_info

    def extract(ydl: ItemYDL, url: str, **arguments: Any) -> Any:  # noqa: ANN401  # yt-dlp's
        return act(ydl) or real(ydl, url, **arguments)

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)


def test_a_download_that_leaves_no_file_is_a_failure(
    inside: Inside, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However content yt-dlp is with itself."""
    monkeypatch.setattr(ItemYDL, "process_ie_result", lambda *_, **__: {"id": "x"})
    end = inside.run(origin.file("a.mp4", 10)).end
    assert end == Failed("nothing_downloaded", "yt-dlp ended without a file")


def test_what_yt_dlp_says_of_itself_has_the_right_level(
    inside: Inside, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debugging, words, and a deprecation that is no error of the user's."""

    def speak(ydl: ItemYDL) -> None:
        logger = ydl.params["logger"]
        logger.info("words")
        logger.debug("[debug] details")
        logger.error("Deprecated Feature: old switch")

    before_extraction(monkeypatch, speak)
    assert isinstance(inside.run(origin.file("a.mp4", 10)).end, Produced)
    assert "words" in inside.lines(Level.INFO)
    assert "[debug] details" in inside.lines(Level.DEBUG)
    assert inside.lines(Level.ERROR) == []


def test_a_client_that_cannot_be_imitated_is_said(inside: Inside, origin: Origin) -> None:
    """The wish is understood; here nothing is installed that could fulfil it."""
    end = inside.run(origin.file("a.mp4", 10), impersonate="netscape-4").end
    assert isinstance(end, Failed)
    assert "netscape-4" in end.message


def test_a_retry_without_end_is_one(inside: Inside, origin: Origin) -> None:
    """JSON has no infinity, so it is a word there."""
    url = origin.file("stubborn.mp4", 40_000, drop=10_000, drop_times=1)
    end = inside.run(url, retries="infinite").end
    assert isinstance(end, Produced), end
    assert digest(inside.root / "work" / "out" / (end.main or "")) == origin.digest(
        "stubborn.mp4", 40_000
    )


def test_a_step_that_would_leave_the_directory_is_no_decoration(
    inside: Inside, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused path ends the item; only what failed at its own work costs a warning."""

    def refuse(*_: object) -> None:
        raise ItemFailed("path_not_allowed", "no")

    monkeypatch.setattr(FFmpegMetadataPP, "run", refuse)
    end = inside.run(origin.file("a.mp4", 10), postprocessors=[{"key": "FFmpegMetadata"}]).end
    assert end == Failed("path_not_allowed", "no")


def test_a_cover_that_could_not_be_embedded_is_swept(tmp_path: Path) -> None:
    """The picture was fetched for the embedding only; one that was asked for stays."""
    item = SimpleNamespace(out=tmp_path, tmp=tmp_path, order=None)
    for wanted in (False, True):
        cover, half = tmp_path / "a.webp", tmp_path / "a.temp.mp4"
        for file in (cover, half):
            file.write_text("x")
        info = {"filepath": str(tmp_path / "a.mp4"), "thumbnails": [{"filepath": str(cover)}, {}]}
        with ItemYDL({"quiet": True, "cachedir": False}, item) as ydl:  # type: ignore[arg-type]
            sweep(ydl, "EmbedThumbnail", SimpleNamespace(_already_have_thumbnail=wanted), info)
            sweep(ydl, "Metadata", None, {})
            assert ydl.get_output_path() == ydl.get_output_path("temp") == str(tmp_path)
        assert not half.exists()
        assert cover.exists() is wanted


def test_prewarming_leaves_nothing_behind() -> None:
    """It may take its time once, and needs nothing."""
    ytdlp.prewarm()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ProcessEngine]:
    """Return an engine for two runs at a time."""
    (tmp_path / "d").mkdir()
    async with open_process_engine(cache=tmp_path / "cache", size=2) as found:
        yield found


def spec(root: Path, url: str, job: str = "j", **params: object) -> RunSpec:
    work = root / "d" / f".vidra-{job}"
    params = {"retries": 1, "fixup": "never", **params}
    return RunSpec(job, url, root / "d", work, "%(title)s.%(ext)s", params)


async def read(run: ItemRun, until: Callable[[Report], bool]) -> Report:
    """Read reports until one is what is waited for, or the last."""
    async for report in run:
        if until(report):
            break
    return report


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something outside of Trio's sight."""
    while not condition():  # noqa: ASYNC110  # no event tells
        await trio.sleep(0.01)


async def test_a_pause_of_a_hanging_extraction_ends(
    tmp_path: Path, origin: Origin, engine: ProcessEngine
) -> None:
    """The site never answers: the read that waits for it is ended."""
    with trio.fail_after(PATIENCE):
        async with engine.open(spec(tmp_path, origin.at("/hang", who="pause"))) as run:
            await until(lambda: bool(origin.seen("/hang")))
            pids = [one.pid for one in engine.pool.workers]
            run.stop()
            assert await read(run, lambda one: isinstance(one, Stopped)) == Stopped()
        await until(lambda: origin.open_connections() == 0)
    assert len(alive(pids)) == len(pids) - 1, "the one that hung is gone, the other one is not"


async def test_leaving_the_block_ends_a_real_encode(
    tmp_path: Path, origin: Origin, engine: ProcessEngine
) -> None:
    """An ffmpeg that works is gone with its worker, and so is what it had written."""
    convert = {"key": "FFmpegVideoConvertor", "preferedformat": "mkv"}
    slow = {"videoconvertor": ["-vf", "scale=3840:2160", "-preset", "veryslow"]}
    url = origin.media("clip.mp4")
    with trio.fail_after(PATIENCE):
        job = spec(tmp_path, url, postprocessors=[convert], postprocessor_args=slow)
        async with engine.open(job) as run:
            await read(run, lambda one: one == Stage("VideoConvertor"))
            pids = [one.pid for one in engine.pool.workers]
            await until(lambda: any(descendants(pid) for pid in pids))
            encoders = [child for pid in pids for child in descendants(pid)]
    assert alive(encoders) == []
    assert [one.name for one in (tmp_path / "d").iterdir()] == [".vidra-j"]
    await engine.discard(job.work)
    assert list((tmp_path / "d").iterdir()) == []


async def test_what_one_run_suffers_the_others_do_not_feel(
    tmp_path: Path, origin: Origin, engine: ProcessEngine
) -> None:
    """One is cancelled, one fails, six arrive, two at a time."""
    ends: dict[str, object] = {}

    async def one(name: str, **faults: object) -> None:
        job = spec(tmp_path, origin.file(f"{name}.mp4", SIZE, **faults), name)
        async with engine.open(job) as run:
            ends[name] = await read(run, lambda _: False)

    async def cancelled() -> None:
        job = spec(tmp_path, origin.file("cancelled.mp4", SIZE, rate=500_000), "cancelled")
        async with engine.open(job) as run:
            await read(run, lambda one: isinstance(one, Stage))
        await engine.discard(job.work)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            nursery.start_soon(lambda: one("fails", status=403))
            for number in range(6):
                nursery.start_soon(one, f"good-{number}")
    await engine.discard(tmp_path / "d" / ".vidra-fails")
    end = ends.pop("fails")
    assert isinstance(end, Failed)
    assert end.code == "http_403"
    assert len(ends) == 6
    for name, finished in ends.items():
        assert isinstance(finished, Finished), name
        assert digest(finished.main or "") == origin.digest(f"{name}.mp4", SIZE)
    assert len(list((tmp_path / "d").iterdir())) == 6
    assert engine.statistics().running == 0
