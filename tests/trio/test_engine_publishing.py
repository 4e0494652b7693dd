"""Kills while files are published: nothing is torn, lost or left, and nothing is fetched twice."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.instants import every_instant
from vidra_trio.core.zones import PathRules
from vidra_trio.engine import publishing, workdir
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.publishing import Published
from vidra_trio.engine.resume import heal

MADE = {"a.mp4": "new media", "a.info.json": "new info", "sub/a.vtt": "new words"}
OLD = {"a.mp4": "old media, longer", "sub/a.vtt": "old words"}


def no_check() -> None:
    """Go on."""


def give_up() -> None:
    raise KeyboardInterrupt


@dataclass
class Job:
    """A job's folder in a destination of its own, and what is where."""

    destination: Path
    overwrite: bool = True

    @property
    def work(self) -> Path:
        return self.destination / ".vidra-job" / "0"

    def make(self, old: dict[str, str] | None = None) -> Job:
        """Be where a run has just ended well; return this."""
        self.write(self.destination, old or {})
        place = workdir.prepare(self.work, self.destination, (), owner="me")
        self.write(place / "out", MADE)
        self.write(place / "tmp", {"a.f1.mp4": "stream"})
        return self

    def write(self, top: Path, files: dict[str, str]) -> None:
        for name, text in files.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text(text)

    def publish(self) -> tuple[str, ...]:
        return workdir.publish(
            self.work, self.destination, (), main="a.mp4", overwrite=self.overwrite, check=no_check
        )

    def complete(self) -> Published | None:
        return workdir.complete(
            self.work, self.destination, (), overwrite=self.overwrite, check=no_check
        )

    def next_run(self) -> tuple[str, ...]:
        """Do what the next run does: see what is done, else do it all again."""
        if found := self.complete():
            return found.files
        place = workdir.prepare(self.work, self.destination, ())
        heal(place)
        self.write(place / "out", MADE)
        return self.publish()

    def there(self) -> dict[str, str]:
        """Return the files at the destination, work directories excepted."""
        files = (p for p in self.destination.rglob("*") if p.is_file())
        return {
            str(p.relative_to(self.destination)): p.read_text()
            for p in files
            if p.relative_to(self.destination).parts[0] != ".vidra-job"
        }

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(str(self.destination / name) for name in MADE))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job whose run has just ended well."""
    return Job(tmp_path).make()


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every folder called `sub` look like another volume."""
    real = Path.stat

    def look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(path, follow_symlinks=follow_symlinks)
        if path.name != "sub" or "out" in path.parts:
            return found
        fields = list(found)
        fields[2] += 1  # st_dev
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "stat", look)


@pytest.mark.slow
@pytest.mark.parametrize("volumes", [1, 2])
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("old", [{}, OLD], ids=["new", "replaced"])
def test_a_kill_at_every_instant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    volumes: int,
    overwrite: bool,
    old: dict[str, str],
) -> None:
    """Every name has the old file or the new one, whole, and the next run ends it all.

    The main file is new only if all the others are. From the first rename on no run is
    needed, and before it nothing at the destination has changed.
    """
    if volumes == 2:
        elsewhere(monkeypatch)
    final = MADE if overwrite else {**MADE, **old}
    seen = 0
    for one, when in every_instant(
        lambda number: Job(tmp_path / str(number), overwrite).make(old), Job.publish
    ):
        seen += 1
        there = {name: text for name, text in one.there().items() if not name.endswith(".copy")}
        assert all(text in (final[name], old.get(name)) for name, text in there.items()), when
        if there.get("a.mp4") == MADE["a.mp4"]:
            assert there == final, when
        if there not in (old, final):
            assert one.complete() is not None, when
        assert one.next_run() == one.paths(), when
        assert one.there() == final, when
        workdir.remove(one.work.parent)
        assert one.there() == final, when
        assert not one.work.parent.exists(), when
    assert seen > 25


def publish_one_of_three(job: Job) -> None:
    """Be killed after the first file."""
    real, left = publishing._place, [1]

    def place(source: Path, target: Path, *, overwrite: bool) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        real(source, target, overwrite=overwrite)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "_place", place)
        with pytest.raises(KeyboardInterrupt):
            job.publish()


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_kill_while_a_kill_is_made_good(tmp_path: Path, overwrite: bool) -> None:
    """Completing can be cut short, too, at every instant."""

    def make(number: int) -> Job:
        job = Job(tmp_path / str(number), overwrite).make(OLD)
        publish_one_of_three(job)
        return job

    seen = 0
    for one, when in every_instant(make, Job.complete):
        seen += 1
        assert one.next_run() == one.paths(), when
        assert one.there() == (MADE if overwrite else {**MADE, **OLD}), when
    assert seen > 10


def test_what_was_published_is_not_fetched_again(job: Job) -> None:
    """The job's end was not stored any more: the next run finds what the last one did."""
    job.publish()
    assert job.complete() == Published(job.paths(), str(job.destination / "a.mp4"))
    assert not job.work.exists()


def test_a_job_that_went_leaves_no_note(job: Job) -> None:
    """A retry, which removes the job's folder first, does it all again."""
    job.publish()
    workdir.remove(job.work.parent)
    assert job.complete() is None
    assert job.there() == MADE


