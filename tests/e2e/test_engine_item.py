"""One item through yt-dlp in this process, against the test origin."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yt_dlp
from yt_dlp.postprocessor.ffmpeg import FFmpegMergerPP, FFmpegMetadataPP

from tests.support.origin import Origin, digest, media_root, open_origin
from vidra_trio.core import options
from vidra_trio.core.report import Failed, Identified, Line, Stage, Stopped, Tick, Waiting
from vidra_trio.core.states import Level
from vidra_trio.engine import ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Ended, Produced, Start
from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZE = 300_000
CLIENT_DEFAULTS: dict[str, Any] = {
    "audio_language": "best",
    "video_resolution": "best",
    "video_subtitles": "none",
    "merge_output_format": "mkv",
    "audio_format": "best",
    "embed_subs": True,
    "embed_thumbnail": True,
    "embed_metadata": True,
    "embed_chapters": True,
    "embed_info_json": True,
    "format": "bestvideo+bestaudio/best",
    "fixup": "force",
    "convert_thumbnails": "webp",
    "sub_format": "srt",
    "sponsorblock_mark": ["sponsor"],
    "playlist": False,
}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with ytdlp.installed(own_groups=True), open_origin() as found:
        yield found


@dataclass
class Bench:
    """Runs items in directories of its own and keeps what they reported."""

    root: Path
    ffmpeg: str | None
    reports: list[Identified | Tick | Stage | Line | Waiting] = field(default_factory=list)
    control: Control = field(default_factory=Control)
    template: str = "%(title)s.%(ext)s"
    overwrite: bool = True

    def run(self, url: str, **params: Any) -> Ended:  # noqa: ANN401  # yt-dlp's own
        self.reports = []
        return ytdlp.run_item(self.order(url, **params), self.reports.append, self.control)

    def order(self, url: str, **params: Any) -> Start:  # noqa: ANN401
        return Start(
            run=1,
            url=url,
            work=str(self.root / "work"),
            destination=str(self.root / "downloads"),
            template=self.template,
            cache=str(self.root / "cache"),
            params={"retries": 2, "fixup": "never", **params},
            overwrite=self.overwrite,
            ffmpeg=self.ffmpeg,
        )

    def fail(self, url: str, **params: Any) -> Failed:  # noqa: ANN401
        end = self.run(url, **params).end
        assert isinstance(end, Failed)
        return end

    def main(self, url: str, **params: Any) -> Path:  # noqa: ANN401
        end = self.run(url, **params).end
        assert isinstance(end, Produced), end
        assert end.main is not None, end
        return self.root / "work" / "out" / end.main

    def lines(self, level: Level) -> list[str]:
        return [one.message for one in self.reports if isinstance(one, Line) and one.level is level]

    def stages(self) -> list[str]:
        return [one.name for one in self.reports if isinstance(one, Stage) and not one.finished]

    def streams(self, path: Path) -> str:
        assert self.ffmpeg is not None
        answer = subprocess.run([self.ffmpeg, "-i", str(path)], capture_output=True, check=False)
        return answer.stderr.decode()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench that has the wheel's ffmpeg only: no ffprobe."""
    monkeypatch.setenv("PATH", "/nowhere")
    return Bench(tmp_path, find_ffmpeg().location)


def test_a_direct_file_is_identified_counted_and_whole(bench: Bench, origin: Origin) -> None:
    """Identification comes before the first byte, the full size before the end."""
    path = bench.main(origin.file("clip ✓ ñ.mp4", SIZE, rate=2_000_000))
    assert path.name == "clip ✓ ñ.mp4"
    assert digest(path) == origin.digest("clip ✓ ñ.mp4", SIZE)
    kinds = [type(one).__name__ for one in bench.reports if not isinstance(one, Line)]
    assert kinds[:3] == ["Identified", "Stage", "Tick"]
    assert bench.stages() == ["download", "MoveFiles"]
    ticks = [one for one in bench.reports if isinstance(one, Tick)]
    assert ticks[-1].downloaded_bytes == ticks[-1].total_bytes == SIZE
    assert {one.key for one in ticks} == {"clip ✓ ñ.mp4"}
    assert [one.downloaded_bytes for one in ticks] == sorted(t.downloaded_bytes for t in ticks)
    told = next(one for one in bench.reports if isinstance(one, Identified))
    assert told.preview["title"] == "clip ✓ ñ"
    assert told.preview["extractor_id"] == "Generic"
    assert not any(str(bench.root) in line for line in bench.lines(Level.INFO))


def test_a_slow_line_still_shows_signs_of_life(bench: Bench, origin: Origin) -> None:
    """10 KB/s: several ticks, where a fixed block of 128 KiB would give none."""
    bench.main(origin.file("slow.mp4", 10_000, rate=10_000))
    assert sum(isinstance(one, Tick) for one in bench.reports) >= 5


