"""Jobs as values, what happened to them, and what a restart makes of them."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from vidra_trio.core import errors, events
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot, Summary, bare, next_version
from vidra_trio.core.progress import Progress
from vidra_trio.core.restore import CRASHED_AGAIN, INTERRUPTED, Policy, restore
from vidra_trio.core.states import Command, JobEvent, JobState, Level, Reason

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
S = JobState


def job(state: JobState, **fields: object) -> Snapshot:
    """Return a small job in `state`."""
    made = Snapshot("j1", JobSpec(("http://h/x",)), state, NOW)
    return replace(made, **fields)  # type: ignore[arg-type]  # a test's shorthand


def test_counts_follow_the_states() -> None:
    """Active and queued are what the contract counts under these words."""
    states = (S.QUEUED, S.RUNNING, S.PAUSED, S.PAUSING, S.COMPLETED, S.COMPLETED)
    summary = Summary.of(job(state) for state in states)
    assert (summary.total, summary.active, summary.queued) == (6, 2, 1)


@pytest.mark.parametrize(
    ("now_ms", "last", "version"), [(5, None, 5), (5, 3, 5), (5, 5, 6), (5, 90, 91)]
)
def test_versions_always_increase(now_ms: int, last: int | None, version: int) -> None:
    """A clock that stands still or jumps back does not repeat a version."""
    assert next_version(now_ms, last) == version


def test_a_fresh_run_starts_bare() -> None:
    """Error, end and progress of the last run are gone, all else stays."""
    old = job(S.FAILED, error="e", error_code="c", finished_at=NOW, has_error_logs=True,
              progress=Progress(percent=3.0), main_file="/m")  # fmt: skip
    new = bare(old, started_at=None)
    assert new == job(S.FAILED, main_file="/m")


def test_only_a_job_that_found_nothing_leaves_nothing() -> None:
    """A preview, a file or a part is something to keep the job for."""
    assert job(S.CANCELLED).leaves_nothing
    for trace in (
        {"preview": {"title": "t"}},
        {"generated_files": ("/f",)},
        {"partial_files": ("/f.part",)},
        {"main_file": "/f"},
        {"progress": Progress(filename="f")},
        {"progress": Progress(tmpfilename="f.part")},
    ):
        assert not job(S.CANCELLED, **trace).leaves_nothing


def test_alive_and_terminal_follow_the_tables() -> None:
    """Paused is neither: it will not move by itself, and it is not at its end."""
    assert job(S.RUNNING).alive
    assert job(S.COMPLETED).terminal
    assert not job(S.PAUSED).alive
    assert not job(S.PAUSED).terminal


INTERRUPTABLE = (S.QUEUED, S.STARTING, S.RETRYING, S.RUNNING)


@pytest.mark.parametrize(
    ("policy", "becomes"),
    [(Policy.RESUME, S.QUEUED), (Policy.HOLD, S.PAUSED), (Policy.FAIL, S.FAILED)],
)
@pytest.mark.parametrize("state", INTERRUPTABLE)
def test_a_restart_does_with_what_it_interrupted_as_it_is_told(
    state: JobState, policy: Policy, becomes: JobState
) -> None:
    """What was in the queue or at work goes on, waits, or has failed."""
    restored = restore(job(state), NOW, policy)
    assert restored.snapshot.state is becomes
    assert (restored.level is Level.WARNING) == (becomes is S.FAILED)
    assert restored.snapshot.progress.status == becomes.value


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("state", [state for state in S if state not in INTERRUPTABLE])
def test_a_restart_honours_what_was_decided(state: JobState, policy: Policy) -> None:
    """A pause or cancel that was asked for is done; every other job is as it was."""
    becomes = {S.PAUSING: S.PAUSED, S.CANCELLING: S.CANCELLED}.get(state, state)
    restored = restore(job(state), NOW, policy)
    assert (restored.snapshot.state, restored.level) == (becomes, Level.INFO)


def test_who_waits_for_a_selection_waits_again() -> None:
    """As if nothing had happened: an error or an end that was left on it is gone."""
    found = restore(job(S.SELECTING, error="e", error_code="c", finished_at=NOW), NOW).snapshot
    assert (found.state, found.error, found.finished_at) == (S.SELECTING, None, None)
    assert found.error_code is None


def test_a_failed_restart_says_why() -> None:
    """The error of an earlier run is kept; without one the interruption is the error."""
    fresh = restore(job(S.RUNNING), NOW, Policy.FAIL).snapshot
    assert (fresh.error_code, fresh.finished_at) == (INTERRUPTED, NOW)
    assert fresh.error
    old = restore(job(S.RUNNING, error="e", error_code="c"), NOW, Policy.FAIL).snapshot
    assert (old.error, old.error_code) == ("e", "c")


def test_two_crashes_in_a_row_park_a_job() -> None:
    """One that only waited has nothing to do with them, and a user's word begins anew."""
    once = restore(job(S.RUNNING), NOW).snapshot
    assert (once.state, once.crashes) == (S.QUEUED, 1)
    waited = restore(once, NOW).snapshot
    assert (waited.state, waited.crashes) == (S.QUEUED, 1)
    twice = restore(replace(waited, state=S.STARTING), NOW).snapshot
    assert (twice.state, twice.error_code) == (S.FAILED, CRASHED_AGAIN)
    assert bare(twice).crashes == 0
    held = restore(replace(waited, state=S.RUNNING), NOW, Policy.HOLD).snapshot
    assert held.state is S.PAUSED


