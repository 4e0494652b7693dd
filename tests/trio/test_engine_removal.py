"""Removing trees that are deep, closed, swapped, or written to."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.support.instants import every_instant
from vidra_trio.engine import removal
from vidra_trio.engine.places import is_folder
from vidra_trio.engine.removal import remove_place, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534


@contextmanager
def a_plain_user() -> Iterator[Path]:
    """Be somebody whom permissions concern, and have a folder."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        if root:
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder, ignore_errors=True)


def deep(top: Path, levels: int) -> None:
    """Make folders in folders, with a file in each; beyond what a path may be long."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("aaa", dir_fd=here)
        below = os.open("aaa", os.O_RDONLY, dir_fd=here)
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=below))
        os.close(here)
        here = below
    os.close(here)


def test_everything_goes(tmp_path: Path) -> None:
    """Files, links, sockets' like, hidden and oddly named ones; what links lead to stays."""
    top, other = tmp_path / "top", tmp_path / "other"
    (top / "a" / "b").mkdir(parents=True)
    other.mkdir()
    (other / "keep").write_text("x")
    for name in ("f", ".h", "new\nline", os.fsdecode(b"\xff")):
        (top / "a" / name).write_text("x")
    (top / "to-folder").symlink_to(other)
    (top / "a" / "to-file").symlink_to(other / "keep")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    assert remove_tree(top) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
    assert (other / "keep").read_text() == "x"


def test_nothing_there_is_removed(tmp_path: Path) -> None:
    """Twice is once; a file in the way of the path means that there is nothing."""
    assert remove_tree(tmp_path / "none") == {}
    (tmp_path / "file").write_text("x")
    assert remove_tree(tmp_path / "file" / "below") == {}
    assert remove_place(tmp_path / ".vidra-j" / "0") == {}


def test_only_a_folder_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A link or a file under the name is somebody else's; it stays, and that is said."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "keep").write_text("x")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "file").write_text("x")
    for name in ("link", "file"):
        assert set(remove_tree(tmp_path / name)) == {str(tmp_path / name)}
        assert str(tmp_path / name) in caplog.text
    assert (other / "keep").exists()


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 1200])
def test_a_deep_tree_goes(tmp_path: Path, levels: int) -> None:
    """Neither the recursion limit nor the longest path is in the way."""
    deep(tmp_path / "top", levels)
    assert remove_tree(tmp_path / "top") == {}
    assert list(tmp_path.iterdir()) == []


def test_it_takes_two_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However deep the tree is."""
    deep(tmp_path / "top", 60)
    held: set[int] = set()
    most = 0
    opens, closes = os.open, os.close

    def watched(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        nonlocal most
        held.add(found := opens(path, flags, dir_fd=dir_fd))
        most = max(most, len(held))
        return found

    def closed(descriptor: int) -> None:
        held.discard(descriptor)
        closes(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        patch.setattr(os, "close", closed)
        assert remove_tree(tmp_path / "top") == {}
    assert (most, held) == (2, set())


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean little there")
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o500, 0o300])
def test_closed_folders_are_opened(mode: int) -> None:
    """Folders without permissions, at every level, and the top itself; files keep theirs."""
    with a_plain_user() as folder:
        inner = folder / "top" / "a" / "b"
        inner.mkdir(parents=True)
        for place in (inner, inner.parent, inner.parent.parent):
            (place / "f").write_text("x")
            (place / "f").chmod(0)
        (inner / "published").write_text("x")
        (inner / "published").chmod(0o640)
        (folder / "published").hardlink_to(inner / "published")
        for place in (inner, inner.parent, inner.parent.parent):
            place.chmod(mode)
        assert remove_tree(folder / "top") == {}
        assert [p.name for p in folder.iterdir()] == ["published"]
        assert (folder / "published").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean little there")
def test_what_cannot_be_removed_is_returned_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """All that can go goes; the rest stays with a reason."""
    if os.geteuid() != 0:
        pytest.skip("only root can make somebody else's files")
    with a_plain_user() as folder:
        top = folder / "top"
        (top / "mine").mkdir(parents=True)
        (top / "mine" / "f").write_text("x")
        os.seteuid(0)
        (top / "theirs").mkdir()
        (top / "theirs" / "f").write_text("x")
        os.chown(top, NOBODY, -1)
        os.seteuid(NOBODY)
        stays = remove_tree(top)
        os.seteuid(0)
        left = [p for p in top.rglob("*") if p.is_file()]
        assert [p.name for p in left] == ["f"]
        assert stays
        assert all(Path(path).is_relative_to(top) and why for path, why in stays.items())
        assert "cannot be removed" in caplog.text


def test_the_last_file_goes_last(tmp_path: Path) -> None:
    """Killed at any instant, either the last file is there or nothing else is."""

    def make(number: int) -> Path:
        top = tmp_path / str(number)
        (top / "0" / "tmp").mkdir(parents=True)
        for name in ("owner", "a", "0/b", "0/tmp/c"):
            (top / name).write_text("x")
        return top

    seen = 0
    for top, when in every_instant(make, lambda top: remove_tree(top, last="owner")):
        seen += 1
        left = [p.name for p in top.rglob("*")] if top.exists() else []
        assert "owner" in left or not left, when
        assert remove_tree(top, last="owner") == {}, when
        assert not top.exists(), when
    assert seen > 15


def test_a_place_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed at any instant, no later run finds half of a place under its name."""
    files = {"tmp/a.part", "tmp/a.ytdl", "streams"}

    def make(number: int) -> Path:
        place = tmp_path / ".vidra-j" / str(number)
        (place / "tmp").mkdir(parents=True)
        for name in files:
            (place / name).write_text("x")
        return place

    for place, when in every_instant(make, remove_place):
        left = {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}
        assert left in (set(), files), when
        assert place.exists() == bool(left), when


