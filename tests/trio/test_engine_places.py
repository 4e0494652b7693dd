"""A job's folder and its places: made, marked, moved into, looked at, removed."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.support.instants import every_instant
from vidra_trio.core.job import JOB_ID
from vidra_trio.engine import places, removal, workdir
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.janitor import sweep
from vidra_trio.engine.resume import Ledger

ALIAS = "0.0123456789abcdef"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return what a job calls the place of its first item; nothing of it is there yet."""
    return tmp_path / "downloads" / ".vidra-job" / "0"


def prepare(work: Path, owner: str | None = None, *, apart: bool = False) -> Path:
    return workdir.prepare(work, work.parents[1], (), owner=owner, apart=apart)


def put(place: Path, name: str, text: str = "x") -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_names_of_folders() -> None:
    """The folder of a job is called by its id, and nothing else is called so."""
    assert places.job_id_of(".vidra-Ab-9_") == "Ab-9_"
    for name in (
        ".vidra-",
        "vidra-a",
        ".vidra-a.b",
        ".vidra-a\n",
        f".vidra-{'a' * 65}",
        ".Vidra-a",
    ):
        assert places.job_id_of(name) is None
    assert JOB_ID.fullmatch(places.job_id_of(f".vidra-{'a' * 64}") or "")


def test_a_folder_says_whose_it_is(work: Path) -> None:
    """By the id of its server's data directory, for the user's eyes only."""
    before = os.umask(0)
    try:
        assert prepare(work, "me") == work
    finally:
        os.umask(before)
    owner = work.parent / "owner"
    assert owner.read_text() == "me\n"
    assert places.owner_of(work.parent) == "me"
    assert stat.S_IMODE(owner.stat().st_mode) == 0o600
    assert stat.S_IMODE(work.parent.stat().st_mode) == stat.S_IMODE(work.stat().st_mode) == 0o700
    assert below(work.parent) == {"owner", "0", "0/prepared", "0/tmp"}


def test_an_owner_stays_and_a_new_one_takes_over(work: Path) -> None:
    """A second run changes nothing; a server with other data says so."""
    prepare(work, "a")
    before = (work.parent / "owner").stat()
    prepare(work, "a")
    assert (work.parent / "owner").stat().st_ino == before.st_ino
    prepare(work, "b")
    assert places.owner_of(work.parent) == "b"
    assert "owner.new" not in below(work.parent)


@pytest.mark.parametrize("what", ["empty", "link", "pipe"])
def test_an_owner_that_is_damaged_is_replaced(work: Path, tmp_path: Path, what: str) -> None:
    """By a file of ours; nobody is waited for, no link is followed."""
    work.parent.mkdir(parents=True)
    owner, victim = work.parent / "owner", put(tmp_path, "victim")
    match what:
        case "empty":
            owner.touch()
        case "link":
            owner.symlink_to(victim)
        case "pipe":
            os.mkfifo(owner)
    prepare(work, "me")
    assert owner.read_text() == "me\n"
    assert not owner.is_symlink()
    assert victim.read_text() == "x"


def test_without_an_owner_there_is_no_mark(work: Path) -> None:
    """An engine without a server works all the same."""
    prepare(work)
    assert places.owner_of(work.parent) is None


def test_a_job_may_work_in_its_folder_itself(tmp_path: Path) -> None:
    """Without items: the mark is in that, nothing is written beside it."""
    work = tmp_path / ".vidra-job"
    assert workdir.prepare(work, tmp_path, (), owner="me") == work
    put(work, "tmp/a.part")
    assert [Path(p).name for p in workdir.parts_of(work)] == ["a.part"]
    assert below(tmp_path) == {".vidra-job"} | {
        f".vidra-job/{name}" for name in ("owner", "tmp", "tmp/a.part")
    }
    assert workdir.remove(work) == ()
    assert below(tmp_path) == set()


def test_a_link_in_place_of_the_folder_is_refused(work: Path, tmp_path: Path) -> None:
    """Who can write to the destination does not choose where we work."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    work.parents[1].mkdir()
    work.parent.symlink_to(elsewhere)
    with pytest.raises(ItemFailed) as failed:
        prepare(work)
    assert failed.value.fault == "destination_unavailable"
    assert below(elsewhere) == set()


def test_a_folder_that_a_janitor_takes_meanwhile_is_made_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty and without an owner it looks like what a kill leaves; twice is bad luck."""
    real, left = os.open, [2]

    def taken(path: str, flags: int, mode: int = 0o777, **how: int) -> int:
        if str(path).endswith("owner.new") and left[0]:
            left[0] -= 1
            work.parent.rmdir()
        return real(path, flags, mode, **how)

    monkeypatch.setattr(os, "open", taken)
    assert prepare(work, "me") == work
    assert left == [0]
    assert (work.parent / "owner").exists()


def test_apart_every_run_has_a_name_of_its_own(work: Path) -> None:
    """What the last one left moves along, under whatever name it lies."""
    put(work, "tmp/a.part", "parts")
    names = set()
    for _ in range(3):
        place = prepare(work, apart=True)
        assert (place / "tmp" / "a.part").read_text() == "parts"
        assert places.current(work) == places.current(place) == place
        assert [p.name for p in work.parent.iterdir()] == [place.name]
        names.add(place.name)
    assert len(names) == 3
    assert prepare(work) == work
    assert (work / "tmp" / "a.part").read_text() == "parts"
    assert below(work.parent) == {"0", "0/prepared", "0/tmp", "0/tmp/a.part"}


