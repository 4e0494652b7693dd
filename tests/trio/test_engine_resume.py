"""Healing of partial files, without yt-dlp."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidra_trio.engine import resume
from vidra_trio.engine.resume import LEDGER, REWIND, Ledger, heal
from vidra_trio.engine.workdir import parts_of


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a work directory as a run makes it."""
    for folder in ("out", "tmp"):
        (tmp_path / folder).mkdir()
    return tmp_path


def left(work: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in (work / "tmp").iterdir()}


def put(work: Path, name: str, size: int) -> Path:
    path = work / "tmp" / name
    path.write_bytes(b"x" * size)
    return path


def put_state(work: Path, name: str, size: object) -> None:
    state = json.dumps({"downloader": {"vidra_part_size": size}})
    (work / "tmp" / name).write_text(state)


def test_the_first_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    """A run's directory need not exist."""
    heal(tmp_path / "none")


def test_a_direct_part_is_rewound(work: Path) -> None:
    """A complete part would be answered 416; a short one loses half."""
    put(work, "a.mp4.part", 3 * REWIND)
    put(work, "b.mp4.part", 5)
    put(work, "c.mp4.part", 1)
    heal(work)
    assert left(work) == {"a.mp4.part": 2 * REWIND, "b.mp4.part": 2, "c.mp4.part": 0}


def test_a_fragmented_part_is_cut_to_what_its_state_vouches_for(work: Path) -> None:
    """A fragment that was appended but not written down is fetched again, not twice kept."""
    put(work, "a.mp4.part", 100)
    put_state(work, "a.mp4.ytdl", 60)
    heal(work)
    assert left(work)["a.mp4.part"] == 60


@pytest.mark.parametrize("size", [101, None, "x"])
def test_a_part_that_nothing_vouches_for_is_dropped(work: Path, size: object) -> None:
    """A torn or foreign state means starting over, with an empty file."""
    put(work, "a.mp4.part", 100)
    put_state(work, "a.mp4.ytdl", size)
    put(work, "b.mp4.part", 100)
    (work / "tmp" / "b.mp4.ytdl").write_text('{"downl')
    heal(work)
    assert left(work) == {}


def test_only_streams_known_to_be_whole_survive(work: Path) -> None:
    """Whatever else has a final name may be half of a file."""
    whole, changed = put(work, "a.f1.mp4", 10), put(work, "a.f2.m4a", 10)
    ledger = Ledger(work)
    for file in (whole, changed, work / "tmp" / "never there"):
        ledger.record(file)
    os.utime(changed, ns=(1, 1))
    for name in ("a.temp.mp4", "a.mp4.part-Frag3", "a.mp4.part-Frag3.part", "a.webp", "x.ytdl.new"):
        put(work, name, 3)
    (work / "out" / "a.info.json").write_text("{}")
    heal(work)
    assert left(work) == {"a.f1.mp4": 10}
    assert not (work / "out").exists()


def test_links_are_nothing_to_continue_from(work: Path) -> None:
    """Wherever they lead, or not: they go, their targets stay as they are."""
    target = work / "target"
    target.write_text("x" * 10)
    (work / "tmp" / "a.mp4.part").symlink_to(target)
    (work / "tmp" / "b.mp4").symlink_to(work / "nowhere")
    heal(work)
    assert left(work) == {}
    assert target.read_text() == "x" * 10


def test_a_torn_ledger_vouches_for_its_whole_lines(work: Path) -> None:
    """A kill in the middle of a line costs that line, not the one after it."""
    whole = put(work, "a.mp4", 10)
    Ledger(work).record(whole)
    with (work / LEDGER).open("a") as file:
        file.write('["/half')
    Ledger(work).record(put(work, "b.mp4", 10))
    heal(work)
    assert left(work) == {"a.mp4": 10, "b.mp4": 10}


def test_parts_are_what_a_run_would_continue_from(work: Path) -> None:
    """Shown to clients: parts and whole streams, not fragments or half-made files."""
    Ledger(work).record(put(work, "a.f1.mp4", 10))
    for name in ("a.f2.m4a.part", "a.f2.m4a.part-Frag1.part", "a.temp.mp4", "a.f2.m4a.ytdl"):
        put(work, name, 1)
    assert [Path(p).name for p in parts_of(work)] == ["a.f1.mp4", "a.f2.m4a.part"]


class Downloader:
    """As much of a FragmentFD as the stand-ins use."""

    def __init__(self, **params: object) -> None:
        self.params = params

    def ytdl_filename(self, filename: str) -> str:
        return f"{filename}.ytdl"

    def temp_name(self, filename: str) -> str:
        return f"{filename}.part"

    def try_remove(self, path: str) -> None:
        Path(path).unlink()