def test_a_second_extraction_is_not_made(bench: Bench, origin: Origin) -> None:
    """One look at the page, one at the file: the site sees what it must."""
    bench.main(origin.file("once.mp4", 1000))
    assert len(origin.seen("once.mp4")) <= 2


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status/403", "http_403"),
        ("/status/404", "http_404"),
        ("/status/429", "http_429"),
        ("/status/500", "http_error"),
        ("/html", "unsupported_url"),
    ],
)
def test_a_page_that_cannot_be_had_says_why(
    bench: Bench, origin: Origin, path: str, code: str
) -> None:
    """The code, the words, and one ERROR line with the same words."""
    end = bench.fail(origin.at(path), extractor_retries=0)
    assert end.code == code
    assert bench.lines(Level.ERROR) == [end.message]
    assert "ERROR" not in end.message
    assert "caused by" not in end.message


def test_a_refused_connection_is_a_network_error(bench: Bench) -> None:
    """And worth another try."""
    end = bench.fail("http://127.0.0.1:9/x", extractor_retries=0)
    assert (end.code, end.retryable) == ("network_error", True)


def test_a_site_that_never_answers_is_a_timeout(bench: Bench, origin: Origin) -> None:
    """After the socket's own time."""
    end = bench.fail(origin.at("/hang"), socket_timeout=0.3, extractor_retries=0)
    assert end.code == "timeout"


def test_a_file_that_is_gone_when_it_is_fetched_fails(bench: Bench, origin: Origin) -> None:
    """The page was fine, the file is not: no success without a file."""
    page = origin.at("/page", src=origin.file("gone.mp4", 10, status=404))
    end = bench.fail(page)
    assert end.code == "http_404"


def test_a_file_that_always_breaks_off_fails(bench: Bench, origin: Origin) -> None:
    """After its retries, as a network error, with what there is kept."""
    end = bench.fail(origin.file("cut.mp4", SIZE, drop=50_000), retries=0)
    assert (end.code, end.retryable) == ("network_error", True)


def test_a_file_that_breaks_off_twice_arrives(bench: Bench, origin: Origin) -> None:
    """Retried from where it broke."""
    path = bench.main(origin.file("twice.mp4", SIZE, drop=100_000, drop_times=2), retries=5)
    assert digest(path) == origin.digest("twice.mp4", SIZE)
    assert any(one.range for one in origin.seen("twice.mp4"))


def test_a_playlist_is_refused_with_words(bench: Bench, origin: Origin) -> None:
    """Nothing of it is downloaded."""
    sources = [origin.file(f"e{n}.mp4", 100) for n in range(50)]
    end = bench.fail(origin.at("/feed", src=sources))
    assert end.code == "playlist_not_supported"
    assert "later version" in end.message
    assert origin.seen("e0.mp4") == []


def test_a_playlist_of_one_is_that_one(bench: Bench, origin: Origin) -> None:
    """A feed, a page with one video."""
    for name in ("/feed", "/page"):
        path = bench.main(origin.at(name, src=origin.file("only.mp4", SIZE)))
        assert digest(path) == origin.digest("only.mp4", SIZE)
        bench.template = "second.%(ext)s"


def test_an_empty_playlist_is_a_failure(bench: Bench, origin: Origin) -> None:
    """There is nothing to have."""
    end = bench.fail(origin.at("/feed", src=[]))
    assert (end.code, end.message) == ("nothing_downloaded", "the playlist is empty")


def test_hls_arrives_whole(bench: Bench, origin: Origin) -> None:
    """The segments in order, also with several connections."""
    folder = media_root() / "hls"
    expected = b"".join(p.read_bytes() for p in sorted(folder.glob("seg*.ts")))
    for connections in (1, 4):
        bench.root = bench.root / str(connections)
        path = bench.main(origin.media("hls/index.m3u8"), concurrent_fragment_downloads=connections)
        assert path.read_bytes() == expected


def test_hls_is_repaired_by_default(bench: Bench, origin: Origin) -> None:
    """The fixup needs ffmpeg only; without ffprobe it still works."""
    path = bench.main(origin.media("hls/index.m3u8"), fixup=None)
    assert "FixupM3u8" in bench.stages()
    assert path.stat().st_size > 0


def test_dash_is_merged_and_its_total_known(bench: Bench, origin: Origin) -> None:
    """Two streams, two stages, one file with both."""
    path = bench.main(origin.media("dash/manifest.mpd"), merge_output_format="mkv")
    assert path.suffix == ".mkv"
    assert bench.stages() == ["download", "download", "Merger", "MoveFiles"]
    streams = bench.streams(path)
    assert "Video:" in streams
    assert "Audio:" in streams


