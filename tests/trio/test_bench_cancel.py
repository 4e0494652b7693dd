"""The bench of stops stops downloads, really. Its numbers are no test's business."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench import __main__ as bench
from bench.phases import phases
from bench.processes import descendants, open_processes
from bench.scenarios import cancel
from bench.watch import Sample

if TYPE_CHECKING:
    from bench.attempts import Command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the bench asks the Linux kernel"),
]


@pytest.mark.parametrize(
    ("command", "only"), [("cancel", ["60 KB/s", "TCP", "ignores"]), ("pause", ["back-off"])]
)
def test_both_engines_stop_and_nothing_is_left(command: Command, only: list[str]) -> None:
    """Every run is measured, each of the four moments was seen, and nothing was left behind."""
    before = descendants()
    wishes = cancel.Wishes(1, only=only, ways=cancel.ENGINES, command=command, cap=30)
    table = cancel.measure(wishes)
    assert [row[0] for row in table.rows] == _named(only)
    assert not [cell["faults"] for cell in table.data if cell["faults"]]
    for cell in table.data:
        (sample,) = cell["samples"]
        assert not sample["left"]
        assert set(sample["moments"]) == {"block", "threads", "connections", "processes"}
        assert sample["stopped"] == max(sample["moments"].values())
    assert descendants() == before


@pytest.mark.parametrize(
    ("way", "phase", "left"),
    [("naive", "HLS x1, stalled", "threads"), ("cold", "ffmpeg that ignores SIGTERM", "sleep")],
)
def test_a_peer_that_never_stops_is_told_and_ended(way: str, phase: str, left: str) -> None:
    """A hook is not called while nothing arrives; what ignores SIGTERM outlives its parent."""
    before = descendants()
    table = cancel.measure(cancel.Wishes(0, 1, only=[phase], ways=[way], cap=1))
    assert table.rows == [[phase, "> 1 s"]]
    assert left in table.data[0]["samples"][0]["left"]
    assert any(note.startswith(f"{way}: left after 1 s: ") for note in table.notes)
    assert descendants() == before


def test_a_run_that_cannot_be_measured_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured, and the table says what went wrong."""
    monkeypatch.setattr(cancel, "make_media", lambda _: None)  # nothing to convert
    wishes = cancel.Wishes(1, only=["no response", "re-encode"], ways=["thread"], cap=30)
    table = cancel.measure(wishes)
    assert [row[0] for row in table.rows if row[1] == "failed"] == ["ffmpeg re-encode"]
    assert any("not measured, 1 runs: RuntimeError" in note for note in table.notes)


def test_percentiles_and_words() -> None:
    """With a few runs the p99 is the maximum; a missing end is no number."""
    phase = cancel.Wishes(only=["DNS"]).choose(phases(Path("/nowhere")))[0]
    cell = cancel.Cell(phase, "process", 20, [Sample({"block": float(n)}) for n in range(1, 21)])
    assert cell.dump() == "10 / 20 / 20"
    cell.samples.append(Sample({"processes": 3.0}, left=["block"]))
    assert cell.dump() == "10 / 20 / 20; 1 x > 20 s"
    assert cell.notes() == ["left after 20 s: block"]


def test_a_process_is_ended_by_more_than_its_number() -> None:
    """Processes that have gone are not opened; this one is."""
    with ExitStack() as stack:
        assert [one.pid for one in open_processes([os.getpid(), 2**22 - 1], stack)] == [os.getpid()]


def test_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--save` keeps the table and all data beside each other, named as the scenario."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    bench.main(["cancel", "--runs", "1", "--only", "retry", "--ways", "thread", "--save"])
    shown = capsys.readouterr()
    assert shown.out.startswith("## cancel\n\nMeasured on: ")
    assert "retry back-off" in shown.err
    words = (tmp_path / "results" / "cancel.md").read_text()
    assert words.strip() in shown.out
    assert json.loads((tmp_path / "results" / "cancel.json").read_text())["scenario"] == "cancel"


def _named(parts: list[str]) -> list[str]:
    known = phases(Path("/nowhere"))
    return [phase.name for phase in known if any(part in phase.name for part in parts)]
