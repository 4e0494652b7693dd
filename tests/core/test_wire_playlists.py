"""What clients ask of a playlist becomes values or refusals."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.errors import InvalidQuery, InvalidRequest
from vidra_trio.wire.playlists import (
    MAX_PAGE,
    EntryTargets,
    PlaylistQuery,
    parse_entry_targets,
    parse_items_query,
    parse_playlist_query,
    parse_selection,
)

# -- queries


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, PlaylistQuery(entries=False)),
        ({"include": ""}, PlaylistQuery(entries=False)),
        ({"include": "summary,more"}, PlaylistQuery(entries=False)),
        ({"include": "entries"}, PlaylistQuery(entries=True)),
        ({"include": "summary, ENTRIES ,"}, PlaylistQuery(entries=True)),
        ({"include": "entries_or_so"}, PlaylistQuery(entries=False)),
        ({"detail": "true"}, PlaylistQuery(entries=True)),
        ({"detail": "Full"}, PlaylistQuery(entries=True)),
        ({"detail": "no"}, PlaylistQuery(entries=False)),
        ({"detail": "perhaps"}, PlaylistQuery(entries=False)),
        ({"include": "entries", "detail": "0"}, PlaylistQuery(entries=True)),
        ({"include": "entries", "limit": "3"}, PlaylistQuery(entries=True, limit=3)),
        ({"limit": "3", "offset": "2"}, PlaylistQuery(entries=False)),
    ],
)
def test_a_playlist_is_asked_for(query: dict[str, str], wanted: PlaylistQuery) -> None:
    """Entries come when asked for in either way; a page of none is no page."""
    assert parse_playlist_query(query) == wanted


@pytest.mark.parametrize(
    ("query", "offset", "limit"),
    [
        ({}, 0, None),
        ({"offset": " 7 "}, 7, None),
        ({"offset": "+0", "limit": "1"}, 0, 1),
        ({"limit": "500"}, 0, 500),
        ({"limit": "501"}, 0, MAX_PAGE),
        ({"offset": "9" * 18, "limit": "9" * 18}, 10**18 - 1, MAX_PAGE),
    ],
)
def test_a_page_of_entries(query: dict[str, str], offset: int, limit: int | None) -> None:
    """From the first and all of them, unless said otherwise; a huge limit is a smaller one."""
    assert parse_items_query(query) == PlaylistQuery(entries=True, offset=offset, limit=limit)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"offset": "x"}, "offset_must_be_integer"),
        ({"offset": ""}, "offset_must_be_integer"),
        ({"offset": "1.5"}, "offset_must_be_integer"),
        ({"offset": "9" * 5000}, "offset_must_be_integer"),
        ({"offset": "-1"}, "offset_must_be_non_negative"),
        ({"limit": "x"}, "limit_must_be_integer"),
        ({"limit": " "}, "limit_must_be_integer"),
        ({"limit": "0"}, "limit_greater_than_zero"),
        ({"limit": "-5"}, "limit_greater_than_zero"),
        ({"offset": "x", "limit": "x"}, "offset_must_be_integer"),
    ],
)
def test_a_page_that_is_none(query: dict[str, str], code: str) -> None:
    """Each mistake has its own code, whether entries are asked for or not."""
    for parse in (parse_items_query, parse_playlist_query):
        with pytest.raises(InvalidQuery) as refused:
            parse(query)
        assert (refused.value.code, refused.value.status_hint) == (code, 400)


# -- the selection


@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        (None, ()),
        ([], ()),
        ([3, 1, 2], (1, 2, 3)),
        (["3", " 1 ", "+2"], (1, 2, 3)),
        ([2, "2", 2], (2,)),
        ([1, None, 2], (1, 2)),
        ([0, -1, "-7", 4], (4,)),
        ([None], ()),
        ([0], ()),
    ],
)
def test_entries_are_selected(indices: object, wanted: tuple[int, ...]) -> None:
    """Numbers and their spellings, each once, in order; nothing at all means everything."""
    assert parse_selection(json.dumps({"indices": indices}).encode()) == wanted


def test_everything_is_selected_without_a_word() -> None:
    """An empty object is how the client says "all of it"."""
    assert parse_selection(b"{}") == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'{"indices": "1,2"}', b'{"indices": 1}', b'{"indices": true}',
     b'{"indices": {"1": 1}}', b'\xff', b'{"indices": [NaN]}'],
)  # fmt: skip
def test_a_selection_that_is_no_list(body: bytes) -> None:
    """Whatever else is wrong with the body, the old sentence says it."""
    with pytest.raises(InvalidRequest) as refused:
        parse_selection(body)
    assert refused.value.detail == "indices must be a list"


@pytest.mark.parametrize("item", ["x", "", "1.0", 1.5, True, False, [1], {}, "9" * 30])
def test_a_selection_of_something_else(item: object) -> None:
    """What is no integer is not rounded, and not left out either."""
    with pytest.raises(InvalidRequest) as refused:
        parse_selection(json.dumps({"indices": [1, item]}).encode())
    assert refused.value.detail == "indices must be integers"


# -- the targets of a command


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, EntryTargets()),
        ({"indices": None, "entry_ids": None}, EntryTargets()),
        ({"indices": [2, "1", 2]}, EntryTargets((1, 2))),
        ({"entry_ids": "a"}, EntryTargets((), ("a",))),
        ({"entry_ids": [" b ", "a", "b", ""]}, EntryTargets((), ("b", "a"))),
        ({"entryIds": ["c"], "entry_ids": ["a"]}, EntryTargets((), ("c",))),
        ({"entryIds": None, "entry_ids": ["a"]}, EntryTargets((), ("a",))),
        ({"indices": [1], "entryIds": "a", "other": 5}, EntryTargets((1,), ("a",))),
    ],
)
def test_targets(body: dict[str, object], wanted: EntryTargets) -> None:
    """By position, by id, in both spellings, or both ways at once."""
    assert parse_entry_targets(body) == wanted


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"indices": "1"}, {"indices": ["Not a valid list."]}),
        ({"indices": {}}, {"indices": ["Not a valid list."]}),
        ({"indices": ["x"]}, {"indices": ["Not a valid integer."]}),
        ({"indices": [True]}, {"indices": ["Not a valid integer."]}),
        ({"entry_ids": 5}, {"entry_ids": ["Not a valid string."]}),
        ({"entryIds": [None]}, {"entryIds": ["Not a valid string."]}),
    ],
)
def test_targets_of_a_wrong_type(body: dict[str, object], detail: object) -> None:
    """The member is named as it was spelled."""
    with pytest.raises(InvalidRequest) as refused:
        parse_entry_targets(body)
    assert refused.value.detail == detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"indices": JSON, "entry_ids": JSON}))
def test_nothing_else_comes_of_any_body(body: object) -> None:
    """A value or a refusal of ours, never another exception; positions are unique and real."""
    text = json.dumps(body).encode()
    with suppress(InvalidRequest):
        chosen = parse_selection(text)
        assert list(chosen) == sorted({index for index in chosen if index > 0})
    if isinstance(body, dict):
        with suppress(InvalidRequest):
            parse_entry_targets(body)