def test_a_place_that_cannot_be_moved_is_emptied_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file in it is open."""
    place = tmp_path / ".vidra-j" / "0"
    (place / "tmp").mkdir(parents=True)
    (place / "tmp" / "a").write_text("x")

    def busy(self: Path, target: Path) -> NoReturn:
        raise PermissionError("in use")

    monkeypatch.setattr(Path, "rename", busy)
    assert remove_place(place) == {}
    assert not place.exists()


class Writer(threading.Thread):
    """Makes files, and the folders they lie in, until it is stopped."""

    def __init__(self, *places: Path) -> None:
        super().__init__()
        self.places = places
        self.over = threading.Event()
        self.running = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            for place in self.places:
                try:
                    (place / str(number)).write_text("x")
                except OSError:
                    continue
            number += 1
            self.running.set()


def test_who_writes_by_path_finds_no_folder(tmp_path: Path) -> None:
    """Somebody goes on making files deep in the tree: it goes all the same."""
    top = tmp_path / "top"
    inner = top / "0" / "tmp" / "sub"
    inner.mkdir(parents=True)
    writer = Writer(inner, inner.parent)
    writer.start()
    writer.running.wait()
    try:
        assert remove_tree(top) == {}
        assert not top.exists()
    finally:
        writer.over.set()
        writer.join()


@pytest.mark.parametrize(("times", "gone"), [(removal.ROUNDS - 1, True), (99, False)])
def test_who_writes_into_the_top_is_given_a_few_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, gone: bool
) -> None:
    """A file that appears meanwhile is removed in the next round; one that always does, stays."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "owner").write_text("x")
    late = iter(range(times))
    real = removal._clear

    def clear(folder: removal._Folder, last: str | None) -> dict[str, str]:
        stays = real(folder, last)
        if next(late, None) is not None:
            (top / "late").write_text("x")
        return stays

    monkeypatch.setattr(removal, "_clear", clear)
    assert (remove_tree(top, last="owner") == {}) is gone
    assert top.exists() is not gone
    assert (top / "owner").exists() is not gone


def test_without_descriptors_it_goes_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has no calls relative to a folder; paths stay short there, too."""
    monkeypatch.setattr(removal, "_AT_DESCRIPTOR", False)
    deep(tmp_path / "top", 50)
    (tmp_path / "top" / "link").symlink_to(tmp_path)
    assert remove_tree(tmp_path / "top") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_swapped_for_a_link_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the removal somebody puts a link there: its target is safe."""
    top, other = tmp_path / "top", tmp_path / "other"
    top.mkdir()
    other.mkdir()
    (other / "keep").write_text("x")

    def swap(path: Path) -> bool:
        found = is_folder(path)
        top.rmdir()
        top.symlink_to(other)
        return found

    monkeypatch.setattr("vidra_trio.engine.removal.is_folder", swap)
    assert set(remove_tree(top)) == {str(top)}
    assert (other / "keep").exists()