def context(work: Path, index: int) -> dict[str, Any]:
    final = str(work / "tmp" / "a.mp4")
    fragment = put(work, "a.mp4.part-Frag4", 3)
    return {
        "filename": final,
        "tmpfilename": f"{final}.part",
        "fragment_filename_sanitized": str(fragment),
        "fragment_index": index,
        "fragment_count": 9,
        "extra_state": {"k": 1},
        "live": False,
    }


def test_a_fragment_is_vouched_for_by_its_own_number(work: Path) -> None:
    """Other threads may have moved the index far ahead."""
    ctx = context(work, index=8)
    with Path(ctx["tmpfilename"]).open("ab") as stream:
        resume.append_fragment(Downloader(), {**ctx, "dest_stream": stream}, b"12345")
    state = json.loads((work / "tmp" / "a.mp4.ytdl").read_text())["downloader"]
    assert state == {
        "current_fragment": {"index": 4},
        "vidra_part_size": 5,
        "extra_state": {"k": 1},
        "fragment_count": 9,
    }
    assert left(work).keys() == {"a.mp4.part", "a.mp4.ytdl"}


def test_a_failed_append_moves_nothing(work: Path) -> None:
    """A full disk leaves the state at the fragment before."""

    def fail(_: bytes) -> None:
        raise OSError(28, "full")

    stream = SimpleNamespace(write=fail)
    with pytest.raises(OSError, match="full"):
        resume.append_fragment(Downloader(), {**context(work, 4), "dest_stream": stream}, b"x")
    assert "a.mp4.ytdl" not in left(work)


def test_a_live_stream_keeps_no_state_and_fragments_only_if_asked(work: Path) -> None:
    """There is no going back in a live stream."""
    ctx = {**context(work, 1), "live": True}
    with Path(ctx["tmpfilename"]).open("ab") as stream:
        resume.append_fragment(
            Downloader(keep_fragments=True), {**ctx, "dest_stream": stream}, b"x"
        )
    assert left(work).keys() == {"a.mp4.part", "a.mp4.part-Frag4"}


def test_starting_over_removes_what_would_be_appended_to(work: Path) -> None:
    """A state at 0 beside an old part is how stock yt-dlp makes old bytes plus the whole file."""
    put(work, "a.mp4.part", 50)
    resume.write_state(Downloader(), context(work, 0))
    assert "a.mp4.part" not in left(work)


def test_a_title_may_look_like_a_fragment(work: Path) -> None:
    """Its part is one that can be continued."""
    for name in ("Top-Fragrances.mp4.part", "x.part-Frag3.mp4.part"):
        put(work, name, 4)
        assert not resume.is_fragment(name)
    heal(work)
    assert set(left(work).values()) == {2}
    assert len(parts_of(work)) == 2


@pytest.mark.parametrize(
    ("live", "has_state", "kept"),
    [(False, True, True), (None, True, True), ("is_from_start", True, True),
     (False, False, False), (True, False, False), (True, True, False)],
)  # fmt: skip
def test_fragments_continue_a_part_only_with_its_state(
    work: Path, live: object, has_state: bool, kept: bool
) -> None:
    """Without one it is a direct download's, or of a live stream that begins again."""
    put(work, "a.mp4.part", 50)
    if has_state:
        put_state(work, "a.mp4.ytdl", 50)
    ctx = {"filename": str(work / "tmp" / "a.mp4"), "live": live}
    assert resume.make_way_for_fragments(Downloader(), ctx) is not kept
    assert ("a.mp4.part" in left(work)) is kept


def test_a_direct_download_does_not_continue_fragments(work: Path) -> None:
    """Their part goes with their state; a direct one is left alone."""
    for name in ("a.mp4.part", "b.mp4.part"):
        put(work, name, 50)
    put_state(work, "a.mp4.ytdl", 50)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        resume.make_way_for_direct(work / "tmp" / name)
    assert left(work) == {"b.mp4.part": 50}


@pytest.mark.parametrize(
    ("known", "now", "other"), [(9, 9, False), (9, 8, True), (9, None, True), (None, 9, False)]
)
def test_a_playlist_is_known_by_its_length(
    work: Path, known: int | None, now: int | None, other: bool
) -> None:
    """A state that does not say how long it was (of an older version) is believed."""
    ctx = {**context(work, 4), "total_frags": known}
    fd = Downloader()
    resume.write_state(fd, {**ctx, "dest_stream": None})
    assert resume.of_another_length(fd, {**ctx, "total_frags": now}) is other


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"downloader": 5}'])
def test_a_state_that_cannot_be_read_is_left_to_yt_dlp(work: Path, text: str | None) -> None:
    """It starts over by itself then."""
    if text is not None:
        (work / "tmp" / "a.mp4.ytdl").write_text(text)
    assert resume.of_another_length(Downloader(), context(work, 4)) is False
