"""Files: replaced whole or not at all, private, never through a link."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.disks import FaultyDisk, Killed
from vidra_trio.core.errors import ConfigurationError, DataDirInUse
from vidra_trio.storage.files import (
    Disk,
    Locations,
    hold_data_dir,
    keep_copy,
    move_aside,
    read_file,
    sweep,
    write_atomic,
)

OLD, NEW = b"old " * 500, b"new " * 500


def mode(path: Path) -> int:
    """Return the permission bits of `path`."""
    return stat.S_IMODE(path.lstat().st_mode)


# -- write_atomic


def test_a_written_file_is_private_and_alone(tmp_path: Path) -> None:
    """New or replaced, it is 0600, whole, and nothing lies beside it."""
    path = tmp_path / "a.json"
    for data in (OLD, NEW, b""):
        write_atomic(path, data)
        assert path.read_bytes() == data
        assert mode(path) == 0o600
        assert list(tmp_path.iterdir()) == [path]


def test_write_fsync_replace_fsync(tmp_path: Path) -> None:
    """The file is on the medium before its name is, and the name before the return."""
    disk = FaultyDisk()
    write_atomic(tmp_path / "a", b"x", disk)
    assert disk.names == ["create", "write", "fsync", "replace", "fsync"]
    disk = FaultyDisk()
    write_atomic(tmp_path / "a", b"x", disk, sync_folder=False)
    assert disk.names == ["create", "write", "fsync", "replace"]


@pytest.mark.parametrize("forever", [False, True])
def test_a_failure_anywhere_leaves_the_old_or_the_new_file(tmp_path: Path, forever: bool) -> None:
    """For every N: when the N-th call fails the caller is told, and no file is torn."""
    path = tmp_path / "a.json"
    at = 0
    while True:
        at += 1
        path.write_bytes(OLD)
        disk = FaultyDisk(at, forever=forever)
        try:
            write_atomic(path, NEW, disk)
        except OSError:
            assert disk.calls >= at
        else:
            break
        assert path.read_bytes() in (OLD, NEW)
        if not forever:
            assert list(tmp_path.iterdir()) == [path]
    assert at > 6
    assert path.read_bytes() == NEW


def test_a_kill_anywhere_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """For every N: a kill at the N-th call tears nothing, and `sweep` takes what it left."""
    path = tmp_path / "a.json"
    total = FaultyDisk()
    write_atomic(path, NEW, total)
    for at in range(1, total.calls + 1):
        path.write_bytes(OLD)
        with pytest.raises(Killed):
            write_atomic(path, NEW, FaultyDisk(at, kill=True))
        assert path.read_bytes() in (OLD, NEW)
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses the temporary name gains nothing: the victim is not touched."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * 2 * n)
    planted = folder / ".a.json.0000000000000000.tmp"
    planted.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomic(folder / "a.json", NEW)
    assert victim.read_text() == "mine"
    assert not (folder / "a.json").exists()


def test_a_link_in_place_of_the_file_is_replaced(tmp_path: Path) -> None:
    """Renaming over a link replaces the link, not what it leads to."""
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_text("mine")
    path.symlink_to(victim)
    write_atomic(path, NEW)
    assert victim.read_text() == "mine"
    assert path.read_bytes() == NEW
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("system", "refusals", "calls"), [("posix", 9, 1), ("nt", 9, 6), ("nt", 2, 3)]
)
def test_a_refused_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, refusals: int, calls: int
) -> None:
    """On Windows a scanner may have the file open for a moment; elsewhere no means no."""
    seen = []

    def refuse(self: Path, target: Path) -> None:
        seen.append(target)
        if len(seen) <= refusals:
            raise PermissionError(errno.EACCES, "in use")

    source, target = tmp_path / "a", tmp_path / "b"
    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(os, "name", system)
    told = False
    try:
        Disk().replace(source, target)
    except PermissionError:
        told = True
    monkeypatch.undo()
    assert len(seen) == calls
    assert told == (calls <= refusals)


# -- reading, keeping aside, sweeping


def test_reading_makes_private(tmp_path: Path) -> None:
    """What an older server left readable for everybody is tightened on the way."""
    path = tmp_path / "a"
    assert read_file(path) is None
    path.write_bytes(OLD)
    path.chmod(0o644)
    assert read_file(path) == OLD
    assert mode(path) == 0o600


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_only_plain_files_are_read(tmp_path: Path, kind: str) -> None:
    """A folder, a link or a pipe in a file's place is an error at once, never a hang."""
    path = tmp_path / "a"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(__file__)
        case _:
            os.mkfifo(path)
    with pytest.raises(OSError, match=r"link|plain"):
        read_file(path)
    assert move_aside(path, "corrupt", 5).name == "a.corrupt-5"
    assert read_file(path) is None


