"""What a server says about its engine and what that stands on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yt_dlp.version

from vidra_trio.engine import diagnosis
from vidra_trio.engine.base import EngineStatistics
from vidra_trio.engine.diagnosis import GIVEN, Diagnosis, Verdict
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.engine.tools import Ffmpeg

if TYPE_CHECKING:
    import pytest

FOUND = Ffmpeg("/opt/ffmpeg", "7.0.2", "path", has_ffprobe=True)


class Busy(ScriptedEngine):
    """An engine with numbers of its own."""

    def statistics(self) -> EngineStatistics:
        """Return four different ones."""
        return EngineStatistics(running=1, workers=4, idle=3, abandoned=2)


class Choosing:
    """A choice that is being made."""

    kind = ""
    reason = ""


async def test_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions are the real ones, the numbers the engine's, the choice as it was made."""
    monkeypatch.setattr(diagnosis, "find_ffmpeg", lambda: FOUND)
    found = await Diagnosis("1.2", Busy(), Verdict("thread", "no room")).look()
    assert (found.version, found.engine.kind, found.engine.reason) == ("1.2", "thread", "no room")
    engine = found.engine
    assert (engine.running, engine.workers, engine.idle, engine.abandoned) == (1, 4, 3, 2)
    ffmpeg = found.ffmpeg
    assert (ffmpeg.source, ffmpeg.version, ffmpeg.has_ffprobe) == ("path", "7.0.2", True)
    assert found.yt_dlp.split(".")[0] == yt_dlp.version.__version__.split(".")[0]
    assert found.python.startswith("3.")
    assert len(found.platform.split()) >= 3


async def test_ffmpeg_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for the diagnosis again and again starts no processes."""
    looks: list[None] = []

    def find() -> Ffmpeg:
        looks.append(None)
        return FOUND

    monkeypatch.setattr(diagnosis, "find_ffmpeg", find)
    patient = Diagnosis("1.2", ScriptedEngine(), GIVEN)
    assert looks == []
    first = await patient.look()
    assert await patient.look() == first
    assert looks == [None]


async def test_a_choice_that_is_not_made_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, not waited for; and told as it was made as soon as it is."""
    monkeypatch.setattr(diagnosis, "find_ffmpeg", lambda: FOUND)
    choice = Choosing()
    patient = Diagnosis("1.2", ScriptedEngine(), choice)
    early = (await patient.look()).engine
    assert early.kind == "undecided"
    assert early.reason
    choice.kind, choice.reason = "process", "a worker answered"
    late = (await patient.look()).engine
    assert (late.kind, late.reason) == ("process", "a worker answered")