def test_audio_is_extracted(bench: Bench, origin: Origin) -> None:
    """An mp3 is what was asked for, and the only thing left."""
    convert = {"key": "FFmpegExtractAudio", "preferredcodec": "mp3"}
    path = bench.main(origin.media("clip.mp4"), postprocessors=[convert], final_ext="mp3")
    assert path.name == "clip.mp3"
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp3"]


def test_an_essential_step_that_fails_fails_the_item(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams that could not be merged are not what was asked for."""

    def fail(*_: object) -> None:
        raise yt_dlp.utils.PostProcessingError("Conversion failed!")

    monkeypatch.setattr(FFmpegMergerPP, "run_ffmpeg_multiple_files", fail)
    end = bench.fail(origin.media("dash/manifest.mpd"))
    assert end.code == "postprocessing_failed"
    assert end.message == "Postprocessing: Conversion failed!"
    assert bench.lines(Level.ERROR) == [end.message]


@pytest.mark.parametrize("error", [yt_dlp.utils.PostProcessingError("no"), KeyError("no")])
def test_a_decorating_step_that_fails_costs_a_warning(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The media file is kept, its stage ends, nothing half done is published."""

    def fail(*_: object) -> None:
        (bench.root / "work" / "tmp" / "keep.temp.mp4").write_text("half")
        raise error

    monkeypatch.setattr(FFmpegMetadataPP, "_get_metadata_opts", fail)
    bench.template = "keep.%(ext)s"
    path = bench.main(origin.file("x.mp4", SIZE), postprocessors=[{"key": "FFmpegMetadata"}])
    assert digest(path) == origin.digest("x.mp4", SIZE)
    assert any("Metadata was skipped" in line for line in bench.lines(Level.WARNING))
    assert Stage("Metadata", finished=True) in bench.reports
    assert bench.lines(Level.ERROR) == []
    assert not (bench.root / "work" / "tmp" / "keep.temp.mp4").exists()


class Extractor:
    """Replaces what the page says, to offer what the generic extractor never does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
        self.more = more
        self.real = yt_dlp.YoutubeDL.extract_info
        monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", self)

    def __get__(self, ydl: object, kind: type) -> Any:  # noqa: ANN401  # a method of YoutubeDL
        def extract(url: str, **arguments: Any) -> Any:  # noqa: ANN401
            found = self.real(ydl, url, **arguments)
            return {**found, **self.more}

        return extract


def test_without_ffprobe_everything_that_needs_it_is_skipped(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own defaults on a video with cover and chapters: done, with warnings."""
    Extractor(
        monkeypatch,
        thumbnails=[{"url": origin.media("cover.jpg")}],
        chapters=[{"start_time": 0, "title": "One"}],
        subtitles={"en": [{"url": origin.media("subs.vtt"), "ext": "vtt"}]},
    )
    params = options.ytdlp_params({**CLIENT_DEFAULTS, "write_subs": True, "sub_langs": ["en"]})
    path = bench.main(origin.media("dash/manifest.mpd"), **params)
    assert path.name == "manifest.mkv"
    assert {p.name for p in path.parent.iterdir()} == {"manifest.mkv", "manifest.en.vtt"}
    warnings = "\n".join(bench.lines(Level.WARNING))
    assert "info.json is not embedded" in warnings
    assert "EmbedThumbnail was skipped: ffprobe not found" in warnings
    assert bench.lines(Level.ERROR) == []


def test_the_clients_defaults_work(bench: Bench, origin: Origin) -> None:
    """A plain file with everything switched on that the client switches on."""
    path = bench.main(origin.media("clip.mp4"), **options.ytdlp_params(CLIENT_DEFAULTS))
    assert path.name == "clip.mp4"
    assert bench.lines(Level.ERROR) == []


def test_a_subtitle_that_is_gone_costs_a_warning(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives no ticks of its own."""
    Extractor(
        monkeypatch,
        subtitles={
            "en": [{"url": origin.media("subs.vtt"), "ext": "vtt"}],
            "es": [{"url": origin.at("/status/404"), "ext": "vtt"}],
        },
    )
    path = bench.main(origin.media("clip.mp4"), writesubtitles=True, subtitleslangs=["en", "es"])
    assert sorted(p.name for p in path.parent.iterdir()) == ["clip.en.vtt", "clip.mp4"]
    assert any("'es'" in line for line in bench.lines(Level.WARNING))
    assert {one.key for one in bench.reports if isinstance(one, Tick)} == {"clip.mp4"}


def test_a_reference_is_followed_and_described_by_whoever_refers(
    bench: Bench, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`url_transparent`: the embedding page's title, the embedded page's file."""
    target = origin.file("inner.mp4", SIZE)
    real = yt_dlp.YoutubeDL.extract_info

    def extract(ydl: Any, url: str, **arguments: Any) -> Any:  # noqa: ANN401
        if url.startswith("http"):
            return real(ydl, url, **arguments)
        kind, _, rest = url.partition(":")
        return {"_type": kind, "url": rest or url, "title": f"by {kind}", "description": None}

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)
    assert bench.main(f"url:{target}").name == "inner.mp4"
    assert bench.main(f"url_transparent:url:{target}").name == "by url_transparent.mp4"
    assert bench.fail("url:url").message == "the page refers to another one again and again"
    assert bench.fail("dance:").message == "the extractor returned a 'dance'"


def test_an_extractor_that_finds_nothing_is_a_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a success without a file."""
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda *_, **__: None)
    assert bench.fail("http://x").code == "nothing_downloaded"


def test_a_site_that_wants_to_be_read_again_and_again_ends(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """yt-dlp would go round for ever."""

    def again(*_: object, **__: object) -> None:
        raise yt_dlp.utils.ReExtractInfo("again")

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", again)
    assert bench.fail("http://x").code == "engine_error"


@pytest.mark.parametrize(
    ("error", "reusable"),
    [(SystemExit(2), False), (MemoryError(), False), (RecursionError(), False), (KeyError(), True)],
)
def test_whatever_is_raised_is_a_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: BaseException, reusable: bool
) -> None:
    """A run always ends with a report; a process in doubt is not used again."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", fail)
    ended = bench.run("http://x")
    assert isinstance(ended.end, Failed)
    assert ended.reusable is reusable
    assert len(bench.lines(Level.ERROR)) == 1
    bench.control.stop()
    assert isinstance(bench.run("http://x").end, Stopped)


