"""A file that the site replaced meanwhile is fetched anew; one that it did not is continued."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import yt_dlp

from tests.support.changing import File, Site, open_site
from vidra_trio.core.report import Failed, Line, Stopped, Tick
from vidra_trio.engine import params, validators, ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Ended, Produced, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZE = 400_000
CUT = 300_000
CHUNK = 100_000
MONDAY, TUESDAY = "Mon, 02 Mar 2026 10:00:00 GMT", "Tue, 03 Mar 2026 10:00:00 GMT"


def content(version: int, size: int = SIZE) -> bytes:
    """Return the bytes of one version."""
    return random.Random(version).randbytes(size)


OLD, NEW = content(1), content(2)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Serve for this module."""
    with ytdlp.installed(own_groups=True), open_site() as found:
        yield found


class Bench:
    """Runs one item again and again in the same work directory."""

    def __init__(self, root: Path, site: Site, name: str) -> None:
        self.root = root
        self.site = site
        self.name = name
        self.lines: list[str] = []
        self.params: dict[str, Any] = {}

    def put(self, file: File | Callable[[int], File]) -> None:
        self.site.put(self.name, file)
        self.url = self.site.put(f"page/{self.name}", _page(f"{self.site.url}/{self.name}"))

    def run(self, *, control: Control | None = None, retries: int = 0) -> Ended:
        control = control or Control()

        def take(report: object) -> None:
            if isinstance(report, Line):
                self.lines.append(report.message)

        order = Start(
            run=1,
            url=self.url,
            work=str(self.root / "work"),
            destination=str(self.root / "downloads"),
            template="video.%(ext)s",
            cache=str(self.root / "cache"),
            params={"retries": retries, "fixup": "never", **self.params},
        )
        return ytdlp.run_item(order, take, control)

    def break_off(self) -> None:
        """Run into a line that breaks; a part is left."""
        end = self.run().end
        assert isinstance(end, Failed), end
        assert end.code == "network_error", end
        assert self.part().stat().st_size > 0

    def finish(self, *, retries: int = 0) -> bytes:
        end = self.run(retries=retries).end
        assert isinstance(end, Produced), end
        path = self.root / "work" / "out" / (end.main or "")
        assert not self.part().exists()
        return path.read_bytes()

    def part(self) -> Path:
        return self.root / "work" / "tmp" / "video.mp4.part"

    def starts(self) -> list[int | None]:
        """Where each GET for the file was asked to begin, since it was put."""
        return [one.start for one in self.site.gets(self.name)]


def _page(source: str) -> File:
    # So that only the download itself asks for the file.
    return File(f'<video src="{source}"></video>'.encode(), kind="text/html")


