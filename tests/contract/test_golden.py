"""What leaves the server, as files: whoever changes a payload sees it in a diff.

Each file holds what was asked and, member by member, what came of it, with ids and
clock fixed. The order of members is no part of the contract; the type of a number is.

After a change that is meant: `VIDRA_WRITE_GOLDEN=1 python -m pytest tests/contract/test_golden.py`
writes the files anew and fails, so that it is never left on. Then read the diff.
"""

from __future__ import annotations

import itertools
import json
import os
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import EPOCH, FakeStore, Stored
from tests.support.web import AUTH, SocketClosed, open_socket, open_web
from vidra_trio.core import events
from vidra_trio.core.events import (
    InfoChanged,
    JobChanged,
    JobDeleted,
    Logged,
    OverviewChanged,
    ProgressChanged,
)
from vidra_trio.core.job import JobSpec, LogEntry, Snapshot, Summary
from vidra_trio.core.progress import Progress
from vidra_trio.core.report import Identified, Line, Tick
from vidra_trio.core.states import JobKind, JobState, Level, Reason
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.web.app import VIEWS
from vidra_trio.wire import payloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.web import Web
    from vidra_trio.core.events import Event
    from vidra_trio.engine.base import RunSpec

FOLDER: Final = Path(__file__).parent / "golden"
WRITE: Final = "VIDRA_WRITE_GOLDEN"

PREVIEW: Final = {
    "title": "El título",
    "description": "A clip",
    "webpage_url": "http://site.example/v",
    "thumbnail_url": "http://site.example/v.jpg",
    "duration_seconds": 61,
    "duration_text": "1:01",
    "uploader": "somebody",
    "extractor": "site",
    "extractor_id": "Site",
    "playlist": {"entries": [{"index": 1}]},
}
SPEC: Final = JobSpec(
    urls=("http://site.example/v",),
    options={"format": "best", "username": "me", "password": "hush"},
    metadata={"title": "a guess"},
    creator="phone",
)
RUNNING: Final = Snapshot(
    job_id="job-running",
    spec=SPEC,
    state=JobState.RUNNING,
    created_at=EPOCH,
    kind=JobKind.VIDEO,
    started_at=EPOCH + timedelta(seconds=1),
    progress=Progress(
        status="downloading",
        stage="downloading",
        stage_name="downloading",
        stage_percent=25.0,
        percent=25.0,
        downloaded_bytes=250,
        total_bytes=1000,
        speed=125.5,
        eta=6,
        elapsed=2.0,
        filename="/downloads/clip.mp4",
        tmpfilename="/downloads/clip.mp4.part",
        current_item=1,
        total_items=4,
    ),
    metadata=SPEC.metadata,
    preview=PREVIEW,
    options_version=1_767_225_600_000,
    logs_version=1_767_225_600_003,
)
COMPLETED: Final = replace(
    RUNNING,
    job_id="job-completed",
    state=JobState.COMPLETED,
    finished_at=EPOCH + timedelta(seconds=9, microseconds=500),
    progress=Progress(
        status="finished",
        state="completed",
        stage="COMPLETED",
        stage_name="COMPLETED",
        stage_percent=100.0,
        percent=100.0,
        message="/downloads/clip.mp4",
        downloaded_bytes=1000,
        total_bytes=1000,
        eta=0,
        elapsed=8.0,
        filename="/downloads/clip.mp4",
    ),
    finished_items=(0,),
    generated_files=("/downloads/clip.mp4", "/downloads/clip.srt"),
    main_file="/downloads/clip.mp4",
)
FAILED: Final = replace(
    RUNNING,
    job_id="job-failed",
    spec=JobSpec(("http://site.example/gone",)),
    state=JobState.FAILED,
    kind=JobKind.UNKNOWN,
    created_at=EPOCH + timedelta(seconds=1),
    finished_at=EPOCH + timedelta(seconds=3),
    error="HTTP Error 404: Not Found",
    error_code="not_found",
    has_error_logs=True,
    progress=Progress(status="failed", state="failed", stage="IDENTIFICANDO", percent=0.0),
    metadata={},
    preview=None,
)
PAUSED: Final = replace(
    RUNNING,
    job_id="job-paused",
    spec=replace(SPEC, options={**SPEC.options, "playlist_items": "1,3-5"}),
    state=JobState.PAUSED,
    created_at=EPOCH + timedelta(seconds=2),
    partial_files=("/downloads/.vidra-job-paused/0/clip.mp4.part",),
)
LINES: Final = (
    LogEntry(EPOCH, Level.INFO, "job created"),
    LogEntry(EPOCH + timedelta(seconds=1), Level.WARNING, "slow", 2, "b"),
    LogEntry(EPOCH + timedelta(seconds=2, milliseconds=5), Level.ERROR, "broken: ñ ✓"),
)


