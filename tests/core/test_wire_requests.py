"""What clients send becomes values or refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.errors import (
    InvalidQuery,
    InvalidRequest,
    OptionNotAllowed,
    UrlNotAllowed,
    UrlsRequired,
    VidraError,
)
from vidra_trio.core.job import JobSpec
from vidra_trio.core.paths import PathRules
from vidra_trio.wire.metadata import MAX_TEXT
from vidra_trio.wire.requests import (
    MAX_OPTIONS_BYTES,
    MAX_OWNER,
    MAX_URLS,
    BadDownloadRequest,
    BulkCancel,
    Entry,
    StoredQuery,
    parse_bulk_cancel,
    parse_create,
    parse_download_request,
    parse_entry,
    parse_json,
    parse_log_query,
    parse_options_query,
)
from vidra_trio.wire.urls import OwnAddress

RULES = PathRules(download_dir="/downloads", roots=(), home="/home/u", forbidden=("/data",))
OWN = OwnAddress("127.0.0.1", 5000)
DESCRIPTION = "Local server backend for Vidra"
A, B = "http://site.example/a", "https://site.example/b?x=ñ ✓"


def create(**body: Any) -> JobSpec:  # noqa: ANN401 - JSON members
    """Parse a create body."""
    return parse_create(body, RULES, DESCRIPTION, own=OWN)


# -- JSON


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":NaN}', b'{"a":"\\ud800"}', b'"\xff"'])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    """The detail is the old backend's."""
    with pytest.raises(InvalidRequest) as refusal:
        parse_json(body)
    assert refusal.value.detail == {"json": "Invalid JSON payload"}


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"5", b"true"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """The detail is the old backend's."""
    with pytest.raises(InvalidRequest) as refusal:
        parse_json(body)
    assert refusal.value.detail == {"json": "JSON object required"}


def test_an_object_is_taken() -> None:
    """A JSON object becomes a dict."""
    assert parse_json(b'{"urls":[]}') == {"urls": []}


# -- URLs


@pytest.mark.parametrize(
    ("body", "urls"),
    [
        ({"urls": A}, (A,)),
        ({"urls": f"  {A}\r\n\n {B} \n"}, (A, B)),
        ({"urls": [f" {A} ", "", "  ", B]}, (A, B)),
        ({"url": A}, (A,)),
        ({"urls": [A], "url": B}, (A, B)),
        ({"urls": None, "url": f"{A}\n{B}"}, (A, B)),
        ({"urls": [A, A]}, (A, A)),
    ],
)
def test_urls_come_in_many_forms(body: dict[str, Any], urls: tuple[str, ...]) -> None:
    """A string is one URL a line, a list one an item, `url` comes last; blanks do not count."""
    assert create(**body).urls == urls


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"urls": None},
        {"urls": ""},
        {"urls": " \t\n"},
        {"urls": []},
        {"urls": ["", " "], "url": ""},
    ],
)
def test_without_a_url_there_is_no_job(body: dict[str, Any]) -> None:
    """Blank is as good as nothing."""
    with pytest.raises(UrlsRequired):
        create(**body)


@pytest.mark.parametrize("urls", [5, 0, True, False, {"a": 1}, {}, [1], [None], [A, 2], [[A]], 1.5])
def test_urls_of_another_type_are_refused(urls: object) -> None:
    """Numbers, objects and lists of them are a client's mistake and said so."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=urls)
    assert refusal.value.detail == {"urls": ["Not a valid string."]}


def test_a_url_of_another_type_is_refused() -> None:
    """`url` is a string or null."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, url=[B])
    assert refusal.value.detail == {"url": ["Not a valid string."]}


def test_a_forbidden_url_is_named_by_its_place() -> None:
    """The client learns which of its URLs it was."""
    with pytest.raises(UrlNotAllowed) as refusal:
        create(urls=[A, "file:///etc/passwd"])
    assert refusal.value.index == 1
    assert str(refusal.value.detail).startswith("urls[1]: ")


