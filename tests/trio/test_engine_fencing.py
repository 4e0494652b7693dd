"""What a thread that was given up still does, and that it harms nobody."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.support.instants import every_instant
from vidra_trio.engine import fencing, janitor, places, workdir
from vidra_trio.engine.resume import LEDGER, REWIND, Ledger, heal
from vidra_trio.engine.validators import MEMORY, Memory, Validators

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE = b"w" * 100_000


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return what a job calls the place of its first item."""
    return tmp_path / ".vidra-job" / "0"


def prepare(work: Path) -> Path:
    return workdir.prepare(work, work.parents[1], (), owner="me", apart=True)


def put(place: Path, name: str, content: bytes = b"x") -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def give_up(work: Path) -> None:
    """Do what an engine does with the place of a thread that does not end."""
    fenced = workdir.fence(work)
    assert fenced is not None
    workdir.rescue(fenced, work)


def left(place: Path) -> set[str]:
    return {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(place: Path) -> None:
    """Leave what runs leave: worth keeping, and not."""
    Ledger(place).record(put(place, "tmp/sub/a.f1.mp4", WHOLE))
    changed = put(place, "tmp/a.f2.m4a")
    Ledger(place).record(changed)
    os.utime(changed, ns=(1, 1))
    put(place, "tmp/a.f3.mp4.part", b"p" * 300_000)
    put(place, "tmp/a.f3.mp4.part-Frag7.part")
    put(place, "tmp/a.f3.mp4.ytdl", b'{"downloader": {"vidra_part_size": 299999}}')
    put(place, "tmp/a.temp.mp4")
    put(place, "out/a.info.json")
    Memory(place).remember(str(place / "tmp" / "a.f3.mp4"), Validators(etag='"1"'))
    (place / "tmp" / "link.part").symlink_to("/etc/passwd")


KEPT = {"tmp/sub/a.f1.mp4", "tmp/a.f3.mp4.part", "tmp/a.f3.mp4.ytdl", LEDGER, MEMORY}


def test_what_a_later_run_continues_from_is_rescued(work: Path) -> None:
    """With its times, its vouchers, and what the site said; as other files."""
    place = prepare(work)
    fill(place)
    before = {name: (place / name).stat() for name in KEPT}
    give_up(work)
    assert {p.name for p in work.parent.iterdir()} == {"owner", "0"}
    assert left(work) == KEPT
    for name in KEPT - {LEDGER}:
        assert (work / name).stat().st_ino != before[name].st_ino
        assert (work / name).stat().st_mtime_ns == before[name].st_mtime_ns
    again = prepare(work)
    heal(again)
    assert left(again) == KEPT | {"prepared"}
    assert (again / "tmp" / "sub" / "a.f1.mp4").read_bytes() == WHOLE
    assert (again / "tmp" / "a.f3.mp4.part").stat().st_size == 299_999
    assert Memory(again).recall(str(again / "tmp" / "a.f3.mp4")) == Validators(etag='"1"')


def test_where_there_is_nothing_nothing_happens(work: Path) -> None:
    """No folder, no place, nothing worth keeping, a place outside of any job's folder."""
    assert workdir.fence(work) is None
    assert workdir.rescue(work.with_name("fenced-0-1"), work) is False
    assert not work.parent.exists()
    work.parent.mkdir()
    assert workdir.fence(work) is None
    place = prepare(work)
    put(place, "tmp/a.temp.mp4")
    fenced = workdir.fence(work)
    assert fenced is not None
    assert not place.exists()
    assert workdir.rescue(fenced, work) is False
    assert [p.name for p in work.parent.iterdir()] == ["owner"]
    (work.parents[1] / "work").mkdir()
    assert workdir.fence(work.parents[1] / "work") is None


def test_fenced_files_are_neither_parts_nor_healed(work: Path) -> None:
    """Until they are rescued nobody sees them."""
    put(prepare(work), "tmp/a.mp4.part", b"x" * 2 * REWIND)
    fenced = workdir.fence(work)
    assert fenced is not None
    assert workdir.parts_of(work.parent) == workdir.parts_of(work) == ()
    heal(work)
    heal(work.parent)
    assert (fenced / "tmp" / "a.mp4.part").stat().st_size == 2 * REWIND


def test_a_run_rescues_what_nobody_did(work: Path) -> None:
    """A kill between the fence and the rescue costs nothing."""
    put(prepare(work), "tmp/a.mp4.part")
    workdir.fence(work)
    place = prepare(work)
    assert left(place) == {"prepared", "tmp/a.mp4.part"}
    assert {p.name for p in work.parent.iterdir()} == {"owner", place.name}


def test_a_rescue_leaves_a_new_run_alone(work: Path) -> None:
    """It comes late, after a run was prepared without its help: that run's place stays."""
    put(prepare(work), "tmp/a.mp4.part", b"old")
    fenced = workdir.fence(work)
    assert fenced is not None
    hidden = fenced.rename(work.parents[1] / "hidden")
    place = workdir.prepare(work, work.parents[1], ())
    assert place == work
    put(place, "tmp/a.mp4.part", b"new")
    assert workdir.rescue(hidden.rename(fenced), work) is False
    assert (place / "tmp" / "a.mp4.part").read_bytes() == b"new"
    assert {p.name for p in work.parent.iterdir()} == {"owner", "0"}


def test_a_run_calls_off_a_rescue_that_still_goes_on(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy does not appear under the feet of the run, nor after it."""
    put(prepare(work), "tmp/a.mp4.part", b"x" * 5)
    put(places.current(work), "tmp/b.mp4.part", b"x" * 5)
    fenced = workdir.fence(work)
    assert fenced is not None
    runs: list[Path] = []
    real = shutil.copystat

    def copystat(source: Path, target: Path) -> None:
        real(source, target)
        if not runs:
            runs.append(target)
            runs.append(prepare(work))

    monkeypatch.setattr(shutil, "copystat", copystat)
    assert workdir.rescue(fenced, work) is False
    assert {p.name for p in work.parent.iterdir()} == {"owner", runs[-1].name}
    assert left(runs[-1]) <= {"prepared", "tmp/a.mp4.part", "tmp/b.mp4.part"}


def test_a_file_that_changes_while_it_is_copied_is_not_vouched_for(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole when it was looked at, written to since: fetched again."""
    place = prepare(work)
    Ledger(place).record(put(place, "tmp/a.mp4", WHOLE))
    real = shutil.copystat

    def copystat(source: Path, target: Path) -> None:
        real(source, target)
        with source.open("ab") as late:
            late.write(b"late")

    monkeypatch.setattr(shutil, "copystat", copystat)
    give_up(work)
    heal(work)
    assert "tmp/a.mp4" not in left(work)


@pytest.mark.parametrize("shared", [True, False])
def test_copies_are_the_same_whoever_makes_them(
    work: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """The kernel, or we; also when the kernel gives up in the middle."""
    if not shared:
        real, left_over = os.copy_file_range, [30_000]

        def some(source: int, target: int, count: int) -> int:
            if not left_over:
                raise OSError(errno.EXDEV, "not across these")
            return real(source, target, left_over.pop())

        monkeypatch.setattr(os, "copy_file_range", some)
    content = os.urandom(200_001)
    put(prepare(work), "tmp/a.mp4.part", content)
    give_up(work)
    assert (work / "tmp" / "a.mp4.part").read_bytes() == content


@pytest.mark.parametrize("kernel", [True, False])
def test_copies_need_no_kernels_help(
    work: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """Not every libc has the call for it."""
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    put(prepare(work), "tmp/a.mp4.part", WHOLE)
    give_up(work)
    assert (work / "tmp" / "a.mp4.part").read_bytes() == WHOLE


@pytest.mark.parametrize("kernel", [True, False])
def test_a_rescue_that_is_given_up_changes_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    """Before every block: the next run finds what there was, and no half of a place."""
    monkeypatch.setattr(fencing, "_AT_ONCE", 100_000)
    monkeypatch.setattr(fencing, "_BLOCK", 100_000)
    if not kernel:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    fill(prepare(work))
    fenced = workdir.fence(work)
    assert fenced is not None
    asked, last = 0, 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == last:
            raise KeyboardInterrupt

    while True:
        asked, last = 0, last + 1
        try:
            place = workdir.prepare(work, work.parents[1], (), apart=True, check=check)
        except KeyboardInterrupt:
            assert {p.name for p in work.parent.iterdir()} == {"owner", fenced.name}
        else:
            break
    assert left(place) == KEPT | {"prepared"}
    assert last > 6


def test_a_full_disk_costs_the_parts_only(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be copied is not there, not even half; the next run starts over."""
    put(prepare(work), "tmp/a.mp4.part", WHOLE)

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fencing, "_pour", full)
    give_up(work)
    assert workdir.parts_of(work.parent) == ()
    assert "No space left" in caplog.text
    assert left(prepare(work)) == {"prepared"}


def test_a_place_that_cannot_be_moved_is_given_up(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where files in it are open: it stays, but nobody moves in."""
    place = prepare(work)
    put(place, "tmp/a.mp4.part", WHOLE)
    with monkeypatch.context() as patch:

        def busy(self: Path, target: Path) -> NoReturn:
            raise PermissionError(errno.EACCES, "in use")

        patch.setattr(Path, "rename", busy)
        fenced = workdir.fence(work)
    assert fenced == place
    assert places.current(work) == work
    workdir.rescue(fenced, work)
    assert left(work) == {"tmp/a.mp4.part"}


class Zombie(threading.Thread):
    """Writes to the file it has open, and by path whatever a downloader would write."""

    def __init__(self, place: Path, *, makes_folders: bool) -> None:
        super().__init__()
        self.place = place
        self.makes_folders = makes_folders
        self.over = threading.Event()
        self.wrote = threading.Event()
        self.part = (place / "tmp" / "a.mp4.part").open("ab")

    def run(self) -> None:
        with self.part:
            while not self.over.is_set():
                self.part.write(b"zombie")
                self.part.flush()
                for name in ("a.mp4", "a.mp4.part", "a.mp4.ytdl", "b.mp4.part", "../out/a.mp4"):
                    with contextlib.suppress(OSError):
                        self.write(self.place / "tmp" / name)
                self.wrote.set()

    def write(self, path: Path) -> None:
        if self.makes_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"zombie")

    def writes(self) -> None:
        """Wait until it has written everything once more."""
        for _ in range(2):
            self.wrote.clear()
            assert self.wrote.wait(10)


def haunted(makes_folders: bool, work: Path, check: Callable[[Zombie], None]) -> None:
    """Give a thread up that writes on and on, and let `check` live with it."""
    place = prepare(work)
    put(place, "tmp/a.mp4.part", WHOLE)
    zombie = Zombie(place, makes_folders=makes_folders)
    give_up(work)
    zombie.start()
    try:
        zombie.writes()
        check(zombie)
    finally:
        zombie.over.set()
        zombie.join()


@pytest.mark.parametrize("makes_folders", [False, True])
@pytest.mark.parametrize("afresh", [False, True])
def test_a_thread_that_was_given_up_reaches_no_later_run(
    work: Path, makes_folders: bool, afresh: bool
) -> None:
    """It writes on, into its open file and by path: the next run's files are right."""
    root = work.parents[1]

    def check(zombie: Zombie) -> None:
        if afresh:
            workdir.remove(work.parent)
            zombie.writes()
        place = prepare(work)
        heal(place)
        part = place / "tmp" / "a.mp4.part"
        assert part.exists() is not afresh
        with part.open("ab") as file:  # the next run goes on from where the first one was
            kept = file.tell()
            zombie.writes()
            file.write(WHOLE[kept:])
        zombie.writes()
        assert digest(part) == hashlib.sha256(WHOLE).hexdigest()
        (place / "out").mkdir()
        part.rename(place / "out" / "a.mp4")
        files = workdir.publish(work, root, (), main="a.mp4", overwrite=True, check=zombie.writes)
        assert files == (str(root / "a.mp4"),)
        zombie.writes()
        assert digest(root / "a.mp4") == hashlib.sha256(WHOLE).hexdigest()

    haunted(makes_folders, work, check)
    workdir.remove(work.parent)
    assert [p.name for p in root.iterdir()] == ["a.mp4"]


def test_a_thread_that_was_given_up_leaves_nothing(work: Path) -> None:
    """After the job was removed it finds no folder to write to."""

    def check(zombie: Zombie) -> None:
        assert workdir.remove(work.parent) == ()
        zombie.writes()
        assert list(work.parents[1].iterdir()) == []

    haunted(False, work, check)
    assert list(work.parents[1].iterdir()) == []


def test_what_a_thread_makes_after_its_job_went_is_swept(work: Path) -> None:
    """It makes its folders again: the janitor finds them at the next start."""

    def check(zombie: Zombie) -> None:
        workdir.remove(work.parent)
        zombie.writes()
        assert work.parent.exists()
        assert workdir.parts_of(work.parent) == ()

    haunted(True, work, check)
    root = work.parents[1]
    assert janitor.sweep([root], (), "me") == (str(work.parent),)
    assert list(root.iterdir()) == []


@pytest.mark.slow
def test_a_kill_while_a_place_is_taken_away(tmp_path: Path) -> None:
    """At every instant: the next run continues from what there was, or from nothing."""

    def make(number: int) -> Path:
        work = tmp_path / f".vidra-{number}" / "0"
        place = prepare(work)
        put(place, "tmp/a.mp4.part", WHOLE)
        Ledger(place).record(put(place, "tmp/a.f1.mp4", WHOLE))
        return work

    seen = 0
    for work, when in every_instant(make, give_up):
        seen += 1
        place = prepare(work)
        heal(place)
        assert {p.name for p in work.parent.iterdir()} == {"owner", place.name}, when
        assert (place / "tmp" / "a.f1.mp4").read_bytes() == WHOLE, when
        assert (place / "tmp" / "a.mp4.part").stat().st_size == len(WHOLE) // 2, when
    assert seen > 20