def agree(name: str, now: object) -> None:
    """Compare `now` with the file, or write the file."""
    path = FOLDER / f"{name}.json"
    if os.environ.get(WRITE):
        path.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.fail(f"{path.name} was written")
    assert _canonical(now) == _canonical(json.loads(path.read_text(encoding="utf-8")))


def _canonical(value: object) -> str:
    """Write JSON such that `1` and `1.0` differ and the order of members does not."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


# -- endpoints


@dataclass(frozen=True)
class Case:
    """One request to a server with one job in each interesting state."""

    view: str
    ask: str
    body: object = None
    variant: str = ""

    @property
    def name(self) -> str:
        """The file's."""
        return f"http_{self.view}{self.variant}"


CASES: Final = (
    Case("health", "GET /"),
    Case("profiles", "GET /api/profiles"),
    Case(
        "create",
        "POST /api/jobs",
        {
            "urls": "http://site.example/new",
            "options": {"format": "best", "password": "hush", "playlistItems": "1"},
            "metadata": {"title": "a guess", "isPlaylist": False, "client": "dropped"},
            "owner": "phone",
        },
    ),
    Case("list", "GET /api/jobs"),
    Case("list", "GET /api/jobs?status=FAILED", variant="_filtered"),
    Case("detail", "GET /api/jobs/job-completed"),
    Case("detail", "GET /api/jobs/job-failed", variant="_failed"),
    Case("detail", "GET /api/jobs/{new}", variant="_running"),
    Case("delete", "DELETE /api/jobs/job-completed"),
    Case("cancel", "POST /api/jobs/{new}/cancel"),
    Case("cancel", "POST /api/jobs/job-paused/cancel", variant="_paused"),
    Case("cancel", "POST /api/jobs/job-completed/cancel", variant="_completed"),
    Case(
        "cancel_many",
        "POST /api/jobs/cancel",
        {"job_ids": ["{new}", "job-completed", "nope", "job-paused"]},
    ),
    Case("pause", "POST /api/jobs/{new}/pause"),
    Case("pause", "POST /api/jobs/job-paused/pause", variant="_paused"),
    Case("resume", "POST /api/jobs/job-paused/resume"),
    Case("retry", "POST /api/jobs/job-failed/retry"),
    Case("retry", "POST /api/jobs/{new}/retry", variant="_running"),
    Case("options", "GET /api/jobs/job-completed/options?detail=true"),
    Case("options", "GET /api/jobs/job-completed/options?since=1767225600000", variant="_noop"),
    Case("options", "GET /api/jobs/job-completed::entry-2/options", variant="_entry"),
    Case("options", "GET /api/jobs/job-failed/options", variant="_none"),
    Case("logs", "GET /api/jobs/job-completed/logs?detail=true&limit=200"),
    Case("logs", "GET /api/jobs/job-completed/logs?since=1767225600003", variant="_noop"),
    Case("logs", "GET /api/jobs/job-completed/logs?entry_id=b&limit=1", variant="_entry"),
    Case("diagnostics", "GET /api/diagnostics"),
    Case("playlist", "GET /api/jobs/job-completed/playlist?include=entries"),
    Case("playlist_items", "GET /api/jobs/job-completed/playlist/items?limit=5"),
    Case("playlist_delta", "GET /api/jobs/job-completed/playlist/items/delta?since=1"),
    Case("playlist_selection", "POST /api/jobs/{new}/playlist/selection", {"indices": [3, "1"]}),
    Case(
        "playlist_selection",
        "POST /api/jobs/job-paused/playlist/selection",
        {},
        variant="_some",
    ),
    Case(
        "playlist_selection",
        "POST /api/jobs/job-completed/playlist/selection",
        {"indices": None},
        variant="_terminal",
    ),
    Case("playlist_retry", "POST /api/jobs/job-completed/playlist/retry", {"indices": [1]}),
    Case("playlist_delete", "POST /api/jobs/job-completed/playlist/delete", {"entry_ids": "a"}),
)