def test_streams_stay_vouched_for_under_another_name(work: Path) -> None:
    """The ledger moves with them."""
    Ledger(work).record(put(prepare(work), "tmp/a.f1.mp4"))
    place = prepare(work, apart=True)
    assert Ledger(place).holds(place / "tmp" / "a.f1.mp4")
    assert workdir.parts_of(work.parent) == (str(place / "tmp" / "a.f1.mp4"),)


def test_a_place_that_nobody_prepared_is_not_moved_into(work: Path) -> None:
    """A thread that was given up makes the folders again that it misses."""
    put(work.parent, f"{ALIAS}/tmp/a.part", "from nowhere")
    assert workdir.parts_of(work.parent) == workdir.parts_of(work) == ()
    place = prepare(work, apart=True)
    assert list((place / "tmp").iterdir()) == []


def test_parts_of_a_job_are_those_of_all_its_items(work: Path) -> None:
    """By the job's folder or by the item; neither fenced nor removed ones, nor fragments."""
    first = prepare(work, apart=True)
    second = prepare(work.with_name("1"))
    for place in (first, second, work.with_name("fenced-0-1"), work.with_name("removed-1")):
        for name in ("a.mp4.part", "a.mp4.part-Frag1.part", "a.temp.mp4"):
            put(place, f"tmp/{name}")
    parts = tuple(sorted(str(place / "tmp" / "a.mp4.part") for place in (first, second)))
    assert workdir.parts_of(work.parent) == parts
    assert workdir.parts_of(work) == (str(first / "tmp" / "a.mp4.part"),)
    assert workdir.newest_change(work)[1] == workdir.newest_change(first)[1] > 0


def test_removing_an_item_leaves_the_others(work: Path) -> None:
    """By the name that the job knows, whatever it is called."""
    prepare(work, apart=True)
    prepare(work.with_name("1"))
    assert workdir.remove(work) == ()
    assert {p.name for p in work.parent.iterdir()} == {"1"}


def test_removing_a_job_takes_all_that_its_runs_left(work: Path) -> None:
    """Places, fenced ones, half-removed ones, notes."""
    prepare(work, "me", apart=True)
    for name in ("0/x", "fenced-0-1/tmp/a", "rescue-0-1/b", "removed-2/c", "0.published", "copies"):
        put(work.parent, name)
    assert workdir.remove(work.parent) == ()
    assert below(work.parents[1]) == set()
    assert workdir.remove(work.parent) == ()


def test_what_a_kill_left_of_a_removal_goes_with_the_next_run(work: Path) -> None:
    """Also that of an item which has its end, and a copy that nobody finishes."""
    prepare(work)
    for name in ("removed-0-1/a", "removed-2/b", "rescue-0-1/c"):
        put(work.parent, name)
    put(work.parent, "rescue-1-1/d")
    prepare(work)
    assert {p.name for p in work.parent.iterdir()} == {"0", "rescue-1-1"}


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_a_kill_while_a_place_is_made_loses_nothing(tmp_path: Path, apart: bool) -> None:
    """At every instant: the next run has the parts, and the folder is marked, or empty."""

    def make(number: int) -> Path:
        work = tmp_path / f".vidra-{number}" / "0"
        if number % 2 == 0:  # every other one has run before
            was = prepare(work, "me", apart=number % 4 == 0)
            put(was, "tmp/a.part", "parts")
        return work

    seen = 0
    for work, when in every_instant(make, lambda work: prepare(work, "me", apart=apart)):
        folder, seen = work.parent, seen + 1
        if folder.exists():
            assert below(folder) <= {"owner.new"} or (folder / "owner").exists(), when
        ran = seen % 2 == 1
        place = prepare(work, "me", apart=apart)
        assert {p.name for p in (place / "tmp").iterdir()} == ({"a.part"} if ran else set()), when
        assert places.places(folder) == [place], when
    assert seen > 12


def test_a_late_removal_leaves_a_new_run_alone(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given up, and the job runs again: from its first instant on it is about the past."""
    put(prepare(work, "me"), "tmp/a.part", "old")
    real = removal.remove_tree
    runs: list[Path] = []

    def late(top: Path, *, last: str | None = None) -> dict[str, str]:
        if not runs:
            runs.append(top)
            runs.append(put(prepare(work, "me"), "tmp/a.part", "new"))
        return real(top, last=last)

    monkeypatch.setattr(removal, "remove_tree", late)
    assert workdir.remove(work.parent) == ()
    assert runs[1].read_text() == "new"
    assert [p.name for p in work.parents[1].iterdir()] == [work.parent.name]
    assert places.owner_of(work.parent) == "me"


@pytest.mark.slow
def test_a_kill_while_a_job_is_removed(tmp_path: Path) -> None:
    """At every instant: all of its folder is there, or a janitor's, who finds all of that."""

    def make(number: int) -> Path:
        root = tmp_path / str(number)
        work = root / ".vidra-job" / "0"
        put(prepare(work, "me"), "tmp/a.part")
        put(work.with_name("1"), "tmp/b.part")
        return root

    seen = 0
    for root, when in every_instant(make, lambda root: workdir.remove(root / ".vidra-job")):
        seen += 1
        folder = root / ".vidra-job"
        if folder.exists():
            assert len(list(folder.rglob("*.part"))) == 2, when
            continue
        sweep([root], (), "another")
        assert all((one / "owner").exists() for one in root.iterdir()), when
        sweep([root], (), "me")
        assert list(root.iterdir()) == [], when
    assert seen > 8


def test_two_threads_may_remove_the_same(work: Path) -> None:
    """One was told to and then given up, the next one was told, too."""
    for number in range(300):
        put(work, f"tmp/{number % 7}/{number}")
    threads = [threading.Thread(target=workdir.remove, args=[work.parent]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    workdir.remove(work.parent)
    assert below(work.parents[1]) == set()
