"""What the janitor takes away, and what it never touches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.instants import every_instant
from vidra_trio.engine import workdir
from vidra_trio.engine.janitor import sweep
from vidra_trio.engine.places import owner_of
from vidra_trio.storage.files import Locations, hold_data_dir

OURS, THEIRS = "0123456789abcdef" * 2, "f" * 32


class House:
    """A download folder that two servers share."""

    def __init__(self, root: Path) -> None:
        self.downloads = root / "downloads"
        self.downloads.mkdir()

    def job(self, name: str, owner: str | bytes | None) -> Path:
        """Make a job's folder with parts in it; `owner` as bytes is what its marker holds."""
        folder = self.downloads / f".vidra-{name}"
        place = folder / "0"
        if isinstance(owner, str):
            workdir.prepare(place, self.downloads, (), owner=owner)
        else:
            (place / "tmp").mkdir(parents=True)
            if owner is not None:
                (folder / "owner").write_bytes(owner)
        (place / "tmp" / "a.part").write_text("part")
        return folder

    def sweep(self, *keep: str) -> list[str]:
        gone = sweep([self.downloads], keep, OURS)
        assert all(not Path(one).exists() for one in gone)
        return [Path(one).name.removeprefix(".vidra-") for one in gone]

    def left(self) -> list[str]:
        return sorted(p.name.removeprefix(".vidra-") for p in self.downloads.iterdir())


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Return a house in which nothing is left behind."""
    return House(tmp_path)


def test_dead_jobs_of_ours_go(house: House) -> None:
    """Those with our mark and those without any; kept ones stay as they are."""
    for name in ("dead", "kept", "paused"):
        house.job(name, OURS)
    house.job("unmarked", None)
    house.job("kept-unmarked", None)
    keep = ("kept", "paused", "kept-unmarked")
    assert house.sweep(*keep) == ["dead", "unmarked"]
    assert house.sweep(*keep) == []
    assert house.left() == sorted(keep)
    for name in keep:
        assert (house.downloads / f".vidra-{name}/0/tmp/a.part").read_text() == "part"


def test_another_servers_jobs_are_not_touched(house: House) -> None:
    """It may run, wherever: at no age."""
    folder = house.job("theirs", THEIRS)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (0, 0))
    before = sorted((p, p.lstat().st_mtime_ns) for p in folder.rglob("*"))
    assert house.sweep() == []
    assert sorted((p, p.lstat().st_mtime_ns) for p in folder.rglob("*")) == before


def test_the_same_path_is_not_the_same_server(house: House, tmp_path: Path) -> None:
    """Two containers call their data directories the same, and share the downloads."""
    data = tmp_path / "data"
    with hold_data_dir(Locations(data)) as one:
        house.job("one", one)
    data.rename(tmp_path / "elsewhere")
    with hold_data_dir(Locations(data)) as other:
        house.job("other", other)
    assert sweep([house.downloads], (), other) == (str(house.downloads / ".vidra-other"),)
    with hold_data_dir(Locations(tmp_path / "elsewhere")) as moved:
        assert sweep([house.downloads], (), moved) == (str(house.downloads / ".vidra-one"),)


def test_an_owner_that_cannot_be_told_is_respected(house: House, tmp_path: Path) -> None:
    """A marker that is no file, is empty or damaged, or that only an older version reads."""
    house.job("link", None)
    (house.downloads / ".vidra-link/owner").symlink_to(tmp_path / "nowhere")
    house.job("folder", None)
    (house.downloads / ".vidra-folder/owner").mkdir()
    house.job("pipe", None)
    os.mkfifo(house.downloads / ".vidra-pipe/owner")
    for name, marker in (("empty", b""), ("bytes", b"\xff\0"), ("path", b"/data")):
        house.job(name, marker)
    assert house.sweep() == []
    assert house.left() == ["bytes", "empty", "folder", "link", "path", "pipe"]


def test_only_real_folders_with_a_jobs_name_right_below(house: House, tmp_path: Path) -> None:
    """No links, no files, no folders of folders, no names that no job has."""
    victim = tmp_path / "victim"
    (victim / "0").mkdir(parents=True)
    (house.downloads / ".vidra-link").symlink_to(victim)
    (house.downloads / ".vidra-file").write_text("x")
    (house.downloads / "sub").mkdir()
    (house.downloads / "sub" / ".vidra-deeper").mkdir()
    for name in (b".vidra-", b".vidra-a.b", b".vidra-\xff", b".vidra-" + b"a" * 65, b".VIDRA-a"):
        Path(os.fsdecode(bytes(house.downloads) + b"/" + name)).mkdir()
    before = sorted(house.downloads.rglob("*"))
    assert house.sweep() == []
    assert sorted(house.downloads.rglob("*")) == before
    assert (victim / "0").exists()


def test_folders_that_are_none(house: House, tmp_path: Path) -> None:
    """Missing, a file, closed, named oddly or twice: the others are swept all the same."""
    (tmp_path / "file").write_text("x")
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff"))
    odd.mkdir()
    (odd / ".vidra-odd").mkdir()
    house.job("dead", OURS)
    folders = [tmp_path / "none", tmp_path / "file", Path("\0"), odd, house.downloads]
    gone = sweep([*folders, house.downloads], (), OURS)
    assert gone == (str(odd / ".vidra-odd"), str(house.downloads / ".vidra-dead"))


def test_what_cannot_be_removed_is_not_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is really gone is; the next start tries again."""
    house.job("a", OURS)
    (house.downloads / ".vidra-empty").mkdir()
    with monkeypatch.context() as patch:

        def denied(*args: object, **how: object) -> NoReturn:
            raise PermissionError("no")

        patch.setattr(os, "rmdir", denied)
        assert house.sweep() == []
    assert len(house.left()) == len(house.sweep()) == 2
    assert house.left() == []