def test_nothing_to_complete(tmp_path: Path) -> None:
    """No folder, no note, a note that cannot be read: the item has to run."""
    job = Job(tmp_path)
    assert job.complete() is None
    job.make()
    assert job.complete() is None
    note = job.work.with_name("0.published")
    notes = ["", "[]", "{}", '{"main": "a"}', '{"main": "a", "files": [[1]]}']
    for text in [*notes, '{"main": 5, "files": 5}', '{"main": "a", "files": [["a", "b", "c"]]}']:
        note.write_text(text)
        assert job.complete() is None


@pytest.mark.parametrize("what", ["gone", "changed", "a folder"])
def test_a_main_file_that_is_not_the_one_is_made_again(job: Job, what: str) -> None:
    """Removed or replaced by the user since: that the name is there says nothing."""
    job.publish()
    main = job.destination / "a.mp4"
    main.unlink()
    match what:
        case "changed":
            main.write_text("another")
        case "a folder":
            main.mkdir()
    assert job.complete() is None


def test_a_side_file_that_is_not_there_is_not_claimed(job: Job) -> None:
    """The main file counts; what the user removed of the rest is not made again for it."""
    job.publish()
    (job.destination / "a.info.json").unlink()
    found = job.complete()
    assert found is not None
    assert [Path(one).name for one in found.files] == ["a.mp4", "a.vtt"]


def test_completing_asks_the_rules_again(job: Job, tmp_path: Path) -> None:
    """What is allowed may have changed since."""
    note = job.work.with_name("0.published")
    out = job.work / "out"
    publishing._note(job.work, "a.mp4", [Path(name) for name in MADE])
    assert note.exists()
    (tmp_path / "sub").symlink_to("/etc")
    with pytest.raises(ItemFailed) as failed:
        job.complete()
    assert failed.value.fault == "path_not_allowed"
    (tmp_path / "sub").unlink()
    rules = PathRules("/elsewhere", roots=("/elsewhere",))
    with pytest.raises(ItemFailed):
        workdir.complete(
            job.work, tmp_path, (Path("/elsewhere"),), rules=rules, overwrite=True, check=no_check
        )
    assert (out / "a.mp4").exists()


def test_completing_can_be_given_up(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its first rename, as with publishing; nothing of it stays at the destination."""
    elsewhere(monkeypatch)
    publishing._note(job.work, "a.mp4", [Path(name) for name in MADE])
    with pytest.raises(KeyboardInterrupt):
        workdir.complete(job.work, job.destination, (), overwrite=True, check=give_up)
    assert [p.name for p in job.destination.iterdir()] == [".vidra-job"]
    assert job.complete() is not None
    assert job.there() == MADE


def test_a_disk_that_fails_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is completed, as with publishing."""
    publishing._note(job.work, "a.mp4", [Path(name) for name in MADE])

    def full(self: Path, target: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ItemFailed) as failed:
        job.complete()
    assert failed.value.fault == "disk_full"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_in_the_way_is_noticed_before_anything_moves(job: Job, overwrite: bool) -> None:
    """A folder is no file that is there already; the others are not published without the one."""
    job.overwrite = overwrite
    (job.destination / "a.mp4").mkdir()
    with pytest.raises(ItemFailed) as failed:
        job.publish()
    assert failed.value.fault == "destination_unavailable"
    assert job.there() == {}
    assert (job.work / "out" / "a.info.json").exists()


def test_giving_up_leaves_no_folders(job: Job) -> None:
    """Those that the template names are made for files only; others stay."""
    (job.destination / "other").mkdir()
    with pytest.raises(KeyboardInterrupt):
        workdir.publish(job.work, job.destination, (), main="a.mp4", overwrite=True, check=give_up)
    assert {p.name for p in job.destination.iterdir()} == {".vidra-job", "other"}


def test_a_copy_that_was_not_needed_goes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was there and stays."""
    elsewhere(monkeypatch)
    job.overwrite = False
    job.write(job.destination, OLD)
    job.publish()
    assert job.there() == {**MADE, **OLD}


def test_copies_are_found_whatever_the_journal_says(job: Job, tmp_path: Path) -> None:
    """What a kill left goes with the job; a line that names anything else names nothing."""
    name = ".vidra-{}.0123456789abcdef.copy"
    inner, outside = job.destination / "sub", tmp_path.parent / f"{tmp_path.name}-outside"
    inner.mkdir()
    outside.mkdir()
    (job.destination / "link").symlink_to(outside)
    ours, theirs = name.format("job"), name.format("other")
    for folder in (job.destination, inner, outside):
        for one in (ours, theirs, "a.mp4"):
            (folder / one).write_text("x")
    (job.destination / "linked").mkdir()
    (job.destination / "linked" / ours).symlink_to("../a.mp4")
    lines = [ours, f"sub/{ours}", f"sub/{theirs}", "a.mp4", "sub/a.mp4", f"none/{ours}"]
    lines += [f"../{outside.name}/{ours}", f"{outside}/{ours}", f"link/{ours}", f"linked/{ours}"]
    journal = "\n".join([*map(json.dumps, lines), "torn", '"', "5", "null", '"\\u0000"', ""])
    (job.work.parent / "copies").write_text(journal)
    workdir.remove(job.work.parent)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if not p.is_dir()}
    assert left == {theirs, f"sub/{theirs}", "a.mp4", "sub/a.mp4", f"linked/{ours}"}
    assert {p.name for p in outside.iterdir()} == {ours, theirs, "a.mp4"}
