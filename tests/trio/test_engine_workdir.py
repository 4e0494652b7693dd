"""The private directory and the way out of it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vidra_trio.core.zones import PathRules
from vidra_trio.engine import workdir
from vidra_trio.engine.errors import ItemFailed

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Place:
    """A destination with a prepared work directory in it."""

    destination: Path
    work: Path
    roots: tuple[Path, ...] = ()

    def produce(self, **files: str) -> None:
        for name, text in files.items():
            path = self.work / "out" / name.replace("_", ".").replace("..", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def publish(self, main: str, *, overwrite: bool = True) -> list[str]:
        files = workdir.publish(
            self.work,
            self.destination,
            self.roots,
            main=main,
            overwrite=overwrite,
            check=lambda: None,
        )
        return [str(Path(one).relative_to(self.destination)) for one in files]

    def there(self) -> dict[str, str]:
        files = (
            p for p in self.destination.rglob("*") if p.is_file() and self.work not in p.parents
        )
        return {str(p.relative_to(self.destination)): p.read_text() for p in files}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a place whose destination did not exist before."""
    found = Place(tmp_path / "new" / "downloads", tmp_path / "new" / "downloads" / ".vidra-1")
    workdir.prepare(found.work, found.destination, ())
    return found


def give_up() -> None:
    raise KeyboardInterrupt


def test_everything_that_was_made_is_published(place: Place) -> None:
    """Media, side files, folders of the template; the work directory is gone after."""
    place.produce(a_mp4="media", a_info_json="{}", sub__b_vtt="words")
    assert place.publish("a.mp4") == ["a.info.json", "a.mp4", "sub/b.vtt"]
    assert place.there() == {"a.mp4": "media", "a.info.json": "{}", "sub/b.vtt": "words"}
    assert not place.work.exists()


def test_leftovers_and_links_are_not_published(place: Place) -> None:
    """Only regular files, and none that a failed step left half done."""
    place.produce(a_mp4="media", a_temp_mp4="half", b_part="half", c_ytdl="{}", d_json_temp="x")
    (place.work / "out" / "link.mp4").symlink_to("/etc/passwd")
    assert place.publish("a.mp4") == ["a.mp4"]


@pytest.mark.parametrize("name", ["room.temp.mp4", "guitar.part", "show.temp"])
def test_a_title_that_looks_like_a_leftover_is_published(name: str, place: Place) -> None:
    """What the run calls its file is the file, whatever the site called the video."""
    (place.work / "out").mkdir()
    (place.work / "out" / name).write_text("media")
    assert place.publish(name) == [name]


def test_a_file_that_is_not_there_is_no_success(place: Place) -> None:
    """A run that names a file it did not make has failed."""
    place.produce(a_mp4="media")
    with pytest.raises(ItemFailed) as failed:
        place.publish("b.mp4")
    assert failed.value.fault == "nothing_downloaded"


def test_overwrite_replaces_by_rename(place: Place) -> None:
    """The new file takes the name; a link there is replaced, its target untouched."""
    place.produce(a_mp4="new")
    other = place.destination / "other"
    other.write_text("keep")
    (place.destination / "a.mp4").symlink_to(other)
    place.publish("a.mp4")
    assert place.there() == {"a.mp4": "new", "other": "keep"}


def test_without_overwrite_what_is_there_stays(place: Place) -> None:
    """It counts as published, nothing is lost, and the others arrive."""
    place.produce(a_mp4="new", a_vtt="new")
    (place.destination / "a.mp4").write_text("old")
    assert place.publish("a.mp4", overwrite=False) == ["a.mp4", "a.vtt"]
    assert place.there() == {"a.mp4": "old", "a.vtt": "new"}


