"""ffmpeg, and yt-dlp's floor."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import imageio_ffmpeg
import pytest

from vidra_trio.engine import tools
from vidra_trio.engine.errors import EngineTooOld

FAKE = '#!/bin/sh\necho "ffmpeg version 9.9-test Copyright"\n'


def program(folder: Path, name: str, text: str = FAKE) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_one_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is left to yt-dlp, which finds an ffprobe anywhere on PATH then."""
    there = program(tmp_path / "bin", "ffmpeg")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found = tools.find_ffmpeg()
    assert (found.path, found.version, found.source) == (str(there), "9.9-test", "path")
    assert found.location is None
    assert found.has_ffprobe is (shutil.which("ffprobe") is not None)


def test_a_broken_one_on_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's is taken, by its path."""
    program(tmp_path / "bin", "ffmpeg", "#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
    found = tools.find_ffmpeg()
    assert found.source == "wheel"
    assert found.location == found.path == imageio_ffmpeg.get_ffmpeg_exe()
    assert found.version not in ("", "unknown")
    assert not found.has_ffprobe


def test_none_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without a wheel and without ffmpeg still starts."""

    def missing() -> str:
        raise RuntimeError("no binary")

    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    assert tools.find_ffmpeg() == tools.Ffmpeg("", "", "none", has_ffprobe=False)


def test_an_ffprobe_is_looked_for_beside_its_ffmpeg(tmp_path: Path) -> None:
    """Under its own name, or with the suffix that ffmpeg has."""
    ffmpeg = program(tmp_path, "ffmpeg-linux-v7")
    assert not tools.has_ffprobe(str(ffmpeg))
    program(tmp_path, "ffprobe-linux-v7")
    assert tools.has_ffprobe(str(ffmpeg))
    program(tmp_path, "ffprobe")
    assert tools.has_ffprobe(str(tmp_path))


@pytest.mark.parametrize(
    ("version", "accepted"),
    [
        ("2026.7.3", False),
        ("2026.7.4", True),
        ("2026.10.26", True),
        ("2026.8.1.232800.dev0", True),
        ("2025.12.31", False),
        ("", False),
    ],
)
def test_the_floor_holds(version: str, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with known holes is refused before anything runs."""
    monkeypatch.setattr(tools, "engine_version", lambda: version)
    if accepted:
        tools.assert_engine_version()
    else:
        with pytest.raises(EngineTooOld, match=r"2026\.7\.4 or newer is needed"):
            tools.assert_engine_version()


def test_the_installed_version_is_asked_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own metadata answers; no package, no version."""
    assert tools.engine_version() == importlib.metadata.version("yt-dlp")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert tools.engine_version() == ""
