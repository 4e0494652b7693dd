"""Continuing a direct download: what is fetched again, and what when the site's file changed."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import pytest
import yt_dlp

from tests.support.origin import Origin, digest, open_origin
from vidra_trio.core.report import Failed, Stopped, Tick
from vidra_trio.engine import ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Ended, Produced, Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with ytdlp.installed(own_groups=True), open_origin() as found:
        yield found


def run(root: Path, url: str, *, stop_after: int | None = None) -> Ended:
    """Run one item below `root`; with `stop_after`, ask for a soft stop at so many bytes."""
    control = Control()

    def watch(report: object) -> None:
        done = report.downloaded_bytes if isinstance(report, Tick) else 0
        if stop_after is not None and done >= stop_after:
            control.stop()

    order = Start(
        run=1,
        url=url,
        work=str(root / "work"),
        destination=str(root / "downloads"),
        template="%(title)s.%(ext)s",
        cache=str(root / "cache"),
        params={"retries": 1, "fixup": "never"},
    )
    return ytdlp.run_item(order, watch, control)


def finish(root: Path, url: str) -> Path:
    end = run(root, url).end
    assert isinstance(end, Produced), end
    return root / "work" / "out" / (end.main or "")


def part(root: Path) -> Path:
    (found,) = (root / "work" / "tmp").glob("*.part")
    return found


def starts(origin: Origin, name: str) -> list[int | None]:
    """Return where each answer for `name` was asked to begin."""
    found = [re.match(r"bytes=(\d+)-", one.range or "") for one in origin.seen(name)]
    return [int(match[1]) if match else None for match in found]


def test_a_pause_of_a_short_part_keeps_most_of_it(tmp_path: Path, origin: Origin) -> None:
    """Some 50 KB of a slow line are not thrown away: the next run asks for the rest only."""
    name, size = "slow-line.mp4", 1_000_000
    url = origin.file(name, size, rate=200_000)
    assert run(tmp_path, url, stop_after=50_000).end == Stopped()
    kept = part(tmp_path).stat().st_size
    assert 50_000 <= kept < 200_000
    path = finish(tmp_path, origin.file(name, size))
    assert digest(path) == origin.digest(name, size)
    continued = starts(origin, name)[-1]
    assert continued is not None
    assert kept // 2 <= continued < kept


@pytest.mark.parametrize("size", [1, 2, 7, 100, 70_000])
def test_a_part_that_is_complete_already_is_continued(
    tmp_path: Path, origin: Origin, size: int
) -> None:
    """A kill between the last byte and the rename: never a Range that nobody can satisfy."""
    name = f"complete-{size}.mp4"
    (tmp_path / "work" / "tmp").mkdir(parents=True)
    path = tmp_path / "work" / "tmp" / f"{name}.part"
    whole = finish(tmp_path / "other", origin.file(name, size))
    path.write_bytes(whole.read_bytes())
    again = finish(tmp_path, origin.file(name, size))
    assert digest(again) == origin.digest(name, size)


def test_a_file_that_became_shorter_is_fetched_anew(tmp_path: Path, origin: Origin) -> None:
    """A Range behind its end is answered 416; the part is then of no use, and not for ever."""
    name = "shrinks.mp4"
    url = origin.file(name, 2_000_000, rate=4_000_000)
    assert run(tmp_path, url, stop_after=500_000).end == Stopped()
    path = finish(tmp_path, origin.file(name, 100_000))
    assert digest(path) == origin.digest(name, 100_000)


def test_a_range_of_the_formats_own_is_not_given_up(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused with 416 it is a failure, not the whole file in the place of a part of it."""
    real = yt_dlp.YoutubeDL.extract_info

    def extract(ydl: object, url: str, **arguments: object) -> dict[str, object]:
        return {**real(ydl, url, **arguments), "http_headers": {"Range": "bytes=200000-299999"}}

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)
    end = run(tmp_path, origin.file("piece.mp4", 1000)).end
    assert isinstance(end, Failed)
    assert end.code == "http_error"
    assert "416" in end.message


def test_a_site_without_ranges_is_started_over(tmp_path: Path, origin: Origin) -> None:
    """It sends the whole file whatever is asked: so it is taken from the start."""
    name, size = "no-ranges.mp4", 1_000_000
    url = origin.file(name, size, rate=2_000_000, norange=1)
    assert run(tmp_path, url, stop_after=200_000).end == Stopped()
    path = finish(tmp_path, origin.file(name, size, norange=1))
    assert digest(path) == origin.digest(name, size)


def test_a_stop_while_the_site_keeps_silent_is_heard_when_it_speaks(
    tmp_path: Path, origin: Origin
) -> None:
    """Asked before the answer comes: nothing is transferred after it."""
    control = Control()
    timer = threading.Timer(0.1, control.stop)
    timer.start()
    order = Start(
        1, origin.file("late.mp4", 10_000, ttfb=0.4), str(tmp_path / "work"),
        str(tmp_path), "%(id)s", str(tmp_path / "cache"), {},
    )  # fmt: skip
    assert ytdlp.run_item(order, lambda _: None, control).end == Stopped()
    timer.join()
    assert not list((tmp_path / "work" / "tmp").iterdir())