def test_a_file_system_without_links_keeps_the_rule(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT and some network volumes cannot link: look first, then rename."""

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    place.produce(a_mp4="new", b_mp4="new")
    (place.destination / "a.mp4").write_text("old")
    place.publish("a.mp4", overwrite=False)
    assert place.there() == {"a.mp4": "old", "b.mp4": "new"}


def test_a_link_that_leads_out_is_not_followed(place: Place, tmp_path: Path) -> None:
    """A folder of the destination that really lies elsewhere is refused before anything moves."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (place.destination / "sub").symlink_to(elsewhere)
    place.produce(a_mp4="media", sub__b_mp4="media")
    with pytest.raises(ItemFailed) as caught:
        place.publish("a.mp4")
    assert caught.value.fault == "path_not_allowed"
    assert list(elsewhere.iterdir()) == []
    assert not (place.destination / "a.mp4").exists()


def test_a_destination_outside_the_roots_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """Also through a link inside a root."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    for destination in (outside / "new", root / "link" / "new", root / ".." / "new"):
        with pytest.raises(ItemFailed) as caught:
            workdir.prepare(destination / ".vidra-1", destination, (root,))
        assert caught.value.fault == "path_not_allowed"
    assert list(outside.iterdir()) == []
    workdir.prepare(root / "a" / ".vidra-1", root / "a", (outside, root))


def test_roots_hold_at_publishing_too(place: Place, tmp_path: Path) -> None:
    """What became a link meanwhile is caught by the real path."""
    place.produce(a_mp4="media")
    place.roots = (tmp_path / "other",)
    with pytest.raises(ItemFailed, match="outside what is allowed"):
        place.publish("a.mp4")


def test_a_destination_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A file in the way, for one."""
    (tmp_path / "file").write_text("x")
    destination = tmp_path / "file" / "sub"
    with pytest.raises(ItemFailed) as caught:
        workdir.prepare(destination / ".vidra-1", destination, ())
    assert caught.value.fault == "destination_unavailable"


def test_a_folder_in_the_way_of_a_file_says_so(place: Place) -> None:
    """The name is taken by something that is not a file."""
    place.produce(a_mp4="media")
    (place.destination / "a.mp4" / "x").mkdir(parents=True)
    with pytest.raises(ItemFailed) as caught:
        place.publish("a.mp4")
    assert caught.value.fault == "destination_unavailable"


class OtherVolume:
    """Makes the destination look like another volume, and copies observable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
        self.out = out
        real = Path.stat

        def stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
            found = real(path, follow_symlinks=follow_symlinks)
            if out in path.parents:
                fields = list(found)
                fields[2] += 1  # st_dev
                return os.stat_result(fields)
            return found

        monkeypatch.setattr(Path, "stat", stat)


def test_another_volume_is_copied_to_and_then_renamed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reader ever sees half of a file under its name."""
    place.produce(a_mp4="media" * 1000)
    OtherVolume(monkeypatch, place.work / "out")
    place.publish("a.mp4")
    assert place.there() == {"a.mp4": "media" * 1000}


class MountedTwice:
    """Makes a folder refuse renames and links from outside, with the device it has anyhow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        for name in ("rename", "replace", "link"):
            monkeypatch.setattr(os, name, self.crossing(getattr(os, name), folder))

    @staticmethod
    def crossing(real: Callable[..., None], folder: Path) -> Callable[..., None]:
        def call(source: Path, target: Path, **how: object) -> None:
            if Path(source).is_relative_to(folder) != Path(target).is_relative_to(folder):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            real(source, target, **how)

        return call


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_is_mounted_once_more_is_copied_to(
    place: Place, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The device is the same, but renames do not cross; nothing of ours stays there."""
    (place.destination / "sub").mkdir()
    MountedTwice(monkeypatch, place.destination / "sub")
    place.produce(a_mp4="media", sub__b_vtt="words", sub__c_vtt="more", new__d_vtt="words")
    assert place.publish("a.mp4", overwrite=overwrite)[0] == "a.mp4"
    assert place.there() == {
        "a.mp4": "media", "new/d.vtt": "words", "sub/b.vtt": "words", "sub/c.vtt": "more",
    }  # fmt: skip


def test_nothing_is_published_where_a_folder_takes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is found before the first file is in its place."""
    (place.destination / "z").mkdir()

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "rename", full)
    place.produce(a_mp4="media", z__b_vtt="words")
    with pytest.raises(ItemFailed):
        place.publish("z/b.vtt")
    assert place.there() == {}
    assert (place.work / "out" / "a.mp4").exists()


def test_a_copy_can_be_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel in the middle of a long copy leaves nothing at the destination."""
    place.produce(a_mp4="media")
    OtherVolume(monkeypatch, place.work / "out")
    with pytest.raises(KeyboardInterrupt):
        workdir.publish(
            place.work, place.destination, (), main="a.mp4", overwrite=True, check=give_up
        )
    assert place.there() == {}


def test_nothing_is_published_when_given_up_before_the_first_rename(place: Place) -> None:
    """A hard stop that comes first wins."""
    place.produce(a_mp4="media", b_vtt="words")
    with pytest.raises(KeyboardInterrupt):
        workdir.publish(
            place.work, place.destination, (), main="a.mp4", overwrite=True, check=give_up
        )
    assert place.there() == {}
    assert (place.work / "out" / "a.mp4").exists()


def test_a_full_disk_has_its_own_code(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no riddle for the user."""

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    place.produce(a_mp4="media")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ItemFailed) as caught:
        place.publish("a.mp4")
    assert caught.value.fault == "disk_full"


def test_removing_twice_is_fine(place: Place) -> None:
    """A discard comes from whoever thinks of it."""
    for _ in range(2):
        workdir.remove(place.work)
    assert not place.work.exists()


def test_a_link_to_a_closed_place_is_refused_with_the_default_rules(tmp_path: Path) -> None:
    """What a link leads to counts, before anything is made and before anything is moved."""
    secret, home = tmp_path / "state", tmp_path / "home"
    secret.mkdir()
    rules = PathRules(str(home), home=str(home), forbidden=(str(secret),))
    link = home / "link"
    home.mkdir()
    for target in (secret, Path("/etc")):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(ItemFailed) as failed:
            workdir.prepare(link / ".vidra-1", link, (), rules=rules)
        assert failed.value.fault == "path_not_allowed"
    assert list(secret.iterdir()) == []


def test_a_link_to_an_open_place_is_fine(tmp_path: Path) -> None:
    """A download folder on another disk, reached by a link, is what people have."""
    disk, home = tmp_path / "disk", tmp_path / "home"
    disk.mkdir()
    home.mkdir()
    (home / "Videos").symlink_to(disk)
    rules = PathRules(str(home), home=str(home), forbidden=(str(tmp_path / "state"),))
    place = Place(home / "Videos", home / "Videos" / ".vidra-1")
    workdir.prepare(place.work, place.destination, (), rules=rules)
    place.produce(a_mp4="media")
    workdir.publish(
        place.work, place.destination, (), main="a.mp4", rules=rules, overwrite=True,
        check=lambda: None,
    )  # fmt: skip
    assert (disk / "a.mp4").read_text() == "media"


def test_a_destination_that_becomes_a_link_meanwhile_is_refused(tmp_path: Path) -> None:
    """The check before the move is the one that counts."""
    home = tmp_path / "home"
    (home / "Videos").mkdir(parents=True)
    rules = PathRules(str(home), home=str(home), forbidden=(str(tmp_path / "state"),))
    place = Place(home / "Videos", home / ".vidra-1")
    workdir.prepare(place.work, place.destination, (), rules=rules)
    place.produce(a_mp4="media")
    (home / "Videos").rmdir()
    (tmp_path / "state").mkdir()
    (home / "Videos").symlink_to(tmp_path / "state")
    with pytest.raises(ItemFailed) as failed:
        workdir.publish(
            place.work, place.destination, (), main="a.mp4", rules=rules, overwrite=True,
            check=lambda: None,
        )  # fmt: skip
    assert failed.value.fault == "path_not_allowed"
    assert list((tmp_path / "state").iterdir()) == []