def test_the_servers_own_address_is_forbidden() -> None:
    """A job cannot make the server ask itself."""
    with pytest.raises(UrlNotAllowed):
        create(urls="http://localhost:5000/api/jobs")


def test_the_number_of_urls_is_bounded() -> None:
    """A thousand are fine, one more is not."""
    assert len(create(urls=[A] * MAX_URLS).urls) == MAX_URLS
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=[A] * MAX_URLS, url=A)
    assert refusal.value.detail == {"urls": [f"Longer than maximum length {MAX_URLS}."]}


# -- options


def test_options_are_cleaned_and_kept() -> None:
    """Nulls go, unknown keys stay, camelCase becomes snake_case."""
    spec = create(
        urls=A, options={"format": "best", "proxy": None, "mine": 1, "playlistItems": "1"}
    )
    assert spec.options == {"format": "best", "mine": 1, "playlist_items": "1"}
    assert create(urls=A, options=None).options == {}


@pytest.mark.parametrize("options", ["x", [1], 5, True, []])
def test_options_of_another_type_are_refused(options: object) -> None:
    """Options are an object or null."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, options=options)
    assert refusal.value.detail == {"options": {"_schema": ["Invalid input type."]}}


def test_an_option_of_the_wrong_type_is_named() -> None:
    """The detail names the option."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, options={"format": ["best"]})
    assert refusal.value.detail == {"options": {"format": ["Not a valid string."]}}


def test_dangerous_options_are_refused() -> None:
    """What runs programs is refused even to the owner of the token."""
    with pytest.raises(OptionNotAllowed):
        create(urls=A, options={"exec": "rm -rf /"})


def test_the_size_of_options_is_bounded() -> None:
    """64 KiB are plenty."""
    with pytest.raises(InvalidRequest, match="Larger than"):
        create(urls=A, options={"mine": "x" * MAX_OPTIONS_BYTES})


def test_urls_are_judged_before_options() -> None:
    """The order of checks: types, then URLs, then what options ask for."""
    with pytest.raises(UrlsRequired):
        create(options={"exec": "id"})
    with pytest.raises(InvalidRequest):
        create(options="x")


# -- owner


@pytest.mark.parametrize(
    ("body", "creator"),
    [
        ({"owner": " me "}, "me"),
        ({"creator": "you"}, "you"),
        ({"owner": "me", "creator": "you"}, "me"),
        ({"owner": "  ", "creator": "you"}, "you"),
        ({"owner": None}, None),
        ({}, None),
    ],
)
def test_the_owner_is_the_creator(body: dict[str, Any], creator: str | None) -> None:
    """`owner` wins unless it is blank."""
    assert create(urls=A, **body).creator == creator


@pytest.mark.parametrize("key", ["owner", "creator"])
@pytest.mark.parametrize("value", [{"a": 1}, 5, ["x"], "x" * (MAX_OWNER + 1)])
def test_an_odd_owner_is_refused(key: str, value: object) -> None:
    """A string of sane length, or null."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, **{key: value})
    assert list(refusal.value.detail) == [key]


# -- metadata


def test_metadata_is_recognised_in_both_spellings() -> None:
    """Known members stay, in snake_case, trimmed; blanks, nulls and unknown ones go."""
    spec = create(
        urls=A,
        metadata={
            "title": " Mi título ✓ ",
            "thumbnailUrl": "http://x/t.jpg",
            "webpage_url": "http://x/w",
            "originalUrl": None,
            "playlistTitle": "  ",
            "playlist_entry_count": "12",
            "isPlaylist": "yes",
            "client": "Vidra",
            "host": "127.0.0.1",
        },
    )
    assert spec.metadata == {
        "title": "Mi título ✓",
        "thumbnail_url": "http://x/t.jpg",
        "webpage_url": "http://x/w",
        "playlist_entry_count": 12,
        "is_playlist": True,
    }


def test_the_servers_own_description_is_not_the_jobs() -> None:
    """Clients send the server's description along; another one is kept."""
    assert create(urls=A, metadata={"description": f" {DESCRIPTION}"}).metadata == {}
    assert create(urls=A, metadata={"description": "mine"}).metadata == {"description": "mine"}