def test_an_end_gets_its_time() -> None:
    """A terminal job that was stored without an end gets one; a known one is kept."""
    assert restore(job(S.FAILED), NOW).snapshot.finished_at == NOW
    earlier = NOW - datetime.timedelta(days=1)
    assert restore(job(S.FAILED, finished_at=earlier), NOW).snapshot.finished_at == earlier


def test_events_know_their_rooms_and_what_may_replace_them() -> None:
    """Lifecycle goes to everybody and is never merged; progress is a job's newest."""
    snapshot = job(S.RUNNING)
    entry = LogEntry(NOW, Level.INFO, "m")
    facts: list[events.Event] = [
        events.JobChanged(snapshot, Reason.UPDATED, NOW),
        events.JobDeleted("j1", S.FAILED, NOW),
        events.OverviewChanged(Summary({}), NOW),
        events.ProgressChanged(snapshot, NOW),
        events.Logged("j1", entry),
        events.InfoChanged(snapshot, NOW),
    ]
    assert [(fact.rooms, fact.merge_key) for fact in facts] == [
        (("overview", "job:j1"), None),
        (("overview", "job:j1"), None),
        (("overview",), "overview"),
        (("job:j1",), ("progress", "j1")),
        (("job:j1",), None),
        (("job:j1",), None),
    ]


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.InvalidRequest({"url": ["m"]}), "invalid_json_payload", 400),
        (errors.InvalidRequest("m"), "invalid_json_payload", 400),
        (errors.InvalidQuery("limit_must_be_integer", "m"), "limit_must_be_integer", 400),
        (errors.UrlsRequired(), "urls_required", 400),
        (errors.UrlNotAllowed("file:/x", "why"), "url_not_allowed", 400),
        (errors.OptionNotAllowed("exec", "why"), "option_not_allowed", 400),
        (errors.JobNotFound("x"), "job_not_found", 404),
        (errors.CommandRefused(S.PAUSED, Command.DELETE), "job_status_conflict", 409),
        (errors.DeleteRefused(S.PAUSED, Command.DELETE), "job_delete_conflict_active", 409),
        (errors.IllegalTransition(S.PAUSED, JobEvent.BEGIN), "internal_error", 500),
        (errors.TooManyJobs(5), "too_many_jobs", 429),
        (errors.StorageFailed("disk full"), "storage_failed", 507),
        (errors.ShuttingDown(), "shutting_down", 503),
        (errors.ConfigurationError("PORT", "a number"), "configuration_error", 500),
        (errors.DataDirInUse("/d"), "data_dir_in_use", 500),
        (errors.PortBusy("h", 1, "taken"), "port_busy", 500),
    ],
)
def test_every_error_has_its_code_status_and_words(
    error: errors.VidraError, code: str, status: int
) -> None:
    """Codes are stable, and a person can read what was wrong."""
    assert (error.code, error.status_hint) == (code, status)
    assert error.detail
    assert str(error)


def test_a_field_wise_detail_stays_an_object() -> None:
    """A validation error hands its fields on as they are."""
    assert errors.InvalidRequest({"url": ["m"]}).detail == {"url": ["m"]}