def test_a_secret_in_an_error_is_masked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a site answers may repeat what it was told."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("bad login alice:hunter22")

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", fail)
    assert "hunter22" not in bench.fail("http://x", password="hunter22").message
    assert "hunter22" not in str(bench.reports)


def test_what_is_there_is_not_fetched_again(bench: Bench, origin: Origin) -> None:
    """Without overwrite the destination is looked at before the transfer."""
    (bench.root / "downloads").mkdir()
    (bench.root / "downloads" / "there.mp4").write_text("old")
    bench.overwrite = False
    end = bench.run(origin.file("there.mp4", 5_000_000)).end
    assert end == Produced(already=("there.mp4",))
    assert "there.mp4 is there already" in bench.lines(Level.INFO)
    bench.overwrite = True
    bench.main(origin.file("there.mp4", SIZE))


def test_what_the_archive_knows_is_skipped(bench: Bench, origin: Origin) -> None:
    """With the reason, as a success without files."""
    archive = bench.root / "archive.txt"
    bench.main(origin.file("a.mp4", 1000), download_archive=str(archive))
    assert archive.read_text()
    for stop in (False, True):
        end = bench.run(
            origin.file("a.mp4", 1000), download_archive=str(archive), break_on_existing=stop
        ).end
        assert isinstance(end, Produced)
        assert end.main is None
        assert end.skipped


def test_a_filter_that_says_no_skips(bench: Bench, origin: Origin) -> None:
    """Filtered is not failed."""
    end = bench.run(origin.file("a.mp4", 1000), rejecttitle="a").end
    assert isinstance(end, Produced)
    assert end.skipped


def test_a_soft_stop_ends_at_the_next_sign_of_life(bench: Bench, origin: Origin) -> None:
    """And the next run continues with a Range, to the exact bytes."""
    url = origin.file("pause.mp4", 2_000_000, rate=3_000_000)

    def stop_half_way() -> None:
        origin.wait_sent("pause.mp4", 600_000)
        bench.control.stop()

    timer = threading.Thread(target=stop_half_way)
    timer.start()
    assert bench.run(url).end == Stopped()
    timer.join()
    assert bench.lines(Level.ERROR) == []
    bench.control = Control()
    assert digest(bench.main(url)) == origin.digest("pause.mp4", 2_000_000)
    assert (origin.seen("pause.mp4")[-1].range or "").startswith("bytes=")


def test_a_finished_stream_is_not_fetched_again(bench: Bench, origin: Origin) -> None:
    """Stopped between download and merge: the streams are there, only the merge is done."""
    finished: list[Stage] = []

    def watch(report: object) -> None:
        if isinstance(report, Stage) and report.finished and report.key:
            finished.append(report)
            if len(finished) == 2:
                bench.control.stop()

    order = bench.order(origin.media("dash/manifest.mpd"))
    assert ytdlp.run_item(order, watch, bench.control).end == Stopped()
    before = len(origin.seen("chunk-stream"))
    bench.control = Control()
    bench.main(origin.media("dash/manifest.mpd"))
    assert len(origin.seen("chunk-stream")) == before