def test_what_only_the_server_knows_is_not_taken_from_clients() -> None:
    """Whether a selection is needed, and what a playlist holds, is the site's and ours to say."""
    given = {"requires_playlist_selection": True, "playlist": {"entries": [1]}, "isPlaylist": 0}
    assert create(urls=A, metadata=given).metadata == {"is_playlist": False}


@pytest.mark.parametrize("metadata", ["x", [1], 5])
def test_metadata_of_another_type_is_refused(metadata: object) -> None:
    """Metadata is an object or null."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, metadata=metadata)
    assert refusal.value.detail == {"metadata": {"_schema": ["Invalid input type."]}}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("title", 5, "Not a valid string."),
        ("title", "x" * (MAX_TEXT + 1), f"Longer than maximum length {MAX_TEXT}."),
        ("isPlaylist", "maybe", "Not a valid boolean."),
        ("isPlaylist", 1.0, "Not a valid boolean."),
        ("requiresPlaylistSelection", "perhaps", "Not a valid boolean."),
        ("playlistEntryCount", True, "Not a valid integer."),
        ("playlistEntryCount", "many", "Not a valid integer."),
        ("playlistEntryCount", 2.5, "Not a valid integer."),
        ("playlist", "x", "Not a valid mapping type."),
        ("preview", [], "Not a valid mapping type."),
    ],
)
def test_a_member_of_the_wrong_type_is_named(key: str, value: object, told: str) -> None:
    """The detail names the member in our spelling."""
    with pytest.raises(InvalidRequest) as refusal:
        create(urls=A, metadata={key: value})
    snake = "".join(f"_{char.lower()}" if char.isupper() else char for char in key)
    assert refusal.value.detail == {"metadata": {snake: [told]}}


def test_a_preview_is_normalised() -> None:
    """Of a preview stays what has the right type; it is only a guess until the site answers."""
    spec = create(
        urls=A,
        metadata={
            "preview": {
                "title": " Pre ",
                "webpageUrl": "http://x/p",
                "uploader": 5,
                "channel": " ",
                "duration_seconds": 2,
                "view_count": True,
                "is_playlist": False,
                "tags": ["a", 1, ""],
                "thumbnails": [{"url": "u", "width": 3, "id": 5}, {"width": 1}, "x"],
                "description": "d" * 900,
                "playlist": {"entries": []},
            }
        },
    )
    assert spec.metadata == {
        "preview": {
            "title": "Pre",
            "webpage_url": "http://x/p",
            "duration_seconds": 2,
            "is_playlist": False,
            "tags": ["a"],
            "thumbnails": [{"url": "u", "width": 3}],
            "description": "d" * 797 + "...",
        }
    }


def test_an_empty_preview_is_none() -> None:
    """Nothing recognised, nothing kept."""
    assert create(urls=A, metadata={"preview": {"tags": "x", "nope": 1}}).metadata == {}


def test_the_size_of_metadata_is_bounded() -> None:
    """Every list shows it, so it is small."""
    with pytest.raises(InvalidRequest, match="Larger than"):
        create(urls=A, metadata={"preview": {"tags": ["x" * MAX_OPTIONS_BYTES]}})


# -- bulk cancel


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"job_ids": "a"}, BulkCancel(("a",))),
        ({"job_ids": ["a", " b ", ""]}, BulkCancel(("a", "b"))),
        ({"jobIds": ["a"]}, BulkCancel(("a",))),
        ({"jobIds": ["a"], "job_ids": ["b"]}, BulkCancel(("a",))),
        ({"scope": " ALL "}, BulkCancel(everything=True)),
        ({"scope": "all", "owner": " me "}, BulkCancel(everything=True, owner="me")),
        ({"scope": " ", "job_ids": ["a"]}, BulkCancel(("a",))),
    ],
)
def test_a_bulk_cancel_names_jobs_or_all(body: dict[str, Any], asked: BulkCancel) -> None:
    """Ids in either spelling, or a scope, perhaps of one owner."""
    assert parse_bulk_cancel(body) == asked


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "job_ids or scope required"),
        ({"job_ids": []}, "job_ids or scope required"),
        ({"job_ids": [" "]}, "job_ids or scope required"),
        ({"scope": "everything"}, "unsupported scope: everything"),
        ({"scope": 5}, {"scope": ["Not a valid string."]}),
        ({"scope": "all", "owner": 5}, {"owner": ["Not a valid string."]}),
        ({"job_ids": 5}, {"job_ids": ["Not a valid string."]}),
        ({"job_ids": [1, 2]}, {"job_ids": ["Not a valid string."]}),
        ({"jobIds": {"a": 1}}, {"jobIds": ["Not a valid string."]}),
    ],
)
def test_a_bulk_cancel_without_meaning_is_refused(body: dict[str, Any], detail: object) -> None:
    """What is wrong is said in the old backend's words."""
    with pytest.raises(InvalidRequest) as refusal:
        parse_bulk_cancel(body)
    assert refusal.value.detail == detail


