"""The bench does the work that it measures. Its numbers are no test's business."""

from __future__ import annotations

import json

import pytest

from bench.scenarios import store


@pytest.mark.slow
def test_both_ways_store_the_same() -> None:
    """And a real server starts on it, and lists it."""
    table = store.measure(store.Wishes(stored=(3, 20), changes=2, rounds=2))
    assert [row[0] for row in table.rows] == [
        "3, journal", "3, whole file", "20, journal", "20, whole file",
    ]  # fmt: skip
    data = json.loads(table.dump_json())["data"]
    for _, ours, theirs in data["changes"]:
        assert len(ours["create_ms"]) == len(ours["cancel_ms"]) == 4
        assert ours["written"] > 0 < theirs["written"]
    assert [server["stored"] for server in data["servers"]] == [3, 20]
    assert table.notes[0].startswith("create p50 at 20 / at 3: ")
    assert "## store" in table.dump_markdown()
