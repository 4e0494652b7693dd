"""The bench does the work that it measures. Its numbers are no test's business."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench import __main__ as bench
from bench.scenarios import hub

if TYPE_CHECKING:
    import pytest

TINY = hub.Load(subscribers=3, jobs=2, events=10)


def test_both_ways_deliver_everything() -> None:
    """A ratio between two different amounts of work would be worth nothing."""
    report = hub.measure([TINY], rounds=2)
    (row,) = report.rows
    assert row.load == {"subscribers": 3, "jobs": 2, "events": 20}
    assert len(row.ratios) == 2


def test_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table for people, then one line of JSON with every round."""
    monkeypatch.setattr(bench, "SCENARIOS", {"hub": lambda _: hub.measure([TINY], rounds=1)})
    bench.main(["hub"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "## hub"
    assert "| 3 subscribers, 2 jobs, 20 events |" in lines[-3]
    assert json.loads(lines[-1])["rows"][0]["load"]["subscribers"] == 3