# -- queries


@pytest.mark.parametrize(
    ("path_id", "query", "entry"),
    [
        ("j", {}, Entry("j", "j")),
        ("j", {"entry_id": " ", "entry_index": " "}, Entry("j", "j")),
        ("j", {"entry_id": " abc "}, Entry("j", "j", "abc")),
        ("j", {"entry_index": " 2 "}, Entry("j", "j", None, 2)),
        ("j", {"entry_index": "0"}, Entry("j", "j")),
        ("j", {"entry_index": "-1"}, Entry("j", "j")),
        ("j::abc", {}, Entry("j", "j::abc", "abc")),
        ("j::", {}, Entry("j", "j::")),
        ("j::a::b", {}, Entry("j", "j::a::b", "a::b")),
        ("j::entry-3", {}, Entry("j", "j::entry-3", None, 3)),
        ("j::3", {}, Entry("j", "j::3", None, 3)),
        ("j::entry-0", {}, Entry("j", "j::entry-0", "entry-0")),
        ("j::entry-x", {}, Entry("j", "j::entry-x", "entry-x")),
        ("j::3", {"entry_index": "2"}, Entry("j", "j::3", None, 2)),
        ("j::abc", {"entry_id": "q"}, Entry("j", "j::abc", "q")),
        ("j::3", {"entry_id": "q"}, Entry("j", "j::3", "q")),
        ("j::abc", {"entry_index": "2"}, Entry("j", "j::abc", "abc", 2)),
    ],
)
def test_an_entry_is_addressed_by_query_or_fragment(
    path_id: str, query: dict[str, str], entry: Entry
) -> None:
    """The query wins over the fragment; a number is a place in the playlist."""
    assert parse_entry(path_id, query) == entry
    assert entry.given is (entry.entry_id is not None or entry.index is not None)


@pytest.mark.parametrize("text", ["abc", "1.5", "1_0", "\u0661", "9" * 40])
def test_an_odd_entry_index_is_refused(text: str) -> None:
    """Its own code."""
    with pytest.raises(InvalidQuery) as refusal:
        parse_entry("j", {"entry_index": text})
    assert refusal.value.code == "entry_index_invalid"


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, StoredQuery()),
        ({"since": "17"}, StoredQuery(since=17)),
        ({"since": " -1 ", "detail": "FULL"}, StoredQuery(since=-1, detail=True)),
        *[({"detail": word}, StoredQuery(detail=True)) for word in ("true", "1", "yes", "on")],
        *[({"detail": word}, StoredQuery()) for word in ("false", "0", "no", "off", "", "maybe")],
    ],
)
def test_options_and_logs_share_their_query(query: dict[str, str], wanted: StoredQuery) -> None:
    """`since` is an integer, `detail` a flag that anything odd leaves unset."""
    assert parse_options_query(query) == wanted
    assert parse_log_query(query) == wanted


