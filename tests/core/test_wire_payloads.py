"""What leaves the server, member by member."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.events import (
    Event,
    InfoChanged,
    JobChanged,
    JobDeleted,
    Logged,
    OverviewChanged,
    ProgressChanged,
)
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot, Summary
from vidra_trio.core.progress import Progress
from vidra_trio.core.states import JobKind, JobState, Level, Reason
from vidra_trio.wire import payloads
from vidra_trio.wire.requests import Entry, StoredQuery

T = datetime(2026, 1, 3, 1, 2, 3, tzinfo=UTC)
NOW = "2026-01-03T01:02:03Z"
JOB = Snapshot(
    job_id="j",
    spec=JobSpec(("http://site.example/v",), {"format": "best", "password": "hush"}, {}, "me"),
    state=JobState.RUNNING,
    created_at=T,
    options_version=7,
    logs_version=9,
)
LINES = (
    LogEntry(T, Level.INFO, "one"),
    LogEntry(T, Level.WARNING, "two", 2, "b"),
    LogEntry(T, Level.ERROR, "three", 3, "c"),
    LogEntry(T, Level.INFO, "four", 2, "b"),
)
ALL = Entry("j", "j")


def read(event: Event) -> tuple[str, dict[str, Any]]:
    """Dump an event and read it back."""
    message = json.loads(payloads.dump_event(event))
    assert list(message) == ["event", "payload"]
    return message["event"], message["payload"]


# -- jobs


def test_the_list_form_of_a_fresh_job() -> None:
    """What is not known is not there, except the flag that opens the selection dialog."""
    assert payloads.job_list(JOB) == {
        "job_id": "j",
        "status": "running",
        "kind": "unknown",
        "creator": "me",
        "created_at": NOW,
        "metadata": {"requires_playlist_selection": False},
        "options_external": True,
        "logs_external": True,
        "options_version": 7,
        "logs_version": 9,
    }


def test_the_detail_form_adds_what_is_bulky() -> None:
    """URLs, options with their secrets masked, the log, sorted files."""
    job = replace(JOB, generated_files=("/b", "/a"), partial_files=("/p",), main_file="/a")
    detail = payloads.job_detail(job, LINES[:1])
    assert detail["urls"] == ["http://site.example/v"]
    assert detail["options"] == {"format": "best", "password": "***"}
    assert detail["logs"] == [{"timestamp": NOW, "level": "info", "message": "one"}]
    assert detail["generated_files"] == ["/a", "/b"]
    assert detail["partial_files"] == ["/p"]
    assert detail["main_file"] == "/a"
    assert detail["options_external"] is True
    assert detail["logs_external"] is True


def test_no_versions_no_external_parts() -> None:
    """Without a version there is nothing to fetch, and the detail says so."""
    job = replace(JOB, options_version=None, logs_version=None)
    detail = payloads.job_detail(job, ())
    assert (detail["options_external"], detail["logs_external"]) == (False, False)
    assert not {"options_version", "logs_version", "generated_files"} & set(detail)


def test_empty_options_are_never_announced() -> None:
    """Otherwise clients would fetch the empty object at every update."""
    job = replace(JOB, spec=JobSpec(("http://site.example/v",)))
    listed = payloads.job_list(job)
    assert listed["options_external"] is False
    assert "options_version" not in listed
    assert payloads.options_answer(job, StoredQuery(), ALL)["version"] is None


@pytest.mark.parametrize(
    ("state", "errors", "hint"),
    [
        (JobState.SELECTING, False, "waiting_user_confirmation"),
        (JobState.RUNNING, True, "running_with_errors"),
        (JobState.RUNNING, False, None),
        (JobState.FAILED, True, None),
    ],
)
def test_the_hint_beside_the_status(state: JobState, errors: bool, hint: str | None) -> None:
    """A selection that is waited for, or errors in a job that goes on."""
    job = replace(JOB, state=state, has_error_logs=errors)
    assert payloads.job_list(job).get("status_hint") == hint


def test_times_and_error_when_there_are_any() -> None:
    """A failed job says when and why."""
    job = replace(JOB, state=JobState.FAILED, started_at=T, finished_at=T, error="gone")
    listed = payloads.job_list(job)
    assert (listed["started_at"], listed["finished_at"], listed["error"]) == (NOW, NOW, "gone")


def test_the_preview_leaves_its_playlist_behind() -> None:
    """No client reads thousands of entries there."""
    job = replace(JOB, preview={"title": "T", "playlist": {"entries": [1]}})
    listed = payloads.job_list(job)
    assert listed["preview"] == {"title": "T"}
    assert listed["metadata"]["preview"] == {"title": "T"}


def test_the_sites_word_beats_the_clients() -> None:
    """Client metadata is a guess until the site answers."""
    job = replace(JOB, metadata={"title": "guess", "thumbnail_url": "g", "ctx_id": None})
    assert payloads.job_list(job)["metadata"] == {
        "title": "guess",
        "thumbnail_url": "g",
        "requires_playlist_selection": False,
    }
    known = replace(job, preview={"title": "real"})
    assert payloads.job_list(known)["metadata"]["title"] == "real"
    assert payloads.job_list(known)["metadata"]["thumbnail_url"] == "g"


def test_the_clients_preview_serves_until_the_sites_is_known() -> None:
    """A preview in the metadata is shown as the job's."""
    job = replace(JOB, metadata={"preview": {"title": "guess"}})
    assert payloads.job_list(job)["preview"] == {"title": "guess"}
    assert payloads.job_list(replace(job, preview={"title": "real"}))["preview"] == {
        "title": "real"
    }