@pytest.fixture
def bench(
    tmp_path: Path, site: Site, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Return a bench with a file of its own, and no pauses between tries."""
    monkeypatch.setattr(params, "pause", lambda n: 0.0)
    return Bench(tmp_path, site, f"{zlib.crc32(request.node.name.encode())}/video.mp4")


CHANGES = {
    "ETag": (File(OLD, '"1"', MONDAY), File(NEW, '"2"', MONDAY)),
    "ETag alone": (File(OLD, '"1"'), File(NEW, '"2"')),
    "weak ETag": (File(OLD, 'W/"1"'), File(NEW, 'W/"2"')),
    "Last-Modified": (File(OLD, '"1"', MONDAY), File(NEW, '"1"', TUESDAY)),
    "Last-Modified alone": (File(OLD, None, MONDAY), File(NEW, None, TUESDAY)),
    "size": (File(OLD, '"1"', MONDAY), File(content(2, SIZE + 7), '"1"', MONDAY)),
    "size alone": (File(OLD), File(content(2, SIZE - 7))),
}
SAME = {
    "all": (File(OLD, '"1"', MONDAY), File(OLD, '"1"', MONDAY)),
    "no validators": (File(OLD), File(OLD)),
    "no size": (File(OLD, '"1"'), File(OLD, '"1"', piece="bytes {start}-{last}/*")),
    "nothing to compare": (File(OLD, '"1"'), File(OLD, None, MONDAY)),
    "nothing at all": (File(OLD), File(OLD, piece="bytes {start}-{last}/*")),
    "weak now": (File(OLD, '"1"'), File(OLD, 'W/"1"')),
}


def cut(file: File, after: int = CUT) -> File:
    """Return `file` over a line that breaks."""
    return File(file.body, file.etag, file.modified, drop=after)


@pytest.mark.parametrize("chunk", [None, CHUNK])
@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_file_is_fetched_anew(bench: Bench, what: str, chunk: int | None) -> None:
    """Whatever tells that it changed between two runs, and in whatever pieces it comes."""
    before, after = CHANGES[what]
    bench.params["http_chunk_size"] = chunk
    bench.put((lambda n: cut(before, CHUNK // 2) if n else before) if chunk else cut(before))
    bench.break_off()
    bench.put(after)
    assert bench.finish() == after.body
    assert (bench.starts()[0] or 0) > 0
    assert any(line.endswith("starting over") for line in bench.lines)


@pytest.mark.parametrize(
    ("what", "chunk"),
    [
        (what, chunk)
        for what, (_, after) in SAME.items()
        for chunk in (None, CHUNK)
        if chunk is None or after.piece == File.piece
    ],
)
def test_an_unchanged_file_is_continued(bench: Bench, what: str, chunk: int | None) -> None:
    """With as much or as little as the site tells; no byte more is fetched than is rewound."""
    before, after = SAME[what]
    bench.put(cut(before))
    bench.break_off()
    there = bench.part().stat().st_size
    bench.params["http_chunk_size"] = chunk
    bench.put(after)
    assert bench.finish() == OLD
    assert all(start for start in bench.starts())
    asked = bench.site.gets(bench.name)
    assert sum(one.sent for one in asked) < SIZE - there // 4
    assert not any(line.endswith("starting over") for line in bench.lines)


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_changes_while_it_is_fetched_is_fetched_anew(bench: Bench, what: str) -> None:
    """The line breaks, and what is there when it is back is another file."""
    before, after = CHANGES[what]
    bench.put(lambda n: after if n else cut(before))
    assert bench.finish(retries=2) == after.body
    first, second, third = bench.starts()
    assert (first, third) == (None, None)
    assert CUT // 2 < (second or 0) <= CUT


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_changes_between_two_chunks_is_fetched_anew(bench: Bench, what: str) -> None:
    """Its part is open for writing then: nothing of it may stay."""
    before, after = CHANGES[what]
    bench.params["http_chunk_size"] = CHUNK
    bench.put(lambda n: before if n < 2 else after)
    assert bench.finish() == after.body


def test_a_mirror_that_names_the_file_differently_does_not_go_round(bench: Bench) -> None:
    """Each chunk from another machine: after the second try it comes in one piece."""
    bench.params["http_chunk_size"] = CHUNK
    bench.put(lambda n: File(OLD, f'"{n % 2}"'))
    assert bench.finish() == OLD
    assert len(bench.starts()) <= 6
    assert bench.starts()[-1] is None


def test_a_file_that_never_stays_is_given_up(bench: Bench) -> None:
    """After a number of times, with a word for it, and worth another try later."""
    bench.put(lambda n: cut(File(content(n), f'"{n}"')))
    end = bench.run(retries=5).end
    assert end == Failed("remote_changed", "the file at the site keeps changing", retryable=True)
    assert len(bench.starts()) <= 2 * (validators.MAX_RESTARTS + 1)


@pytest.mark.parametrize("chunk", [None, CHUNK])
@pytest.mark.parametrize(
    "odd",
    [
        File(OLD, ranges=False),
        File(OLD, piece=""),
        File(OLD, piece="nonsense"),
        File(OLD, piece="bytes {start}-{last}/*"),
        File(OLD, shift=10),
        File(OLD, compressed=True),
    ],
    ids=["no ranges", "no Content-Range", "nonsense", "no size", "elsewhere", "gzip"],
)
def test_an_odd_answer_never_spoils_the_file(bench: Bench, odd: File, chunk: int | None) -> None:
    """What does not continue the part is not appended to it, nor taken for the whole."""
    bench.put(cut(File(OLD)))
    bench.break_off()
    bench.params["http_chunk_size"] = chunk
    # Whoever is odd from the first byte on is beyond our help: yt-dlp believes it.
    bench.put(lambda n: odd if bench.starts()[n] else File(OLD))
    assert bench.finish(retries=2) == OLD


def test_chunks_that_do_not_say_how_long_the_file_is_are_given_up(bench: Bench) -> None:
    """yt-dlp takes the first of them for the whole file."""
    bench.params["http_chunk_size"] = CHUNK
    bench.put(File(OLD, piece="bytes {start}-{last}/*"))
    assert bench.finish() == OLD
    assert bench.starts() == [0, None]


def test_a_site_that_ignores_ranges_between_two_chunks_is_asked_again(bench: Bench) -> None:
    """The whole file is not appended to the chunks that are there."""
    bench.params["http_chunk_size"] = CHUNK
    bench.put(lambda n: File(OLD, ranges=n < 2 or n > 2))
    assert bench.finish() == OLD


def test_a_site_without_ranges_is_asked_once(bench: Bench) -> None:
    """Its whole answer is used: some give a file only once."""
    bench.put(cut(File(OLD)))
    bench.break_off()
    bench.put(File(OLD, '"new"', ranges=False))
    assert bench.finish() == OLD
    assert len(bench.starts()) == 1


def test_nothing_is_left_of_an_earlier_range(bench: Bench) -> None:
    """The whole file is sent, breaks off at once, and the next answer is the whole file, too."""
    bench.put(cut(File(OLD)))
    bench.break_off()
    bench.put(lambda n: File(OLD) if n else File(OLD, ranges=False, drop=0))
    assert bench.finish(retries=2) == OLD
    assert bench.starts()[1:] == [None]


def test_a_file_that_is_a_little_shorter_is_not_taken_for_whole(bench: Bench) -> None:
    """yt-dlp would: 416, and about as long as what is there."""
    shorter = content(2, SIZE - 50)
    bench.put(lambda n: File(shorter) if n else cut(File(OLD), SIZE - 10))
    assert bench.finish(retries=2) == shorter


@pytest.mark.parametrize("memory", [None, b"", b'{"torn', b"{}", b'{"x": 5}'])
def test_a_part_that_nobody_vouches_for_is_not_continued(
    bench: Bench, memory: bytes | None
) -> None:
    """What the site said is gone or unreadable: who knows what the part is of."""
    bench.put(cut(File(OLD, '"1"')))
    bench.break_off()
    path = bench.root / "work" / validators.MEMORY
    if memory is None:
        path.unlink()
    else:
        path.write_bytes(memory)
    bench.put(File(NEW, '"1"'))
    assert bench.finish() == NEW


@pytest.mark.parametrize(("target", "continued"), [(OLD, True), (NEW, False)])
def test_behind_a_redirect_the_file_counts(bench: Bench, target: bytes, continued: bool) -> None:
    """Not where it is, nor what the redirect says."""
    far = f"far/{bench.name}"
    bench.site.put(far, cut(File(OLD, '"1"')))
    bench.put(File(b"", redirect=f"{bench.site.url}/{far}"))
    bench.break_off()
    further = f"further/{bench.name}"
    bench.site.put(further, File(target, '"1"' if continued else '"2"'))
    bench.put(File(b"", redirect=f"{bench.site.url}/{further}"))
    assert bench.finish() == target
    assert len(bench.site.gets(further)) == (1 if continued else 2)


@pytest.mark.parametrize(("body", "etag"), [(OLD, '"1"'), (NEW, '"2"')])
def test_a_format_that_is_a_piece_of_a_file_stays_that_piece(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, body: bytes, etag: str
) -> None:
    """Its own Range is what starting over means."""
    real = yt_dlp.YoutubeDL.extract_info

    def extract(ydl: object, url: str, **arguments: object) -> dict[str, object]:
        found = real(ydl, url, **arguments)
        (entry,) = found.pop("entries", [found])
        own = {"http_headers": {"Range": "bytes=1000-350999"}}
        return {**entry, "formats": [{**one, **own} for one in entry["formats"]]}

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)
    bench.put(cut(File(OLD, '"1"')))
    bench.break_off()
    bench.put(File(body, etag))
    assert bench.finish() == body[1000:351_000]
    assert None not in bench.starts()


def test_a_stop_while_starting_over_is_heard(bench: Bench) -> None:
    """It is not a round more."""
    control = Control()

    def serve(n: int) -> File:
        if n:
            control.stop()
        return cut(File(content(n), f'"{n}"'))

    bench.put(serve)
    assert bench.run(control=control, retries=5).end == Stopped()
    assert len(bench.starts()) == 2


def playlist(bench: Bench, segments: int, *, cut_at: int | None = None) -> None:
    """Put an HLS playlist whose segments say how many there are."""
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXT-X-PLAYLIST-TYPE:VOD"]
    for number in range(segments):
        lines += ["#EXTINF:1,", f"{number}.ts"]
        body = content(1000 * segments + number, 20_000)
        file = File(body, drop=10 if number == cut_at else None, kind="video/mp2t")
        bench.site.put(f"{bench.name}/{number}.ts", file)
    text = "\n".join([*lines, "#EXT-X-ENDLIST"]).encode()
    kind = "application/vnd.apple.mpegurl"
    bench.url = bench.site.put(f"{bench.name}/video.m3u8", File(text, kind=kind))


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("segments", [6, 9])
def test_a_playlist_of_another_length_starts_over(
    bench: Bench, segments: int, connections: int
) -> None:
    """And one of the same length goes on where it was."""
    bench.params = {
        "concurrent_fragment_downloads": connections,
        "skip_unavailable_fragments": False,
        "fragment_retries": 0,
    }
    playlist(bench, 6, cut_at=4)
    assert isinstance(bench.run().end, Failed)
    playlist(bench, segments)
    expected = b"".join(content(1000 * segments + n, 20_000) for n in range(segments))
    assert bench.finish() == expected
    assert bool(bench.site.gets(f"{bench.name}/0.ts")) is (segments != 6)


def test_the_reports_of_a_file_that_starts_over_end_with_the_whole(bench: Bench) -> None:
    """The last tick has the size of what is there."""
    ticks: list[Tick] = []
    bench.put(lambda n: File(NEW, '"2"') if n else cut(File(OLD, '"1"')))
    order = Start(
        1, bench.url, str(bench.root / "work"), str(bench.root), "video.%(ext)s",
        str(bench.root / "cache"), {"retries": 2, "fixup": "never"},
    )  # fmt: skip

    def take(report: object) -> None:
        if isinstance(report, Tick):
            ticks.append(report)

    assert isinstance(ytdlp.run_item(order, take, Control()).end, Produced)
    assert ticks[-1].downloaded_bytes == ticks[-1].total_bytes == SIZE