def test_keep_is_asked_at_the_last_moment(house: House) -> None:
    """A live table: who begins while the janitor is at work is safe."""
    asked: list[object] = []

    class Table:
        def __contains__(self, name: object) -> bool:
            if not asked:
                house.job("late", OURS)
            asked.append(name)
            return name == "late"

    house.job("early", OURS)
    house.job("last", OURS)
    gone = sweep([house.downloads], Table(), OURS)
    assert asked == ["early", "last"]
    assert len(gone) == 2
    assert house.left() == ["late"]


def test_without_a_data_directory_only_the_unmarked_go(house: House) -> None:
    """An engine without a server owns nothing that says whose it is."""
    house.job("unmarked", None)
    house.job("marked", OURS)
    assert sweep([house.downloads], (), None) == (str(house.downloads / ".vidra-unmarked"),)


def test_a_folder_that_another_server_is_just_making_is_safe(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets its owner between our look into it and our removal: it stays, or is made again."""
    folder = house.downloads / ".vidra-a"
    folder.mkdir()

    def made_meanwhile(path: Path) -> str | None:
        found = owner_of(path)
        house.job("a", THEIRS)
        return found

    monkeypatch.setattr("vidra_trio.engine.janitor.owner_of", made_meanwhile)
    assert house.sweep() == []
    assert (folder / "0" / "tmp" / "a.part").read_text() == "part"


@pytest.mark.slow
def test_two_servers_share_a_folder(house: House) -> None:
    """One starts its jobs while the other one starts, again and again."""
    over = threading.Event()
    swept: list[str] = []

    def other_server() -> None:
        while not over.wait(0.001):
            swept.extend(sweep([house.downloads], (), OURS))

    thread = threading.Thread(target=other_server)
    thread.start()
    try:
        for number in range(200):
            folder = house.job(f"{number % 3}", THEIRS)
            assert (folder / "0" / "tmp" / "a.part").exists()
            assert workdir.remove(folder) == ()
    finally:
        over.set()
        thread.join()
    assert house.left() == []


@contextmanager
def a_house() -> Iterator[House]:
    with tempfile.TemporaryDirectory() as root:
        yield House(Path(root).resolve())


MARKERS = {
    "ours": True,
    "none": True,
    "empty": True,  # nothing in it at all
    "theirs": False,
    "garbage": False,
}
"""What may be in a folder -> whether it is to go."""

ENTRIES = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}|[a.\n]{0,3}", fullmatch=True),
    st.tuples(st.sampled_from(["folder", "file", "link"]), st.sampled_from(sorted(MARKERS))),
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None)
@given(ENTRIES, st.data())
def test_any_folder(entries: dict[str, tuple[str, str]], data: st.DataObject) -> None:
    """Names, kinds, marks and kept ids in any mix: exactly what is dead and ours goes."""
    keep = data.draw(st.sets(st.sampled_from(sorted(entries)))) if entries else set()
    expected = set()
    with a_house() as house:
        elsewhere = house.downloads.with_name("elsewhere")
        elsewhere.mkdir()
        (elsewhere / "precious").write_text("x")
        for name, (kind, marker) in entries.items():
            path = house.downloads / f".vidra-{name}"
            if kind == "file":
                path.write_text("x")
            elif kind == "link":
                path.symlink_to(elsewhere)
            else:
                put(path, marker)
                if MARKERS[marker] and name not in keep and not set(name) & set(".\n") and name:
                    expected.add(name)
        before = set(house.downloads.rglob("*"))
        gone = house.sweep(*keep)
        assert sorted(gone) == sorted(expected)
        dead = {house.downloads / f".vidra-{name}" for name in expected}
        assert set(house.downloads.rglob("*")) == {p for p in before if not dead & {p, *p.parents}}
        assert (elsewhere / "precious").exists()


def put(path: Path, marker: str) -> None:
    (path / "0" / "tmp").mkdir(parents=True) if marker != "empty" else path.mkdir()
    owners = {"ours": OURS, "theirs": THEIRS}
    if marker in owners:
        (path / "owner").write_text(owners[marker])
    elif marker == "garbage":
        (path / "owner").write_bytes(b"\xff\0")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["prepared", "removed", "swept"])
def test_a_kill_at_every_instant_leaves_nothing_for_good(tmp_path: Path, what: str) -> None:
    """Of a dead job the next sweep finds all; kept ones it leaves as they are."""

    def make(number: int) -> House:
        (tmp_path / str(number)).mkdir()
        house = House(tmp_path / str(number))
        house.job("kept", OURS)
        house.job("theirs", THEIRS)
        if what != "prepared":
            house.job("dead", OURS)
        return house

    def life(house: House) -> None:
        match what:
            case "prepared":
                work = house.downloads / ".vidra-dead" / "0"
                workdir.prepare(work, house.downloads, (), owner=OURS, apart=True)
            case "removed":
                workdir.remove(house.downloads / ".vidra-dead")
            case _:
                sweep([house.downloads], ("kept",), OURS)

    seen = 0
    for house, when in every_instant(make, life):
        seen += 1
        house.sweep("kept")
        assert house.left() == ["kept", "theirs"], when
        for name in ("kept", "theirs"):
            part = house.downloads / f".vidra-{name}" / "0" / "tmp" / "a.part"
            assert part.read_text() == "part", when
    assert seen > 8


LIFE = """
import sys
from pathlib import Path
from vidra_trio.engine import workdir
downloads, owner = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
while True:
    for name in "abc":
        place = workdir.prepare(downloads / f".vidra-{name}" / "0", downloads, (), owner=owner)
        for number in range(20):
            (place / "tmp" / f"{number}.part").write_text("x" * 10_000)
    for name in "abc":
        workdir.remove(downloads / f".vidra-{name}")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_real_kill_leaves_nothing_for_good(house: House) -> None:
    """A process that makes and removes folders all the time, killed in the middle."""
    house.job("kept", OURS)
    for number in range(5):
        command = [sys.executable, "-c", LIFE, str(house.downloads), OURS]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.01 * number)  # somewhere in the middle is all that is wanted
            process.send_signal(signal.SIGKILL)
        house.sweep("kept")
        assert house.left() == ["kept"]