def test_odd_metadata_of_an_older_file_breaks_nothing() -> None:
    """A damaged value costs itself, not the list."""
    job = replace(JOB, metadata={"preview": "odd", "playlist": 5, "title": "T"})
    listed = payloads.job_list(job)
    assert "preview" not in listed
    assert listed["metadata"] == {"title": "T", "requires_playlist_selection": False}


@pytest.mark.parametrize(
    ("state", "asked", "needed"),
    [
        (JobState.SELECTING, False, True),
        (JobState.PAUSED, True, True),
        (JobState.CANCELLED, True, False),
        (JobState.RUNNING, False, False),
    ],
)
def test_a_playlists_entries_are_shown_while_a_selection_is_needed(
    state: JobState, asked: bool, needed: bool
) -> None:
    """Then they are in the metadata; later they are fetched."""
    playlist = {"title": "P", "entries": [{"index": 1}], "tags": ["x"], "collection_complete": True}
    job = replace(
        JOB,
        state=state,
        kind=JobKind.PLAYLIST,
        metadata={"playlist": playlist, "requires_playlist_selection": asked},
    )
    shown = {
        "title": "P",
        "is_collecting_entries": False,
        "collection_complete": True,
        "has_indefinite_length": False,
    }
    shown |= {"entries": [{"index": 1}]} if needed else {"entries_external": True}
    listed = payloads.job_list(job)
    assert listed["metadata"]["playlist"] == shown
    assert listed["metadata"]["requires_playlist_selection"] is needed
    name, info = read(InfoChanged(job, T))
    assert name == "global_info"
    assert (info["is_playlist"], info["selection_required"]) == (True, needed)
    assert info["playlist"] == shown


def test_progress_is_finite_and_without_nulls() -> None:
    """Numbers that are none are not sent; what remains is derived; private members stay."""
    shown = payloads.progress(
        Progress(
            status="downloading",
            percent=50.0,
            downloaded_bytes=5,
            total_bytes=10,
            speed=float("inf"),
            elapsed=float("nan"),
            key="k",
            settled_bytes=3,
        )
    )
    assert shown == {
        "status": "downloading",
        "percent": 50.0,
        "downloaded_bytes": 5,
        "total_bytes": 10,
        "remaining_bytes": 5,
    }
    assert payloads.progress(Progress()) == {}


def test_the_answer_to_a_create_is_the_detail_and_more() -> None:
    """How the job stands is on top, as in the old backend's short answer."""
    job = replace(JOB, progress=Progress(stage="IDENTIFICANDO", percent=0.0, status="queued"))
    answer = payloads.created(job, ())
    assert (answer["stage"], answer["percent"]) == ("IDENTIFICANDO", 0.0)
    assert answer["urls"] == ["http://site.example/v"]
    assert "message" not in answer


def test_states_that_share_a_word_are_counted_together() -> None:
    """Nobody outside knows that a job waits for a selection; zeros are not sent."""
    counts = {JobState.STARTING: 1, JobState.SELECTING: 2, JobState.QUEUED: 3, JobState.FAILED: 0}
    assert payloads.summary(Summary(counts)) == {
        "total": 6,
        "active": 3,
        "queued": 3,
        "status_counts": {"starting": 3, "queued": 3},
    }