def test_what_was_kept_is_never_replaced(tmp_path: Path) -> None:
    """Two damaged files of one millisecond both stay."""
    path = tmp_path / "a"
    for number in range(3):
        path.write_bytes(b"%d" % number)
        assert move_aside(path, "corrupt", 7) == tmp_path / f"a.corrupt-{7 + number}"
    assert (tmp_path / "a.corrupt-8").read_bytes() == b"1"


def test_a_copy_needs_no_space_and_survives(tmp_path: Path) -> None:
    """It works on a full disk, and the next write of the file leaves it alone."""
    path = tmp_path / "a"
    write_atomic(path, OLD)
    copy = keep_copy(path, OLD, "rejected", 7, FaultyDisk(1, forever=True))
    write_atomic(path, NEW)
    assert copy.read_bytes() == OLD


def test_a_copy_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none gets a real copy."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "a"
    write_atomic(path, OLD)
    assert keep_copy(path, OLD, "rejected", 7).read_bytes() == OLD


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    """A temporary file of somebody else's is somebody else's."""
    random = "0123456789abcdef.tmp"
    ours = [f".download_state.json.{random}", f".j-1_X.json.{random}", f".id.{random}"]
    theirs = [
        *(
            "download_state.json.tmp",
            "notes.tmp",
            ".a.json.0123.tmp",
            ".a.txt.0123456789abcdef.tmp",
        ),
        *("download_state.json", "j.json", "download_state.json.corrupt-5"),
    ]
    for name in (*ours, *theirs):
        (tmp_path / name).touch()
    (tmp_path / ".dir.json.0123456789abcdef.tmp").mkdir()
    sweep(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*theirs, ".dir.json.0123456789abcdef.tmp"}


# -- the data directory


def test_folders_are_made_private(tmp_path: Path) -> None:
    """New ones and old ones are 0700, the cache too."""
    at = Locations(tmp_path / "a/data", tmp_path / "a/cache")
    at.options.mkdir(parents=True)
    at.options.chmod(0o755)
    at.data.chmod(0o777)
    with hold_data_dir(at):
        assert [mode(folder) for folder in at.folders] == [0o700] * 5
        assert mode(at.lock) == 0o600


def test_one_server_per_data_directory(tmp_path: Path) -> None:
    """A second one is refused while the first is there, and welcome after."""
    at = Locations(tmp_path / "data")
    with hold_data_dir(at):
        with pytest.raises(DataDirInUse, match="data"), hold_data_dir(at):
            pass
        with pytest.raises(DataDirInUse), hold_data_dir(at):
            pass
    with hold_data_dir(at):
        pass


def test_a_data_directory_has_an_identity(tmp_path: Path) -> None:
    """Made once, private; of its own even at the same path, and it moves along."""
    at, other = Locations(tmp_path / "data"), Locations(tmp_path / "other")
    with hold_data_dir(at) as first:
        assert at.id.read_text() == f"{first}\n"
        assert (len(first), mode(at.id)) == (32, 0o600)
    with hold_data_dir(at) as again, hold_data_dir(other) as another:
        assert first == again != another
    at.data.rename(tmp_path / "moved")
    with hold_data_dir(at) as fresh, hold_data_dir(Locations(tmp_path / "moved")) as moved:
        assert fresh != first == moved


