"""Programs and files that a client names are looked at before they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.vetting import vet


def program(folder: Path, name: str = "ffmpeg", mode: int = 0o755) -> Path:
    """Make a program that nobody but us can change."""
    folder.mkdir(mode=0o755, exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(mode)
    return file


def test_a_sound_ffmpeg_is_used(tmp_path: Path) -> None:
    """A program of ours called ffmpeg passes, and so does the folder it lies in."""
    file = program(tmp_path / "bin")
    for location in (file, file.parent):
        params = {"ffmpeg_location": str(location), "retries": 3}
        assert vet(params) == (params, ())


@pytest.mark.parametrize(
    ("name", "mode", "fault"),
    [
        ("busybox", 0o755, "not called ffmpeg"),
        ("ffmpeg", 0o644, "no program"),
        ("ffmpeg", 0o757, "changed by others"),
    ],
)
def test_an_unfit_program_is_left_out_with_a_warning(
    name: str, mode: int, fault: str, tmp_path: Path
) -> None:
    """Whatever else a client names is not run."""
    file = program(tmp_path / "bin", name, mode)
    params, (warning,) = vet({"ffmpeg_location": str(file)})
    assert params == {}
    assert fault in warning


def test_a_program_in_a_folder_that_others_can_write_is_left_out(tmp_path: Path) -> None:
    """Who can replace the program can run anything."""
    file = program(tmp_path / "bin")
    file.parent.chmod(0o777)
    assert vet({"ffmpeg_location": str(file)})[0] == {}


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    """A link called ffmpeg does not make a program trustworthy."""
    target = program(tmp_path / "bin", "ffmpeg-7", 0o757)
    link = tmp_path / "ffmpeg"
    link.symlink_to(target)
    assert vet({"ffmpeg_location": str(link)})[0] == {}


@pytest.mark.parametrize("where", ["nowhere/ffmpeg", "empty"])
def test_a_program_that_is_gone_costs_a_warning(where: str, tmp_path: Path) -> None:
    """A client that names an ffmpeg of an older installation still gets its file."""
    (tmp_path / "empty").mkdir()
    params, warnings = vet({"ffmpeg_location": str(tmp_path / where)})
    assert params == {}
    assert len(warnings) == 1


def test_a_cookie_file_has_to_be_there(tmp_path: Path) -> None:
    """yt-dlp would make one: a name is not enough, a folder even less."""
    file = tmp_path / "cookies.txt"
    for missing in (file, tmp_path):
        with pytest.raises(ItemFailed) as failed:
            vet({"cookiefile": str(missing)})
        assert failed.value.fault == "cookies_unreadable"
    file.write_text("# Netscape HTTP Cookie File\n")
    assert vet({"cookiefile": str(file)}) == ({"cookiefile": str(file)}, ())
    assert os.access(file, os.R_OK)