def test_a_log_query_has_a_limit() -> None:
    """How many of the newest lines; no maximum."""
    assert parse_log_query({"limit": "2"}) == StoredQuery(limit=2)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"since": "abc"}, "since_must_be_integer"),
        ({"since": ""}, "since_must_be_integer"),
        ({"since": "9" * 40, "limit": "0"}, "since_must_be_integer"),
        ({"limit": "abc"}, "limit_must_be_integer"),
        ({"limit": ""}, "limit_must_be_integer"),
        ({"limit": "0"}, "limit_greater_than_zero"),
        ({"limit": "-3"}, "limit_greater_than_zero"),
    ],
)
def test_an_odd_query_has_its_own_code(query: dict[str, str], code: str) -> None:
    """Each parameter is refused in its own words, `since` first."""
    with pytest.raises(InvalidQuery) as refusal:
        parse_log_query(query)
    assert refusal.value.code == code


# -- the downloads socket


@pytest.mark.parametrize(
    ("message", "action"),
    [
        ('{"action":"descargar","urls":"u"}', "descargar"),
        ('{"accion":" DESCARGAR_playlist ","url":"u","options":null}', "descargar_playlist"),
        (b'{"action":"extraer_informacion","urls":["u"],"options":{},"download":true}',
         "extraer_informacion"),
    ],
)  # fmt: skip
def test_a_download_request_has_an_action(message: str | bytes, action: str) -> None:
    """In either language, in any case, as text or bytes."""
    assert parse_download_request(message) == action


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        ("not json", {"message": "invalid JSON payload"}),
        ("\ud800", {"message": "invalid JSON payload"}),
        (b"\xff", {"message": "invalid JSON payload"}),
        ("[]", {"message": "payload must be an object"}),
        ("{}", {
            "message": "invalid payload",
            "errors": {
                "action": ["Missing data for required field."],
                "urls": ["At least one URL is required"],
            },
        }),
        ('{"action":"x","urls":["u"]}',
         {"message": "invalid payload", "errors": {"action": ["unknown action 'x'"]}}),
        ('{"action":5,"urls":[5],"options":[],"download":"x"}', {
            "message": "invalid payload",
            "errors": {
                "action": ["Not a valid string."],
                "urls": ["Not a valid string."],
                "options": ["Not a valid mapping type."],
                "download": ["Not a valid boolean."],
            },
        }),
        ('{"action":"descargar","url":5}',
         {"message": "invalid payload", "errors": {"url": ["Not a valid string."]}}),
    ],
)  # fmt: skip
def test_a_bad_download_request_is_answered_in_its_own_form(
    message: str | bytes, payload: dict[str, object]
) -> None:
    """The old socket's error forms, word for word."""
    with pytest.raises(BadDownloadRequest) as refusal:
        parse_download_request(message)
    assert refusal.value.payload == payload


# -- anything


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
_KNOWN = st.sampled_from(
    ["urls", "url", "options", "metadata", "owner", "creator", "job_ids", "jobIds", "scope"]
)


@given(st.dictionaries(_KNOWN, _JSON))
def test_no_body_raises_anything_but_a_refusal(body: dict[str, Any]) -> None:
    """A body is parsed, or refused with a code of the 400 family."""
    for parse in (lambda: create(**body), lambda: parse_bulk_cancel(body)):
        status = 400
        try:
            parse()
        except VidraError as error:
            status = error.status_hint
        assert status == 400