# -- events


def test_an_update_is_the_list_form_and_why() -> None:
    """Lists and updates show the same."""
    name, payload = read(JobChanged(JOB, Reason.STARTED, T))
    assert name == "update"
    assert payload == {**payloads.job_list(JOB), "reason": "started", "timestamp": NOW}


def test_a_removal_says_what_the_job_was() -> None:
    """The last update of a job."""
    assert read(JobDeleted("j", JobState.COMPLETED, T)) == (
        "update",
        {
            "job_id": "j",
            "status": "deleted",
            "previous_status": "completed",
            "reason": "deleted",
            "timestamp": NOW,
        },
    )


def test_an_overview_has_the_counts() -> None:
    """Everything in one object called summary."""
    name, payload = read(OverviewChanged(Summary({JobState.QUEUED: 1}), T))
    assert name == "overview"
    assert payload["summary"]["queued"] == 1
    assert payload["timestamp"] == NOW


def test_a_progress_event_has_the_job_and_its_numbers() -> None:
    """`state` is the job's, not the progress's, and no playlist member is sent for a video."""
    job = replace(JOB, progress=Progress(status="downloading", state="x", percent=1.0))
    assert read(ProgressChanged(job, T)) == (
        "progress",
        {"job_id": "j", "status": "downloading", "percent": 1.0},
    )


def test_a_log_event_is_one_line() -> None:
    """With the entry it is about, if any."""
    assert read(Logged("j", LINES[1])) == (
        "log",
        {
            "job_id": "j",
            "timestamp": NOW,
            "level": "warning",
            "message": "two",
            "playlist_index": 2,
            "playlist_entry_id": "b",
        },
    )


def test_global_info_of_a_video() -> None:
    """The flags are always there."""
    job = replace(JOB, kind=JobKind.VIDEO, preview={"title": "T"})
    assert read(InfoChanged(job, T)) == (
        "global_info",
        {
            "job_id": "j",
            "status": "running",
            "kind": "video",
            "is_playlist": False,
            "selection_required": False,
            "preview": {"title": "T"},
            "timestamp": NOW,
        },
    )


def test_the_first_message_of_the_overview_makes_clients_ask() -> None:
    """A null job_id is the resynchronisation."""
    assert json.loads(payloads.initial_overview(T)) == {
        "event": "update",
        "payload": {"job_id": None, "reason": "initial_sync", "timestamp": NOW},
    }


def test_the_first_messages_of_a_job() -> None:
    """How it stands; and how far it is, if anything is known of that."""
    failed = replace(JOB, state=JobState.FAILED, error="gone")
    stands, *more = [json.loads(text) for text in payloads.initial_job(failed, T)]
    assert stands["payload"] == {
        "job_id": "j",
        "status": "failed",
        "is_terminal": True,
        "error": "gone",
        "reason": "initial_sync",
        "timestamp": NOW,
    }
    assert more == []
    moving = replace(JOB, progress=Progress(percent=3.0))
    _, shown = [json.loads(text) for text in payloads.initial_job(moving, T)]
    assert shown == {
        "event": "progress",
        "payload": {"job_id": "j", "percent": 3.0, "reason": "initial_sync", "timestamp": NOW},
    }


def test_an_error_event() -> None:
    """Its payload is what is given."""
    text = payloads.error_event({"message": "m"})
    assert json.loads(text) == {"event": "error", "payload": {"message": "m"}}


# -- answers


def test_the_health_document() -> None:
    """The launcher compares `service`; everything else is for people."""
    document = payloads.health(
        service="S",
        description="D",
        metadata={"version": "1"},
        addresses={"base_url": "u"},
        timeout_seconds=30,
        counts=Summary({}),
        now=T,
    )
    assert document == {
        "service": "S",
        "time": NOW,
        "overview": {"total": 0, "active": 0, "queued": 0, "status_counts": {}},
        "description": "D",
        "metadata": {"version": "1"},
        "base_url": "u",
        "timeout_seconds": 30,
    }


def _addresses(scheme: str, host: str, port: int, base: str) -> list[str]:
    given = payloads.addresses(
        scheme=scheme, host=host, port=port, base=base,
        api="/api", overview="/ws/overview", job="/ws/jobs",
    )  # fmt: skip
    return list(given.values())


