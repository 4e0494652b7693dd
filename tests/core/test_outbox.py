"""The outbox: a bounded subsequence of what was put in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vidra_trio.core.outbox import Outbox


def drain(outbox: Outbox[str]) -> list[str]:
    """Take everything."""
    taken = outbox.take(1_000_000)
    outbox.settle()
    return taken


def test_facts_keep_their_order() -> None:
    """What has no key is taken as it was put."""
    outbox: Outbox[str] = Outbox(100)
    for name in "abc":
        assert not outbox.put(name, 1)
    assert drain(outbox) == ["a", "b", "c"]
    assert not outbox


def test_a_newer_state_replaces_the_older_one_at_the_end() -> None:
    """The older one is not taken, and the newer one follows what it followed."""
    outbox: Outbox[str] = Outbox(100)
    assert not outbox.put("half", 4, "progress")
    assert not outbox.put("fact", 4)
    assert outbox.put("most", 4, "progress")
    assert drain(outbox) == ["fact", "most"]


def test_a_state_that_nothing_replaces_stays_where_it_was() -> None:
    """The last progress before a fact is taken before it."""
    outbox: Outbox[str] = Outbox(100)
    outbox.put("other", 4, "other key")
    outbox.put("last progress", 4, "progress")
    outbox.put("completed", 4)
    outbox.put("newer other", 4, "other key")
    assert drain(outbox) == ["last progress", "completed", "newer other"]


def test_a_key_may_be_anything_but_none() -> None:
    """False and 0 are keys too: only None means a fact."""
    outbox: Outbox[str] = Outbox(0)
    outbox.put("a", 1, 0)
    assert outbox.put("b", 1, key=False)
    assert not outbox.overdrawn
    assert drain(outbox) == ["b"]


def test_taking_stops_at_the_limit() -> None:
    """Messages are joined up to the limit and not beyond."""
    outbox: Outbox[str] = Outbox(100)
    for name in "abcde":
        outbox.put(name, 4)
    assert outbox.take(10) == ["a", "b"]
    outbox.settle()
    assert outbox.take(12) == ["c", "d", "e"]


def test_a_message_larger_than_the_limit_is_taken_alone() -> None:
    """A large message is not stuck, and nothing is joined to it."""
    outbox: Outbox[str] = Outbox(100)
    outbox.put("large", 50)
    outbox.put("small", 1)
    assert outbox.take(10) == ["large"]
    outbox.settle()
    assert outbox.take(10) == ["small"]
    outbox.settle()
    assert outbox.take(10) == []


def test_what_was_taken_is_owed_until_it_is_settled() -> None:
    """Bytes in the sender's hands lie in memory, so they count."""
    outbox: Outbox[str] = Outbox(10)
    outbox.put("a", 8)
    outbox.put("b", 8)
    assert outbox.overdrawn
    outbox.take(8)
    assert outbox.owed == 16
    assert outbox.overdrawn
    outbox.settle()
    assert outbox.owed == 8
    assert not outbox.overdrawn
    outbox.settle()
    assert outbox.owed == 8


def test_one_fact_may_be_larger_than_the_budget() -> None:
    """It is kept; only the next fact is too much."""
    outbox: Outbox[str] = Outbox(10)
    assert not outbox.overdrawn
    outbox.put("large", 1000)
    assert outbox.overdrawn
    assert drain(outbox) == ["large"]
    assert not outbox.overdrawn


def test_states_do_not_draw_on_the_budget() -> None:
    """However large, states are bounded by their keys and never the reader's fault."""
    outbox: Outbox[str] = Outbox(10)
    outbox.put("a", 1000, "key")
    assert not outbox.overdrawn
    assert outbox.owed == 1000


def test_clear_drops_what_waits() -> None:
    """Nothing is owed after it, and what was taken can still be settled."""
    outbox: Outbox[str] = Outbox(1)
    for name in "abc":
        outbox.put(name, 4)
    outbox.take(4)
    assert outbox.clear() == 2
    outbox.settle()
    assert (outbox.owed, outbox.overdrawn, len(outbox)) == (0, False, 0)
    assert outbox.clear() == 0


@settings(deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(1, 40)),
            st.integers(1, 100),
        ),
        max_size=60,
    )
)
def test_what_is_taken_is_a_subsequence_with_every_fact_and_each_last_state(
    steps: list[tuple[str | None, int] | int],
) -> None:
    """However puts and takes interleave: all facts, in order, and states end at their newest."""
    outbox: Outbox[int] = Outbox(100)
    keys: list[str | None] = []
    sizes: list[int] = []
    taken: list[int] = []
    merged = 0
    for step in steps:
        if isinstance(step, int):
            taken += outbox.take(step)
            outbox.settle()
        else:
            merged += outbox.put(len(keys), step[1], step[0])
            keys.append(step[0])
            sizes.append(step[1])
        pending = sum(s for n, s in enumerate(sizes) if n not in taken and keys[n] is None)
        assert outbox.owed >= pending
        assert outbox.overdrawn == (pending > 100)
    rest = outbox.take(10_000)
    assert outbox.owed == sum(sizes[n] for n in rest)
    taken += rest
    assert taken == sorted(set(taken)), "a subsequence: in order, nothing twice"
    assert [n for n in taken if keys[n] is None] == [n for n, k in enumerate(keys) if k is None]
    for key in {key for key in keys if key is not None}:
        last = max(n for n, k in enumerate(keys) if k == key)
        assert max(n for n in taken if keys[n] == key) == last
    assert len(taken) + merged == len(keys)
