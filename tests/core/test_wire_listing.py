"""Which jobs a list shows, and where its next page begins."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.errors import InvalidQuery
from vidra_trio.core.job import JobSpec, Snapshot
from vidra_trio.core.states import JobKind, JobState
from vidra_trio.wire.listing import cursor, parse_list_query

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def job(job_id: str, minute: int = 0, **members: object) -> Snapshot:
    """Return a completed job."""
    made = EPOCH + timedelta(minutes=minute)
    plain = Snapshot(job_id, JobSpec(("https://site.example/Watch",)), JobState.COMPLETED, made)
    return replace(plain, **members)  # type: ignore[arg-type]  # a test's shorthand


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, True),
        ({"status": ""}, True),
        ({"status": " , "}, True),
        ({"status": "failed, COMPLETED"}, True),
        ({"status": "failed,paused"}, False),
        ({"status": "nonsense"}, False),
        ({"kind": "VIDEO"}, True),
        ({"kind": "playlist"}, False),
        ({"owner": "me"}, True),
        ({"owner": "Me"}, False),
        ({"q": "watch"}, True),
        ({"q": "A Cat"}, True),
        ({"q": "asked"}, True),
        ({"q": "cat.mp4"}, True),
        ({"q": "info.json"}, True),
        ({"q": "dog"}, False),
        ({"q": "cat", "status": "failed"}, False),
    ],
)
def test_a_job_is_found_by_all_that_is_asked(query: dict[str, str], found: bool) -> None:
    """Every word that is given counts; blank ones ask for nothing."""
    one = job(
        "a",
        kind=JobKind.VIDEO,
        spec=JobSpec(("https://site.example/Watch",), creator="me"),
        preview={"title": "A cat"},
        metadata={"title": "As asked for"},
        generated_files=("/d/x.info.json",),
        main_file="/d/A Cat.mp4",
    )
    assert parse_list_query(query).matches(one) is found


def test_titles_may_be_anything() -> None:
    """What a site or a client calls a title need not be one."""
    one = job("a", preview={"title": 7}, metadata={"title": None})
    assert not parse_list_query({"q": "7"}).matches(one)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"limit": "x"}, "limit_must_be_integer"),
        ({"limit": ""}, "limit_must_be_integer"),
        ({"limit": "0"}, "limit_greater_than_zero"),
        ({"cursor": "x"}, "cursor_not_usable"),
        ({"cursor": "5-../x"}, "cursor_not_usable"),
        ({"cursor": f"-{10**18 - 1}-a"}, "cursor_not_usable"),
        ({"cursor": f"{10**20}-a"}, "cursor_not_usable"),
    ],
)
def test_what_cannot_be_meant_is_refused(query: dict[str, str], code: str) -> None:
    """With a code, and the member's name."""
    with pytest.raises(InvalidQuery) as refused:
        parse_list_query(query)
    assert refused.value.code == code
    assert next(iter(query)) in str(refused.value)


def test_a_page_begins_after_the_last_job_of_the_one_before() -> None:
    """Jobs of the same instant keep their order; one that is gone leaves its place."""
    long_ago = job("long-ago", -60_000_000)
    assert parse_list_query({"cursor": cursor(long_ago)}).start([long_ago]) == 1
    jobs = [job("a"), job("b"), job("c"), job("d", 1), job("e", 2)]
    for index, last in enumerate(jobs):
        wanted = parse_list_query({"cursor": cursor(last)})
        assert wanted.start(jobs) == index + 1
    gone = parse_list_query({"cursor": cursor(jobs.pop(3))})
    assert gone.start(jobs) == 3
    gone = parse_list_query({"cursor": cursor(jobs.pop(1))})
    assert gone.start(jobs) == 0  # rather one twice than one never
    assert parse_list_query({"cursor": cursor(job("z", 9))}).start(jobs) == 3
    assert parse_list_query({}).start(jobs) == 0


@given(minutes=st.lists(st.integers(0, 3), max_size=8), limit=st.integers(1, 4))
def test_pages_show_everybody_once(minutes: list[int], limit: int) -> None:
    """However they are cut."""
    jobs = [job(f"j{number}", minute) for number, minute in enumerate(sorted(minutes))]
    seen: list[Snapshot] = []
    after: dict[str, str] = {}
    while page := jobs[parse_list_query(after).start(jobs) :][:limit]:
        seen += page
        after = {"cursor": cursor(page[-1])}
    assert seen == jobs
