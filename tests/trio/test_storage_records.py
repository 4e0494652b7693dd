"""The file forms: what is written, what is understood, what is kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.job import LOG_LINES, JobSpec, LogEntry, Snapshot
from vidra_trio.core.progress import Progress
from vidra_trio.core.states import JobKind, JobState, Level
from vidra_trio.storage.records import (
    RejectedEntry,
    dump_job,
    dump_log,
    parse_job,
    parse_log,
    parse_version,
)
from vidra_trio.storage.salvage import Damage, Dropped, parse, sound
from vidra_trio.wire.words import dumps

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LEAST: dict[str, Any] = {"job_id": "j-1", "urls": ["http://a/"]}


def read(**members: object) -> Snapshot:
    """Read a job with the least it needs and `members`."""
    return parse_job(LEAST | members, NOW)


def again(snapshot: Snapshot, *, has_logs: bool = True) -> Snapshot:
    """Write a job, and read it with the clock somewhere else."""
    form, _ = parse(dumps(dump_job(snapshot, has_logs=has_logs)))
    return parse_job(form, NOW + timedelta(days=1))


# -- round trip

words = st.text(st.characters(codec="utf-8"), max_size=12)
texts = words.filter(lambda text: bool(text.strip()))
instants = st.integers(0, 2**52).map(
    lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)
numbers = st.floats(0, 1e15) | st.integers(0, 2**53).map(float)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | words | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
# Members that we take apart have tests of their own.
unknown = st.dictionaries(texts.map("x_".__add__), values, max_size=3)
objects = st.dictionaries(texts.map("m_".__add__), values, max_size=3)
files = st.sets(texts, max_size=3).map(lambda found: tuple(sorted(found)))
progresses = st.builds(
    Progress,
    **dict.fromkeys(
        ("status", "state", "stage", "stage_name", "message", "filename", "tmpfilename"),
        st.none() | words,
    ),
    **dict.fromkeys(("percent", "stage_percent", "speed", "elapsed"), st.none() | numbers),
    **dict.fromkeys(
        ("downloaded_bytes", "total_bytes", "eta", "current_item", "total_items"),
        st.none() | st.integers(0, 2**53),
    ),
    settled_bytes=st.just(0),
)
snapshots = st.builds(
    Snapshot,
    job_id=st.text("abzABZ019_-", min_size=1, max_size=64),
    spec=st.builds(
        JobSpec,
        urls=st.lists(texts.map(str.strip), min_size=1, max_size=3).map(tuple),
        options=st.just({}),
        metadata=objects,
        creator=st.none() | texts,
    ),
    state=st.sampled_from(JobState),
    created_at=instants,
    kind=st.sampled_from(JobKind),
    started_at=st.none() | instants,
    finished_at=st.none() | instants,
    error=st.none() | texts,
    error_code=st.none() | texts,
    has_error_logs=st.booleans(),
    progress=progresses,
    metadata=objects,
    preview=st.none() | objects,
    finished_items=st.lists(st.integers(0, 2**31), max_size=3).map(tuple),
    generated_files=files,
    partial_files=files,
    main_file=st.none() | texts,
    options_version=st.none(),
    logs_version=st.none() | st.integers(0, 2**62),
    extra=unknown,
)


@given(snapshots)
def test_a_job_comes_back_as_it_went(snapshot: Snapshot) -> None:
    """Snapshot, file form, JSON text, file form, snapshot: nothing is lost or added."""
    assert again(snapshot) == snapshot


@given(snapshots)
def test_what_the_older_reader_needs_is_there(snapshot: Snapshot) -> None:
    """The members that it requires always have the types that it requires."""
    form = json.loads(dumps(dump_job(snapshot, has_logs=False)))
    assert isinstance(form["job_id"], str)
    assert form["urls"]
    assert isinstance(form["metadata"]["requires_playlist_selection"], bool)
    assert form["kind"] in {"unknown", "video", "playlist"}
    assert form["status"] != "selecting"
    assert form["created_at"].endswith("Z")
    datetime.fromisoformat(form["created_at"][:-1])
    assert [key for key, value in form.items() if value is None and key not in snapshot.extra] == []


@given(st.lists(
    st.builds(
        LogEntry,
        timestamp=instants,
        level=st.sampled_from(Level),
        message=texts,
        playlist_index=st.none() | st.integers(0, 2**31),
        playlist_entry_id=st.none() | texts,
    ),
    max_size=5,
).map(tuple))  # fmt: skip
def test_a_log_comes_back_as_it_went(logs: tuple[LogEntry, ...]) -> None:
    """Every line with all its members."""
    assert parse_log(parse(dumps(dump_log(logs)))[0]) == logs


def test_the_newest_lines_are_kept() -> None:
    """A log is cut at its beginning, when written and when read."""
    logs = tuple(LogEntry(NOW, Level.INFO, str(n)) for n in range(LOG_LINES + 5))
    written = dump_log(logs)
    assert [len(written), written[0]["message"]] == [LOG_LINES, "5"]
    many = [{"timestamp": "2026-01-01T00:00:00Z", "level": "info", "message": "m"}] * 300
    assert len(parse_log(many)) == LOG_LINES


# -- the older layout

OLD = {
    "job_id": "6f0c0000-0000-4000-8000-000000000001",
    "urls": ["https://example.org/v"],
    "metadata": {
        "title": "Título ñ ✓",
        "preview": {"title": "T", "extractor": "generic"},
        "requires_playlist_selection": False,
    },
    "status": "completed",
    "kind": "playlist",
    "creator": "flutter",
    "created_at": "2025-01-02T03:04:05.678901Z",
    "started_at": "2025-01-02T03:04:06Z",
    "finished_at": "2025-01-02T03:05:00.123456Z",
    "has_error_logs": True,
    "progress": {
        "status": "finished",
        "stage": "COMPLETED",
        "percent": 100.0,
        "downloaded_bytes": 200.0,
        "total_bytes": 200.0,
        "remaining_bytes": 0.0,
        "speed": 1.5,
        "eta": 0.0,
        "ctx_id": "c",
        "playlist_current_entry_id": "e",
        "playlist_index": 2,
    },
    "playlist_total_items": 3,
    "playlist_completed_indices": [1, 3],
    "playlist_entry_errors": [{"index": 2, "message": "m"}],
    "playlist_entries_version": 1735787045000,
    "generated_files": ["/downloads/T.mp4"],
    "partial_files": ["/downloads/T.mp4.part"],
    "main_file": "/downloads/T.mp4",
    "options_version": 1735787045678,
    "options_external": True,
    "logs_version": 1735787100123,
    "logs_external": True,
}


def test_an_old_job_is_written_as_it_was_found() -> None:
    """Reading and writing what the older server wrote changes nothing, playlists included."""
    snapshot = parse_job(OLD, NOW)
    with_options = Snapshot(
        **{
            **{name: getattr(snapshot, name) for name in Snapshot.__slots__},
            "spec": JobSpec(snapshot.spec.urls, {"a": 1}, snapshot.spec.metadata, "flutter"),
        }
    )
    assert dump_job(with_options, has_logs=True) == OLD


def test_an_old_job_is_understood() -> None:
    """Its members are where the rest of the package looks for them."""
    snapshot = parse_job(OLD, NOW)
    assert snapshot.state is JobState.COMPLETED
    assert snapshot.kind is JobKind.PLAYLIST
    assert snapshot.preview == {"title": "T", "extractor": "generic"}
    assert snapshot.metadata == {"title": "Título ñ ✓"}
    assert snapshot.spec.metadata == {"title": "Título ñ ✓", "preview": snapshot.preview}
    assert snapshot.progress.downloaded_bytes == 200
    assert isinstance(snapshot.progress.downloaded_bytes, int)
    assert snapshot.created_at == datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert snapshot.extra["playlist_completed_indices"] == [1, 3]


def test_what_goes_without_saying_is_not_written() -> None:
    """A fresh job is short; versions are written with the files that have them only."""
    fresh = Snapshot("j", JobSpec(("u",)), JobState.QUEUED, NOW, options_version=5, logs_version=6)
    assert dump_job(fresh, has_logs=False) == {
        "job_id": "j",
        "urls": ["u"],
        "metadata": {"requires_playlist_selection": False},
        "status": "queued",
        "kind": "unknown",
        "created_at": "2026-01-02T03:04:05.678901Z",
    }


# -- lenient reading


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"urls": ["u"]},
        {"job_id": 5, "urls": ["u"]},
        {"job_id": " ", "urls": ["u"]},
        {"job_id": "../../evil", "urls": ["u"]},
        {"job_id": "a.b", "urls": ["u"]},
        {"job_id": "x" * 65, "urls": ["u"]},
        {"job_id": "j\n", "urls": []},
        {"job_id": "j"},
        {"job_id": "j", "urls": "u"},
        {"job_id": "j", "urls": [5, None, " "]},
    ],
)
def test_what_is_no_job(form: dict[str, Any]) -> None:
    """Without an id that may be a file name, or without a URL, it is refused; one line says why."""
    with pytest.raises(RejectedEntry) as caught:
        parse_job(form, NOW)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "wrong", [None, 5, True, "", " ", [], ["x"], {}, {"a": 1}, [None, 5, True, {}], 1.5, -1]
)
def test_wrong_types_cost_the_member(wrong: object) -> None:
    """Whatever stands in a member, the job is read, and can be written and read again."""
    names = [name for name in OLD if name not in ("job_id", "urls")]
    for name in names:
        snapshot = parse_job(OLD | {name: wrong}, NOW)
        assert again(snapshot) == again(again(snapshot))
    inside = dict.fromkeys(("percent", "downloaded_bytes", "stage", "current_item"), wrong)
    progress = read(progress=inside).progress
    assert again(read(progress=inside)).progress == progress
    ours = read(vidra_trio={"error_code": wrong, "finished_items": wrong, "metadata": wrong})
    assert again(ours) == again(again(ours))


@pytest.mark.parametrize(
    ("member", "value", "field", "expected"),
    [
        ("job_id", " j-2 ", "job_id", "j-2"),
        ("created_at", "yesterday", "created_at", NOW),
        ("created_at", "2025-01-02T03:04:05+02:00", "created_at",
         datetime(2025, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("created_at", "2025-01-02T03:04:05", "created_at",
         datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("finished_at", "9999-12-31T23:59:59-23:00", "finished_at", None),
        ("progress", {"percent": 10**400, "eta": -(10**400)}, "progress", Progress()),
        ("kind", "movie", "kind", JobKind.UNKNOWN),
        ("has_error_logs", 1, "has_error_logs", False),
        ("generated_files", ["b", "a", "a", " ", 5], "generated_files", ("a", "b")),
        ("main_file", "/d/ends in space ", "main_file", "/d/ends in space "),
        ("options_version", True, "options_version", None),
        ("metadata", {"requires_playlist_selection": True}, "metadata",
         {"requires_playlist_selection": True}),
        ("metadata", {"preview": "no object"}, "metadata", {}),
        ("vidra_trio", {"finished_items": [1, True, -1, "2"]}, "finished_items", (1,)),
        ("resume_requested", True, "extra", {}),
        ("playlist_progress", {"a": 1}, "extra", {}),
        ("progress", {"percent": 5, "eta": 2.6, "new": [1]}, "extra", {"progress": {"new": [1]}}),
        ("vidra_trio", {"error_code": "c", "new": 1}, "extra", {"vidra_trio": {"new": 1}}),
    ],
)  # fmt: skip
def test_members(member: str, value: object, field: str, expected: object) -> None:
    """Each member, in the spellings that are found on disks."""
    assert getattr(read(**{member: value}), field) == expected


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_comes_back(state: JobState) -> None:
    """Interrupted ones too: what becomes of them is decided elsewhere."""
    assert again(Snapshot("j", JobSpec(("u",)), state, NOW)).state is state


@pytest.mark.parametrize(
    ("status", "selection", "state"),
    [
        ("RUNNING", False, JobState.RUNNING),
        (" Completed ", False, JobState.COMPLETED),
        (None, False, JobState.QUEUED),
        ("", False, JobState.QUEUED),
        (7, False, JobState.QUEUED),
        ("selecting", False, JobState.FAILED),
        ("starting", True, JobState.SELECTING),
        ("running", True, JobState.SELECTING),
        ("paused", True, JobState.SELECTING),
        ("completed", True, JobState.COMPLETED),
        ("cancelled", True, JobState.CANCELLED),
        ("cancelling", True, JobState.CANCELLING),
        ("starting", "true", JobState.STARTING),
    ],
)
def test_status_words(status: object, selection: object, state: JobState) -> None:
    """Any case; a pending selection counts unless the job is over or being cancelled."""
    assert read(status=status, selection_required=selection).state is state


def test_an_unknown_status_is_a_failure() -> None:
    """So the job can be deleted and retried; the word is in its error, unless it had one."""
    assert read(status="dancing\n").state is JobState.FAILED
    assert "dancing" in (read(status="dancing\n").error or "")
    assert read(status="dancing", error="e").error == "e"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("text", None),
        ({}, None),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "info"}, None),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "info", "message": ""}, None),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": 5, "message": "m"}, None),
        ({"timestamp": "soon", "level": "info", "message": "m"}, None),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "STDERR", "message": "m"}, Level.ERROR),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "Warn", "message": "m"}, Level.WARNING),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "loud", "message": "m"}, Level.INFO),
        ({"timestamp": "2026-01-01T00:00:00Z", "level": "debug", "message": "m",
          "playlist_index": True}, Level.DEBUG),
    ],
)  # fmt: skip
def test_log_lines(line: object, expected: Level | None) -> None:
    """A line that lacks what every line has costs itself; any level is read."""
    assert [entry.level for entry in parse_log([line])] == ([expected] if expected else [])
    assert parse_log({"not": "a list"}) == ()


@pytest.mark.parametrize(
    ("value", "version"),
    [(5, 5), ("5", 5), (" 5 ", 5), (5.0, None), (True, None), ("5.0", None), (None, None)],
)
def test_versions(value: object, version: int | None) -> None:
    """An integer, or text that looks like one."""
    assert parse_version(value) == version


# -- damaged JSON


@pytest.mark.parametrize(
    ("text", "value", "damage"),
    [
        ('{"a": NaN, "b": [1, Infinity, -Infinity, 2]}', {"b": [1, 2]}, 3),
        ('{"a": 1e999}', {}, 1),
        ('{"a": "x\\ud800y"}', {"a": "x\ufffdy"}, 1),
        ('{"\\ud800": 1}', {"\ufffd": 1}, 1),
        ('{"a": ' + "9" * 5000 + "}", {}, 1),
        ('{"a": NaN, "b": ' + "9" * 30 + "}", {}, 2),
        ('{"a": 18446744073709551615}', {"a": 2**64 - 1}, 0),
        ("\ufeff{}", {}, 0),
    ],
)
def test_a_bad_value_costs_itself(text: str, value: object, damage: int) -> None:
    """NaN, Infinity, half characters and endless numbers go; the rest stays; it is counted."""
    found = Damage()
    found_value, clean = parse(text.encode())
    assert sound(found_value, found) == value
    assert found.values == damage
    assert not (clean and damage)


def test_depth_costs_the_deep_part() -> None:
    """A hundred levels are kept, what lies deeper is not."""
    deep, _ = parse(b"[" * 500 + b"1" + b"]" * 500)
    found = Damage()
    kept = dumps(sound({"a": deep, "b": 1}, found))
    assert found.values == 1
    assert json.loads(kept)["b"] == 1
    assert kept.count(b"[") == 99


@pytest.mark.parametrize("data", [b"", b" ", b"{", b"\xff", b"\x00" * 50, b"[" * 200_000])
def test_what_is_no_json(data: bytes) -> None:
    """That is an error, of one kind."""
    with pytest.raises(ValueError, match=r"."):
        parse(data)


def test_what_json_cannot_hold_is_dropped() -> None:
    """A value of another kind than JSON's is no reason to lose the document."""
    assert sound({"a": {1, 2}, "b": ({"c": 1},), 5: 6}, Damage()) == {"b": [{"c": 1}], "5": 6}
    assert sound(object(), Damage()) is Dropped
