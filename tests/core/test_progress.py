"""The progress reducer: what a client sees from what an engine reports."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.progress import (
    COMPLETED,
    IDENTIFYING,
    Progress,
    apply_stage,
    apply_tick,
    at_stage,
    completed,
    ended,
    expect,
    identifying,
    of_several,
)
from vidra_trio.core.report import Stage, Tick


def test_a_run_begins_with_zeros() -> None:
    """The first progress of a run resets percent and stage, so that a client starts over."""
    old = Progress(percent=80.0, stage="downloading", elapsed=4.0, downloaded_bytes=8)
    fresh = identifying(old, "running")
    assert (fresh.stage, fresh.percent, fresh.stage_percent) == (IDENTIFYING, 0.0, 0.0)
    assert (fresh.status, fresh.downloaded_bytes, fresh.elapsed) == ("running", None, 4.0)


def test_a_tick_shows_bytes_rate_and_share() -> None:
    """One file: percent follows the bytes."""
    tick = Tick("a.mp4", 25, 100, speed=5.0, eta=15.4, elapsed=5.0, fragment=1, fragments=4)
    shown = apply_tick(identifying(Progress(), "running"), tick)
    assert (shown.percent, shown.stage_percent, shown.remaining_bytes) == (25.0, 25.0, 75)
    assert (shown.status, shown.stage, shown.stage_name) == ("downloading",) * 3
    assert (shown.speed, shown.eta, shown.elapsed) == (5.0, 15, 5.0)
    assert (shown.filename, shown.tmpfilename) == ("a.mp4", "a.mp4.part")
    assert (shown.current_item, shown.total_items) == (1, 4)


def test_an_unknown_total_shows_no_percent_of_its_own() -> None:
    """Without a total there is no stage percent, and the old percent stays."""
    shown = apply_tick(identifying(Progress(), "running"), Tick("a", 25))
    assert shown.stage_percent is None
    assert shown.percent == 0.0
    assert shown.remaining_bytes is None


def test_a_second_file_continues_where_the_first_ended() -> None:
    """With the sizes known beforehand, the percentage of a merged format never falls."""
    state = expect(identifying(Progress(), "running"), 400)
    shares = []
    for tick in (Tick("v", 150, 300), Tick("v", 300, 300), Tick("a", 0, 100), Tick("a", 100, 100)):
        state = apply_tick(state, tick)
        shares.append(state.percent)
    assert shares == [37.5, 75.0, 75.0, 100.0]
    assert state.downloaded_bytes == state.total_bytes == 400


def test_numbers_that_are_none_are_left_out() -> None:
    """Infinite and undefined rates never reach a client."""
    shown = apply_tick(Progress(), Tick("a", 1, 2, speed=math.inf, eta=math.nan, elapsed=math.nan))
    assert (shown.speed, shown.eta, shown.elapsed) == (None, None, None)


def test_a_file_s_last_sample_keeps_its_speed() -> None:
    """A sample without a speed shows the last one of the same file, not of another."""
    moving = apply_tick(Progress(), Tick("a", 1, 2, speed=7.0))
    assert apply_tick(moving, Tick("a", 2, 2)).speed == 7.0
    assert apply_tick(moving, Tick("b", 2, 2)).speed is None


def test_elapsed_never_decreases() -> None:
    """A second file's own clock does not set the job's back."""
    shown = apply_tick(Progress(elapsed=9.0), Tick("a", 1, 2, elapsed=0.5))
    assert shown.elapsed == 9.0


def test_a_new_stage_drops_what_described_the_old_one() -> None:
    """Messages and counts of the previous stage do not leak into the next."""
    old = Progress(stage="a", stage_percent=3.0, message="m", current_item=1, total_items=2)
    new = at_stage(old, "b")
    assert (new.stage_percent, new.message, new.current_item, new.total_items) == (None,) * 4
    assert new.stage_name == "b"
    assert at_stage(old, "a").message == "m"


def test_post_processors_leave_the_overall_percent_alone() -> None:
    """A post-processor's stage goes from 0 to 100 while percent stays."""
    old = apply_tick(Progress(), Tick("a", 2, 2))
    started = apply_stage(old, Stage("Merger"))
    finished = apply_stage(started, Stage("Merger", finished=True))
    assert (started.stage, started.status, started.stage_percent) == ("Merger", "started", 0.0)
    assert (finished.status, finished.stage_percent) == ("finished", 100.0)
    assert finished.percent == 100.0


def test_a_file_s_end_is_said() -> None:
    """A finished file sets the status; a start, or an end out of place, changes nothing."""
    old = apply_tick(Progress(), Tick("a", 2, 2, speed=1.0))
    assert apply_stage(old, Stage("download")) == old
    assert apply_stage(Progress(), Stage("download", finished=True)) == Progress()
    done = apply_stage(old, Stage("download", finished=True))
    assert (done.status, done.speed, done.eta) == ("finished", None, 0)


def test_the_end_is_a_hundred() -> None:
    """A completed job shows 100 percent and its file."""
    done = completed(apply_tick(Progress(), Tick("a", 1, 2)), "/d/a.mp4", "completed")
    assert (done.stage, done.percent, done.stage_percent) == (COMPLETED, 100.0, 100.0)
    assert (done.message, done.filename, done.tmpfilename) == ("/d/a.mp4", "/d/a.mp4", None)
    assert done.state == "completed"


def test_an_end_without_a_file_keeps_how_far_it_came() -> None:
    """A failed or paused job still shows its last percent."""
    old = apply_tick(Progress(), Tick("a", 1, 2, speed=2.0))
    stopped = ended(old, "paused")
    assert (stopped.percent, stopped.status, stopped.state, stopped.speed) == (
        50.0, "paused", "paused", None,
    )  # fmt: skip


def test_several_urls_share_one_percent() -> None:
    """Item two of four at half is the job at 37.5 percent; a single item is shown as it is."""
    half = Progress(percent=50.0)
    assert of_several(half, 1, 4).percent == 37.5
    assert of_several(half, 0, 1) is half
    assert of_several(Progress(), 1, 4).percent is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 10**12),
            st.none() | st.integers(0, 10**12),
        ),
        max_size=30,
    ),
    st.none() | st.integers(0, 10**12),
)
def test_percent_is_always_in_bounds(
    ticks: list[tuple[str, int, int | None]], expected: int | None
) -> None:
    """No sequence of samples gives a percentage outside 0..100 or bytes beyond the total."""
    state = expect(identifying(Progress(), "running"), expected)
    for key, done, total in ticks:
        state = apply_tick(state, Tick(key, done, total))
        assert state.percent is not None
        assert 0 <= state.percent <= 100
        if state.total_bytes is not None and state.downloaded_bytes is not None:
            assert state.downloaded_bytes <= state.total_bytes


@given(st.lists(st.integers(0, 1000), max_size=30))
def test_percent_never_falls_within_a_run(samples: list[int]) -> None:
    """Even when a server lies about how much came, the bar does not go back."""
    state = identifying(Progress(), "running")
    last = 0.0
    for done in samples:
        state = apply_tick(state, Tick("a", done, 1000))
        assert state.percent is not None
        assert state.percent >= last
        last = state.percent
