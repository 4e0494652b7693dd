"""The playlist endpoints, for jobs that are no playlist."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import EPOCH, SPEC, FakeStore, Stored
from tests.support.web import open_web
from vidra_trio.core.job import Snapshot
from vidra_trio.core.states import JobState
from vidra_trio.engine.scripted import ScriptedEngine

READS = (
    ("/playlist", "playlist_entries_unavailable"),
    ("/playlist?include=entries", "playlist_entries_unavailable"),
    ("/playlist/items", "playlist_metadata_unavailable"),
    ("/playlist/items/delta?since=5", "playlist_metadata_unavailable"),
)
COMMANDS = ("selection", "retry", "delete")
SETTLED = ("paused", "completed", "completed_with_errors", "failed", "cancelled")


def stored(status: str, **options: object) -> FakeStore:
    """Return a store with one job, called `j`."""
    spec = replace(SPEC, options=options)
    return FakeStore([Stored(Snapshot("j", spec, JobState(status), EPOCH))])


@pytest.mark.parametrize("status", SETTLED)
@pytest.mark.parametrize(("path", "code"), READS)
async def test_there_is_nothing_to_read(status: str, path: str, code: str) -> None:
    """404 with the endpoint's own code, in every state."""
    async with open_web(store=stored(status)) as web:
        reply = await web.ask("GET", f"/api/jobs/j{path}")
        assert (reply.status, reply.error) == (404, code)


@pytest.mark.parametrize("path", [path for path, _ in READS])
async def test_a_read_changes_nothing(path: str) -> None:
    """No event, no save, and HEAD has the same status as GET."""
    async with open_web(store=stored("completed")) as web:
        published = web.context.hub.statistics().published
        assert (await web.ask("HEAD", f"/api/jobs/j{path}")).status == 404
        assert (await web.ask("GET", f"/api/jobs/j{path}")).status == 404
        assert web.context.hub.statistics().published == published
        assert web.store.history == []


@pytest.mark.parametrize("body", [{}, {"indices": None}, {"indices": [1, 3]}])
@pytest.mark.parametrize("status", SETTLED)
async def test_nothing_is_selected(status: str, body: dict[str, Any]) -> None:
    """409 at a job's end; before it 200, and what the job takes already is told."""
    async with open_web(store=stored(status, playlist_items="1,3-5")) as web:
        reply = await web.ask("POST", "/api/jobs/j/playlist/selection", body)
        known = {"job_id": "j", "status": status}
        if status == "paused":
            locked = {"selection": "1,3-5", "reason": "playlist_selection_locked"}
            assert (reply.status, reply.json) == (200, known | locked)
        else:
            ended = {"error": "job_status_conflict", "reason": "job_terminated"}
            assert (reply.status, reply.json) == (409, known | ended)
        assert web.supervisor.get("j").spec.options == {"playlist_items": "1,3-5"}
        assert web.supervisor.get("j").state is JobState(status)


@pytest.mark.parametrize("options", [{}, {"playlist_items": 5}])
async def test_without_a_selection_it_is_all(options: dict[str, object]) -> None:
    """What an old state file holds in its place counts as none."""
    async with open_web(store=stored("paused", **options)) as web:
        reply = await web.ask("POST", "/api/jobs/j/playlist/selection", {})
        assert reply.json["selection"] == "all"


async def test_a_job_on_its_way_goes_on(autojump_clock: MockClock) -> None:
    """None of the three commands touches a running job."""
    async with open_web(engine=ScriptedEngine(lambda _spec: (60,))) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        before = web.supervisor.get(job_id)
        told = [
            await web.ask("POST", f"/api/jobs/{job_id}/playlist/{command}", {"indices": [1]})
            for command in COMMANDS
        ]
        assert [reply.status for reply in told] == [200, 409, 200]
        assert told[0].json["status"] == "starting"
        assert web.supervisor.get(job_id) is before


@pytest.mark.parametrize("status", SETTLED)
async def test_there_are_no_entries_to_act_on(status: str) -> None:
    """The result is the body: 409 for a retry, 200 for a delete, and nothing happens."""
    result = {"job_id": "j", "status": "not_playlist", "reason": "job_is_not_playlist"}
    async with open_web(store=stored(status)) as web:
        for body in ({}, {"indices": [1]}, {"entry_ids": ["a"]}, {"entryIds": "a"}):
            reply = await web.ask("POST", "/api/jobs/j/playlist/retry", body)
            assert (reply.status, reply.json) == (409, {"error": "job_status_conflict", **result})
            reply = await web.ask("POST", "/api/jobs/j/playlist/delete", body)
            assert (reply.status, reply.json) == (200, result)
        assert web.supervisor.get("j").state is JobState(status)
        assert web.store.history == []


@pytest.mark.parametrize("job_id", ["j", "nope", "..", "%2e%2e", "x::y", "a" * 3000])
async def test_the_order_of_checks(job_id: str) -> None:
    """A wrong request is told before an unknown job, an unknown job before what it is."""
    async with open_web(store=stored("completed")) as web:
        at = f"/api/jobs/{job_id}/playlist"
        for path in ("?offset=x", "/items?limit=0", "/items/delta?since="):
            assert (await web.ask("GET", at + path)).status == 400
        for command in COMMANDS:
            for raw in (b"", b"{", b'{"indices": "x"}', b'{"indices": [[]]}'):
                reply = await web.ask("POST", f"{at}/{command}", raw=raw)
                assert (reply.status, reply.error) == (400, "invalid_json_payload")
        if job_id != "j":
            asked = [await web.ask("GET", at + path.removeprefix("/playlist")) for path, _ in READS]
            asked += [await web.ask("POST", f"{at}/{command}", {}) for command in COMMANDS]
            assert {(reply.status, reply.error) for reply in asked} == {(404, "job_not_found")}