REFUSALS: Final = (
    Case("", "GET /api/jobs/nope"),
    Case("", "GET /api/nope"),
    Case("", "PATCH /api/jobs"),
    Case("", "POST /api/jobs", {}),
    Case("", "POST /api/jobs", []),
    Case("", "POST /api/jobs", {"urls": 5}),
    Case("", "POST /api/jobs", {"urls": "http://h/", "options": {"format": ["best"]}}),
    Case("", "POST /api/jobs", {"urls": "http://h/", "options": "best"}),
    Case("", "POST /api/jobs", {"urls": "--help"}),
    Case("", "POST /api/jobs", {"urls": "file:///etc/passwd"}),
    Case("", "POST /api/jobs", {"urls": "http://h/", "options": {"exec": "id"}}),
    Case("", "POST /api/jobs/cancel", {}),
    Case("", "POST /api/jobs/cancel", {"scope": "some"}),
    Case("", "DELETE /api/jobs/job-paused"),
    Case("", "POST /api/jobs/job-completed/pause"),
    Case("", "POST /api/jobs/job-completed/resume"),
    Case("", "GET /api/jobs/job-completed/options?since="),
    Case("", "GET /api/jobs/job-completed/options?entry_index=x"),
    Case("", "GET /api/jobs/job-completed/logs?limit=x"),
    Case("", "GET /api/jobs/job-completed/logs?limit=0"),
    Case("", "GET /api/jobs/nope/playlist?offset=x"),
    Case("", "GET /api/jobs/nope/playlist/items?offset=-1"),
    Case("", "GET /api/jobs/nope/playlist/items?limit="),
    Case("", "GET /api/jobs/nope/playlist?limit=0"),
    Case("", "GET /api/jobs/nope/playlist/items/delta?since="),
    Case("", "GET /api/jobs/nope/playlist"),
    Case("", "GET /api/jobs/nope/playlist/items"),
    Case("", "GET /api/jobs/nope/playlist/items/delta"),
    Case("", "POST /api/jobs/nope/playlist/selection"),
    Case("", "POST /api/jobs/nope/playlist/selection", {"indices": "invalid"}),
    Case("", "POST /api/jobs/nope/playlist/selection", {"indices": ["x"]}),
    Case("", "POST /api/jobs/nope/playlist/selection", {"indices": [1]}),
    Case("", "POST /api/jobs/nope/playlist/retry"),
    Case("", "POST /api/jobs/nope/playlist/retry", {"indices": "1"}),
    Case("", "POST /api/jobs/nope/playlist/retry", {"indices": ["x"]}),
    Case("", "POST /api/jobs/nope/playlist/retry", {"entry_ids": [1]}),
    Case("", "POST /api/jobs/nope/playlist/retry", {"indices": [1]}),
    Case("", "POST /api/jobs/nope/playlist/delete", {"entryIds": {}}),
    Case("", "POST /api/jobs/nope/playlist/delete", {"entryIds": "a"}),
)


