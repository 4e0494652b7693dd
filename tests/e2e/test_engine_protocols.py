"""A site that offers the same video another way each time: parts of one never continue another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.origin import Origin, digest, open_origin
from vidra_trio.core.report import Failed, Stopped, Tick
from vidra_trio.engine import ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Ended, Produced, Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZE = 600_000
SEGMENTS, SEGMENT = 6, 100_000


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
        template="video.%(ext)s",
        cache=str(root / "cache"),
        params={"retries": 0, "fixup": "never"},
    )
    return ytdlp.run_item(order, watch, control)


def finish(root: Path, url: str) -> str:
    end = run(root, url).end
    assert isinstance(end, Produced), end
    return digest(root / "work" / "out" / (end.main or ""))


def begin_direct(root: Path, origin: Origin, name: str) -> None:
    end = run(root, origin.file(name, SIZE, drop=SIZE - 1000)).end
    assert isinstance(end, Failed)
    assert (root / "work" / "tmp" / "video.mp4.part").stat().st_size > SIZE // 2


def begin_hls(root: Path, origin: Origin, name: str) -> None:
    url = origin.hls(name, SEGMENTS, SEGMENT, rate=500_000)
    assert run(root, url, stop_after=3 * SEGMENT).end == Stopped()
    assert (root / "work" / "tmp" / "video.mp4.part").stat().st_size >= SEGMENT


@pytest.mark.parametrize("state_is_left", [True, False])
def test_fragments_are_not_continued_by_a_direct_download(
    tmp_path: Path, origin: Origin, state_is_left: bool
) -> None:
    """Not even if that has begun before them, and its file at the site is still the same."""
    name = f"a{state_is_left}.mp4"
    begin_direct(tmp_path, origin, name)
    begin_hls(tmp_path, origin, name)
    if not state_is_left:  # a kill between the last fragment and the final name
        (tmp_path / "work" / "tmp" / "video.mp4.ytdl").unlink()
    assert finish(tmp_path, origin.file(name, SIZE)) == origin.digest(name, SIZE)


def test_a_direct_part_is_not_continued_by_fragments(tmp_path: Path, origin: Origin) -> None:
    """Whatever of both was there before."""
    begin_hls(tmp_path, origin, "b.mp4")
    begin_direct(tmp_path, origin, "b.mp4")
    found = finish(tmp_path, origin.hls("b.mp4", SEGMENTS, SEGMENT))
    assert found == origin.hls_digest("b.mp4", SEGMENTS, SEGMENT)