@pytest.mark.parametrize("damaged", [b"", b"\xff", b"0" * 31, b"a/../b"])
def test_a_damaged_identity_is_replaced(tmp_path: Path, damaged: bytes) -> None:
    """Then what its server left behind stays: it could be somebody else's."""
    at = Locations(tmp_path / "data")
    at.data.mkdir()
    at.id.write_bytes(damaged)
    with hold_data_dir(at) as found:
        assert at.id.read_text() == f"{found}\n"
        assert len(found) == 32


def test_a_link_in_place_of_the_identity(tmp_path: Path) -> None:
    """Nobody else chooses who we are; and the lock is let go."""
    at = Locations(tmp_path / "data")
    at.data.mkdir()
    (tmp_path / "theirs").write_text("0" * 32 + "\n")
    at.id.symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigurationError, match="VIDRA_SERVER_DATA"):
        hold_data_dir(at).__enter__()
    at.id.unlink()
    with hold_data_dir(at):
        pass


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    """A killed server leaves no stale lock."""
    at = Locations(tmp_path / "data")
    code = (
        "import sys, pathlib\n"
        "from vidra_trio.storage.files import Locations, hold_data_dir\n"
        "with hold_data_dir(Locations(pathlib.Path(sys.argv[1]))):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(at.data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(DataDirInUse), hold_data_dir(at):
            pass
        holder.kill()
        holder.wait(30)
    with hold_data_dir(at):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a wrong setting, not another server."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigurationError, match=r"VIDRA_SERVER_DATA: .*No locks"):
        hold_data_dir(Locations(tmp_path / "data")).__enter__()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    """One line that names the variable, the folder and the reason."""
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigurationError, match=r"VIDRA_SERVER_DATA: .*data'.*exists"):
        hold_data_dir(Locations(tmp_path / "data")).__enter__()
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigurationError, match=r"VIDRA_SERVER_CACHE: .*cache'"):
        hold_data_dir(Locations(tmp_path / "ok", tmp_path / "cache")).__enter__()


def test_a_link_in_place_of_the_lock(tmp_path: Path) -> None:
    """A planted lock file is refused, and the victim not touched."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigurationError, match="VIDRA_SERVER_DATA"):
        hold_data_dir(Locations(tmp_path / "data")).__enter__()
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only is found at start, not at the first job."""
    monkeypatch.setattr(os, "access", lambda path, how: False)
    with pytest.raises(ConfigurationError, match="not writable"):
        hold_data_dir(Locations(tmp_path / "data")).__enter__()


def test_a_shared_folder_is_refused(tmp_path: Path) -> None:
    """A folder like /tmp is not made private under everybody's feet."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(ConfigurationError, match="shared by all users"):
        hold_data_dir(Locations(folder)).__enter__()
    assert mode(folder) == 0o1777


def test_a_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a link, or open to others, it is refused; a private one that we may use is fine."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigurationError, match="link to somebody else"):
        hold_data_dir(Locations(link)).__enter__()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="others can write"):
        hold_data_dir(Locations(folder)).__enter__()
    assert mode(folder) == 0o777
    folder.chmod(0o700)
    with hold_data_dir(Locations(folder)):
        pass


def test_a_file_system_without_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where chmod does nothing, others being able to write is still a reason to refuse."""

    def nothing(self: Path, mode: int) -> None:
        raise PermissionError(errno.EPERM, "no modes here")

    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", nothing)
    with hold_data_dir(Locations(folder)):
        pass
    os.chmod(folder, 0o775)  # noqa: PTH101 - Path.chmod is the one that does nothing
    with pytest.raises(ConfigurationError, match="others can write"):
        hold_data_dir(Locations(folder)).__enter__()


@pytest.mark.parametrize("shared", ["/", "/etc", "/var", "home", "parent of the home"])
def test_a_folder_that_others_need_is_not_closed(
    shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in DATA must not lock everybody out of the machine, or the user out of the home."""
    home = tmp_path / "homes" / "u"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    folder = {"home": home, "parent of the home": home.parent}.get(shared, Path(shared))
    mode = folder.stat().st_mode
    locations = Locations(folder)
    with pytest.raises(ConfigurationError, match="VIDRA_SERVER_DATA"), hold_data_dir(locations):
        pass
    assert folder.stat().st_mode == mode