@pytest.fixture
async def web(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    """Serve three restored jobs and one that is running, called `{new}`.

    The test itself must ask for `autojump_clock`: pytest-trio does not see one behind a fixture.
    """
    numbers = itertools.count(1)
    monkeypatch.setattr("vidra_trio.supervisor.uuid.uuid4", lambda: uuid.UUID(int=next(numbers)))
    never = trio.Event()

    def script(_spec: RunSpec) -> list[object]:
        tick = Tick("clip.mp4", 250, 1000, speed=125.5, eta=6.0, elapsed=2.0)
        return [Identified(JobKind.VIDEO, dict(PREVIEW)), Line(Level.INFO, "going"), tick, never]

    store = FakeStore([Stored(job, LINES) for job in (COMPLETED, FAILED, PAUSED)])
    engine = ScriptedEngine(script)
    # One slot, and `{new}` holds it: whatever is created or retried later only waits.
    async with open_web(engine=engine, store=store, slots=1, metadata={"v": "1"}) as served:
        await served.create(owner="tablet")
        await wait_all_tasks_blocked()
        yield served


NEW: Final = str(uuid.UUID(int=1))


async def answered(web: Web, case: Case) -> dict[str, Any]:
    """Ask, and return all that is golden of the answer."""
    method, _, path = case.ask.replace("{new}", NEW).partition(" ")
    body = json.loads(json.dumps(case.body).replace("{new}", NEW))
    reply = await web.ask(method, path, body)
    given = {} if case.body is None else {"body": body}
    return {"ask": f"{method} {path}", **given, "status": reply.status, "answer": reply.json}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_an_answer(autojump_clock: MockClock, web: Web, case: Case) -> None:
    """Every endpoint answers as on file."""
    agree(case.name, await answered(web, case))


async def test_the_refusals(autojump_clock: MockClock, web: Web) -> None:
    """Every refusal has its status, its code and its detail."""
    agree("http_refusals", [await answered(web, case) for case in REFUSALS])


# -- events

EVENTS: Final[dict[str, tuple[Event, ...]]] = {
    "event_update": (
        JobChanged(RUNNING, Reason.UPDATED, EPOCH),
        JobChanged(COMPLETED, Reason.COMPLETED, EPOCH),
        JobChanged(FAILED, Reason.FAILED, EPOCH),
    ),
    "event_deleted": (JobDeleted("job-completed", JobState.COMPLETED, EPOCH),),
    "event_overview": (
        OverviewChanged(Summary.of([RUNNING, COMPLETED, FAILED, PAUSED]), EPOCH),
        OverviewChanged(Summary({JobState.SELECTING: 1, JobState.QUEUED: 2}), EPOCH),
    ),
    "event_progress": (ProgressChanged(RUNNING, EPOCH), ProgressChanged(COMPLETED, EPOCH)),
    "event_log": tuple(Logged("job-running", line) for line in LINES),
    "event_global_info": (InfoChanged(RUNNING, EPOCH),),
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event(name: str) -> None:
    """Every event is told as on file."""
    agree(name, [json.loads(payloads.dump_event(event)) for event in EVENTS[name]])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("socket_overview", "/ws/overview"),
        ("socket_job", f"/ws/jobs/{NEW}"),
        ("socket_job_settled", "/ws/jobs/job-failed"),
        ("socket_job_unknown", "/ws/jobs/nope"),
    ],
)
async def test_what_a_socket_begins_with(
    autojump_clock: MockClock, web: Web, name: str, path: str
) -> None:
    """The first messages of every socket, and the close that follows an unknown job."""
    told: list[object] = []
    async with open_socket(web.app, path, headers=AUTH.items()) as end:
        await wait_all_tasks_blocked()
        try:
            while end.heard.statistics().current_buffer_used:
                told.append(await end.next())
        except SocketClosed as closed:
            told.append({"close": closed.code})
    agree(name, {"path": path, "messages": told})


async def test_the_answers_of_the_downloads_socket(autojump_clock: MockClock, web: Web) -> None:
    """Its errors in the old form."""
    asked = ("{", "[]", "{}", '{"accion":"descargar","url":"http://h/","options":5}')
    told: list[object] = []
    async with open_socket(web.app, "/ws/downloads", headers=AUTH.items()) as end:
        for message in asked:
            await end.say(message)
            told.append({"say": message, "answer": await end.next()})
    agree("socket_downloads", told)


# -- the files themselves


def test_nothing_is_without_a_file() -> None:
    """Every view and every kind of event is in a table here."""
    assert {case.view for case in CASES} == set(VIEWS)
    dumped = {type(event) for told in EVENTS.values() for event in told}
    assert dumped == set(get_args(events.Event))


def test_no_file_is_left_over() -> None:
    """A file that nothing reads would only look like a promise."""
    sockets = {"overview", "job", "job_settled", "job_unknown", "downloads"}
    read = {case.name for case in CASES} | {"http_refusals"} | set(EVENTS)
    read |= {f"socket_{name}" for name in sockets}
    assert {path.stem for path in FOLDER.iterdir()} == read