def test_advertised_addresses() -> None:
    """Default ports are left out, and only an empty path ends in a slash of its own."""
    assert _addresses("http", "0.0.0.0", 5000, "/") == [
        "http://0.0.0.0:5000/",
        "http://0.0.0.0:5000/api/",
        "ws://0.0.0.0:5000/ws/overview",
        "ws://0.0.0.0:5000/ws/jobs/",
    ]
    assert _addresses("https", "h", 443, "/v/") == [
        "https://h/v",
        "https://h/v/api/",
        "wss://h/v/ws/overview",
        "wss://h/v/ws/jobs/",
    ]
    assert _addresses("http", "::1", 80, "")[0] == "http://[::1]/"


@pytest.mark.parametrize(
    ("query", "kind", "shown"),
    [
        (StoredQuery(), "full", True),
        (StoredQuery(since=6), "full", True),
        (StoredQuery(since=7), "noop", False),
        (StoredQuery(since=7, detail=True), "noop", True),
    ],
)
def test_options_since_a_version(query: StoredQuery, kind: str, shown: bool) -> None:
    """Unchanged options are left out, unless asked for in full."""
    answer = payloads.options_answer(JOB, query, ALL)
    assert answer["delta"] == {"type": kind, "version": 7, "since": query.since}
    assert (answer["version"], answer["external"]) == (7, True)
    assert answer.get("options") == ({"format": "best", "password": "***"} if shown else None)
    assert "entry" not in answer


@pytest.mark.parametrize(
    ("query", "kind", "shown"),
    [
        (StoredQuery(), "full", True),
        (StoredQuery(since=8), "full", True),
        (StoredQuery(since=9), "noop", False),
        (StoredQuery(since=9, detail=True), "full", True),
    ],
)
def test_logs_since_a_version(query: StoredQuery, kind: str, shown: bool) -> None:
    """With lines in it the answer is `full`, or clients would append them to what they have."""
    answer = payloads.logs_answer(JOB, LINES, query, ALL)
    assert answer["delta"]["type"] == kind
    assert answer["count"] == 4
    assert ("logs" in answer) is shown


def test_nothing_stored_has_no_version() -> None:
    """Then everything is full and nothing external."""
    job = replace(JOB, options_version=None, logs_version=None)
    for answer in (
        payloads.options_answer(job, StoredQuery(since=7), ALL),
        payloads.logs_answer(job, (), StoredQuery(since=7), ALL),
    ):
        assert answer["delta"] == {"type": "full", "version": None, "since": 7}
        assert "external" not in answer


@pytest.mark.parametrize(
    ("entry", "limit", "messages"),
    [
        (ALL, None, ["one", "two", "three", "four"]),
        (ALL, 2, ["three", "four"]),
        (Entry("j", "j", entry_id="b"), None, ["two", "four"]),
        (Entry("j", "j", index=3), None, ["three"]),
        (Entry("j", "j", entry_id="b", index=3), None, ["two", "three", "four"]),
        (Entry("j", "j", entry_id="b"), 1, ["four"]),
        (Entry("j", "j", entry_id="nope"), None, []),
    ],
)
def test_logs_are_filtered_then_limited(
    entry: Entry, limit: int | None, messages: list[str]
) -> None:
    """The newest lines of an entry, oldest first."""
    answer = payloads.logs_answer(JOB, LINES, StoredQuery(limit=limit), entry)
    assert [line["message"] for line in answer["logs"]] == messages
    assert answer["count"] == len(messages)


def test_an_addressed_entry_is_echoed() -> None:
    """With the path's own words."""
    answer = payloads.options_answer(JOB, StoredQuery(), Entry("j", "j::3", None, 3))
    assert answer["job_id"] == "j"
    assert answer["entry"] == {"playlist_index": 3, "requested_job_id": "j::3"}


def test_what_a_command_came_to() -> None:
    """A word, and a reason only when there is one."""
    assert payloads.command_answer("j", "paused") == {"job_id": "j", "status": "paused"}
    assert payloads.command_answer("j", "deleted", Reason.DELETED)["reason"] == "deleted"


def test_a_refusal_has_a_code_and_perhaps_a_detail() -> None:
    """The one envelope of every 4xx and 5xx."""
    assert payloads.error("job_not_found") == {"error": "job_not_found"}
    assert payloads.error(JobNotFound.code, "no job")["detail"] == "no job"
