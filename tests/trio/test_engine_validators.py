"""What a site says about a file, remembered and compared; the rest is in tests/e2e."""

from __future__ import annotations

from email.message import Message
from pathlib import Path

import pytest

from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.validators import (
    MAX_RESTARTS,
    Memory,
    StartOver,
    Transfer,
    Validators,
    read,
)


def answer(**headers: str) -> Message:
    """Return headers as yt-dlp has them."""
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return message


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, Validators()),
        ({"ETag": '"1"', "Last_Modified": " Mon "}, Validators('"1"', "Mon")),
        ({"etag": 'W/"1"'}, Validators('"1"')),
        ({"ETag": ""}, Validators()),
        ({"Content_Length": "7"}, Validators(size=7)),
        ({"Content_Length": "seven"}, Validators()),
        ({"Content_Length": "7", "Content_Encoding": "gzip"}, Validators()),
        ({"Content_Length": "7", "Content_Encoding": "Identity"}, Validators(size=7)),
        ({"Content_Length": "7", "Content_Range": "bytes 3-9/10"}, Validators(size=10)),
        ({"Content_Length": "7", "Content_Range": "bytes 3-9/*"}, Validators()),
        ({"Content_Length": "7", "Content_Range": "nonsense"}, Validators()),
    ],
)
def test_what_a_site_says_is_read(headers: dict[str, str], said: Validators) -> None:
    """The size of the whole, whichever piece this is; nothing is made up."""
    assert read(answer(**headers)) == said


def test_bytes_that_are_no_text_are_kept_as_something(tmp_path: Path) -> None:
    """Some ETags are; the comparison still works, and JSON can hold them."""
    odd = Message()
    odd["ETag"] = b'"\xff\xfe"'.decode("ascii", "surrogateescape")
    memory = Memory(tmp_path)
    memory.remember(str(tmp_path / "tmp" / "a\udcff.mp4"), read(odd))
    assert memory.recall(str(tmp_path / "tmp" / "a\udcff.mp4")) == read(odd) != Validators()


FULL = Validators('"1"', "Mon", 10)


@pytest.mark.parametrize(
    ("now", "difference"),
    [
        (FULL, None),
        (Validators(), None),
        (Validators('"2"', "Mon", 10), "etag"),
        (Validators('"1"', "Tue", 10), "modified"),
        (Validators('"1"', "Mon", 11), "size"),
        (Validators(size=10), None),
        (Validators(size=11), "size"),
        (Validators('"2"', "Tue", 11), "etag"),
    ],
)
def test_only_what_both_name_is_compared(now: Validators, difference: str | None) -> None:
    """In both directions."""
    assert FULL.difference(now) == now.difference(FULL) == difference


def test_the_memory_is_of_each_file(tmp_path: Path) -> None:
    """And survives whoever wrote it, under any name of the directory."""
    work = tmp_path / "work"
    work.mkdir()
    one, other = str(work / "tmp" / "a.mp4"), str(work / "tmp" / "b.mp4")
    Memory(work).remember(one, FULL)
    Memory(work).remember(other, Validators())
    Memory(work).remember(other, Validators())  # twice is once
    assert Memory(work).recall(one) == FULL
    moved = work.rename(tmp_path / "moved")
    assert Memory(moved).recall(str(moved / "tmp" / "a.mp4")) == FULL
    Memory(moved).remember(str(moved / "tmp" / "a.mp4"), None)
    assert Memory(moved).recall(str(moved / "tmp" / "a.mp4")) is None
    assert Memory(moved).recall(str(moved / "tmp" / "b.mp4")) == Validators()
    assert sorted(path.name for path in moved.iterdir()) == ["validators"]


def transfer(tmp_path: Path, own: str | None = None, *, chunked: bool = False) -> Transfer:
    """Return one that has a part."""
    (tmp_path / "a.part").write_bytes(b"part")
    return Transfer(tmp_path, str(tmp_path / "a"), own=own, chunked=chunked)


def test_an_answer_that_continues_is_compared(tmp_path: Path) -> None:
    """With the first answer, whichever came last."""
    one = transfer(tmp_path)
    one.take({}, answer(ETag='"1"', Content_Length="10"), partial=False)
    asked = {"Range": "bytes=4-"}
    one.take(asked, answer(Content_Range="bytes 4-9/10"))
    one.take(asked, answer(ETag='"1"', Content_Range="bytes 4-9/*"))
    for changed in (
        answer(ETag='"2"', Content_Range="bytes 4-9/10"),
        answer(ETag='"1"', Content_Range="bytes 4-10/11"),
        answer(ETag='"1"', Content_Range="bytes 5-9/10"),
        answer(ETag='"1"', Content_Range="bytes 4-9/10", Content_Encoding="gzip"),
        answer(ETag='"1"', Content_Length="10"),
    ):
        with pytest.raises(StartOver):
            one.take(asked, changed)
    assert asked == {"Range": "bytes=4-"}
    assert (tmp_path / "a.part").exists()  # `restart` removes it, when yt-dlp let go of it


def test_starting_over_is_in_one_piece_the_second_time(tmp_path: Path) -> None:
    """The part goes each time, and the tenth time is the last."""
    one = transfer(tmp_path, chunked=True)
    for number in range(MAX_RESTARTS):
        one.restart()
        assert not (tmp_path / "a.part").exists()
        first = {"Range": "bytes=0-99"}
        one.ask(first)
        assert ("Range" in first) is (number == 0)
        later = {"Range": "bytes=5-99"}
        one.ask(later)
        assert later == {"Range": "bytes=5-99"}
    with pytest.raises(ItemFailed) as caught:
        one.restart()
    assert caught.value.fault == "remote_changed"


def test_the_whole_file_takes_the_place_of_the_part(tmp_path: Path) -> None:
    """A site without ranges: asked once; the old Range is not sent again."""
    one = transfer(tmp_path)
    one.take({}, answer(ETag='"1"'), partial=False)
    asked = {"Range": "bytes=4-"}
    one.take(asked, answer(ETag='"2"'), partial=False)
    assert asked == {}
    assert not (tmp_path / "a.part").exists()
    one.take({"Range": "bytes=2-"}, answer(ETag='"2"', Content_Range="bytes 2-3/4"))


def test_between_two_chunks_the_whole_file_is_no_answer(tmp_path: Path) -> None:
    """yt-dlp would append it."""
    one = transfer(tmp_path, chunked=True)
    one.take({"Range": "bytes=0-3"}, answer(Content_Range="bytes 0-3/10"))
    with pytest.raises(StartOver):
        one.take({"Range": "bytes=4-7"}, answer(Content_Length="10"), partial=False)


def test_a_format_that_is_a_piece_begins_where_it_begins(tmp_path: Path) -> None:
    """Its own Range continues nothing, and comes back when the download starts over."""
    one = transfer(tmp_path, "bytes=100-199")
    one.take({"Range": "bytes=100-199"}, answer(ETag='"1"', Content_Range="bytes 100-199/500"))
    one.refuse({"Range": "bytes=100-199"})
    with pytest.raises(StartOver):
        one.refuse({"Range": "bytes=150-199"})
    asked = {"Range": "bytes=150-199"}
    one.take(asked, answer(), partial=False)
    assert asked == {"Range": "bytes=100-199"}
