"""Hooks and log lines become reports."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vidra_trio.core.report import Identified, Line, Stage, Tick, Waiting
from vidra_trio.core.states import Level
from vidra_trio.engine.reporting import MAX_LINE, PERIOD, Reporter

WORK = Path("/d/.vidra-1")


class Recorder:
    """A reporter with a clock to turn and a list to read."""

    def __init__(self, *secrets: str) -> None:
        self.now = 100.0
        self.sent: list[Identified | Tick | Stage | Line | Waiting] = []
        self.reporter = Reporter(self.sent.append, WORK, secrets, clock=lambda: self.now)

    def tick(self, name: str, done: int, **more: object) -> None:
        hook = {"filename": f"{WORK}/tmp/{name}", "downloaded_bytes": done}
        self.reporter.progress({"status": "downloading", **hook, **more})

    def finish(self, name: str, size: int | None) -> None:
        hook = {"status": "finished", "filename": f"{WORK}/tmp/{name}", "total_bytes": size}
        self.reporter.progress(hook)


def test_ticks_are_throttled_per_file_and_the_last_is_whole() -> None:
    """Ten a second per file at most; the full size comes before the stage ends."""
    record = Recorder()
    for step in range(100):
        record.now = 100.0 + step * PERIOD / 10
        record.tick("a.f1.mp4", step, total_bytes=200)
        record.tick("a.f2.m4a", step)
    record.finish("a.f1.mp4", 200)
    one = [r for r in record.sent if isinstance(r, Tick) and r.key == "a.f1.mp4"]
    assert 9 <= len(one) <= 11
    assert one[-1] == Tick("a.f1.mp4", 200, 200, eta=0.0)
    assert record.sent[0] == Stage("download", key="a.f1.mp4")
    assert record.sent[-2:] == [one[-1], Stage("download", finished=True, key="a.f1.mp4")]


def test_a_file_that_was_there_already_is_told_too() -> None:
    """A resumed stream comes as one `finished` without ticks before it."""
    record = Recorder()
    record.finish("a.mp4", 7)
    assert [type(one).__name__ for one in record.sent] == ["Stage", "Tick", "Stage"]
    empty = Recorder()
    empty.finish("a.mp4", None)
    assert [type(one).__name__ for one in empty.sent] == ["Stage", "Stage"]


def test_a_tick_has_sane_numbers() -> None:
    """NaN, negatives and words cost their member; a total is never below what is there."""
    record = Recorder()
    odd = {"total_bytes_estimate": 4.5, "speed": math.nan, "eta": -1, "elapsed": "x"}
    record.tick("a", 10, fragment_index=2, fragment_count=9, **odd)
    expected = Tick("a", 10, 10, estimated=True, fragment=2, fragments=9)
    assert record.sent[-1] == expected


def test_a_post_processor_is_told_once() -> None:
    """yt-dlp says everything twice."""
    record = Recorder()
    for finished in (False, False, True, True):
        record.reporter.postprocessing("Merger", finished=finished)
    assert record.sent == [Stage("Merger"), Stage("Merger", finished=True)]


def test_an_item_is_identified_once() -> None:
    """Two formats of one item are one item."""
    record = Recorder()
    for _ in range(2):
        record.reporter.identify({"title": "T", "filesize": 9}, datetime(2026, 1, 1, tzinfo=UTC))
    (told,) = record.sent
    assert isinstance(told, Identified)
    assert (told.preview["title"], told.total_bytes) == ("T", 9)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\r",
        "[download]  12.5% of 3MiB",
        "\r[download] Unknown at 3",
        "[MoveFiles] Moving file a to b",
    ],
)
def test_noise_is_dropped(text: str) -> None:
    """The ring of a job's log is kept for what a user can use."""
    record = Recorder()
    record.reporter.line(Level.INFO, text)
    assert record.sent == []


def test_a_line_is_clean() -> None:
    """No colours, no newlines, no work directory, no secrets, not endless."""
    record = Recorder("hunter22")
    record.reporter.line(Level.INFO, f"\x1b[31mto {WORK}/out/a.mp4\n{WORK}/tmp/b\x1b[0m hunter22")
    record.reporter.line(Level.WARNING, "x" * (MAX_LINE * 2))
    first, second = record.sent
    assert first == Line(Level.INFO, "to a.mp4 b ***")
    assert isinstance(second, Line)
    assert len(second.message) == MAX_LINE


def test_an_error_is_told_once() -> None:
    """yt-dlp logs an error where it happens and again where it gives up."""
    record = Recorder()
    for text in ("ERROR: no", "ERROR: no", "no (caused by X)"):
        record.reporter.line(Level.ERROR, text)
    assert record.sent == [Line(Level.ERROR, "no")]
    assert record.reporter.errors == ["no"]


def test_nothing_leaves_after_the_close() -> None:
    """A fragment thread that outlives its run does not speak in the next one."""
    record = Recorder()
    record.reporter.close()
    record.tick("a", 1)
    record.reporter.line(Level.ERROR, "late")
    assert record.sent == []


def test_a_wait_on_purpose_is_told_when_it_is_long() -> None:
    """A rate limit sleeps for moments, many times a second."""
    record = Recorder()
    record.reporter.waiting(0.1)
    record.reporter.waiting(25.0)
    assert record.sent == [Waiting(25.0)]
