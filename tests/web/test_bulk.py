"""Cancelling many jobs at once: bounded, and right about jobs that end meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import EPOCH, SPEC, FakeStore, Stored
from tests.support.web import Web, open_web
from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.job import Snapshot
from vidra_trio.core.report import Identified
from vidra_trio.core.states import Command, JobKind, JobState
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.wire.requests import MAX_JOB_IDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vidra_trio.engine.base import RunSpec
    from vidra_trio.supervisor import Answer


@pytest.mark.parametrize("key", ["job_ids", "jobIds"])
async def test_too_many_ids(key: str) -> None:
    """Refused as a whole: a body full of ids would hold everybody else up."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs/cancel", {key: ["a"] * (MAX_JOB_IDS + 1)})
        assert (reply.status, reply.error) == (400, "invalid_json_payload")
        assert list(reply.json["detail"]) == [key]


async def test_as_many_as_may_be() -> None:
    """The limit itself is served, without a task for each."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs/cancel", {"job_ids": ["a"] * MAX_JOB_IDS})
        assert reply.json["results"] == [{"job_id": "a", "status": "not_found"}] * MAX_JOB_IDS


async def test_an_id_given_twice(autojump_clock: MockClock) -> None:
    """One result for each time it was given."""
    async with open_web(engine=ScriptedEngine(lambda _spec: (60,))) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        reply = await web.ask("POST", "/api/jobs/cancel", {"job_ids": [job_id, job_id]})
        assert reply.json["results"] == [{"job_id": job_id, "status": "cancelling"}] * 2


async def test_a_job_that_fails_before_its_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a scope it is failed, as if it had been so when it was first looked at."""
    async with open_web(engine=ScriptedEngine(lambda _spec: (60,))) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        running = web.supervisor.get(job_id)
        looks: list[Snapshot] = [replace(running, state=JobState.FAILED), running]
        monkeypatch.setattr(web.supervisor, "get", lambda _job_id: looks.pop())
        reply = await web.ask("POST", "/api/jobs/cancel", {"scope": "all"})
        assert reply.json["results"] == [{"job_id": job_id, "status": "failed"}]


async def test_a_job_that_goes_in_its_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's removal came first: not found, and the others have their results."""

    async def gone(job_id: str, _command: Command) -> Answer:
        await trio.lowlevel.checkpoint()
        raise JobNotFound(job_id)

    async with open_web(engine=ScriptedEngine(lambda _spec: (60,))) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        monkeypatch.setattr(web.supervisor, "apply", gone)
        reply = await web.ask("POST", "/api/jobs/cancel", {"job_ids": ["nope", job_id]})
        assert [result["status"] for result in reply.json["results"]] == ["not_found"] * 2


# -- every state at once

EVERY_STATE: Final = """
queued                 cancelling             cancelling             deleted
starting               cancelling             cancelling             deleted
running                cancelling             cancelling             cancelled
pausing                cancelling             cancelling             cancelled
cancelling             cancelling             cancelling             cancelled
paused                 cancelled              cancelled              cancelled
cancelled              cancelled              cancelled              cancelled
failed                 cancelled              failed                 =
completed              completed              completed              completed
completed_with_errors  completed_with_errors  completed_with_errors  completed_with_errors
"""
"""State; the answer to whoever names the job, and to a scope; how it ends (`=`: as answered)."""

ROWS: Final = {row[0]: row[1:] for row in map(str.split, EVERY_STATE.strip().splitlines())}
RESTORED: Final = ("paused", "cancelled", "failed", "completed", "completed_with_errors")
LIVE: Final = ("starting", "running", "pausing", "cancelling", "queued")
VIDEO: Final = Identified(JobKind.VIDEO, {"title": "T"})


@asynccontextmanager
async def crowd() -> AsyncIterator[tuple[Web, dict[str, str]]]:
    """Serve with a job of `me` in each state, and one of `you`; yield the state of each id."""

    def script(spec: RunSpec) -> tuple[object, ...]:
        return (60,) if spec.url.endswith("starting") else (VIDEO, 60)

    spec = replace(SPEC, creator="me")
    stored = [Snapshot(state, spec, JobState(state), EPOCH) for state in RESTORED]
    engine = ScriptedEngine(script, lets_go_after=30)
    store = FakeStore([Stored(job) for job in stored])
    async with open_web(engine=engine, store=store, slots=5) as web:
        states = {state: state for state in RESTORED}
        states[await web.create("http://h/running", owner="you")] = "somebody else's"
        for state in LIVE:
            job_id = await web.create(f"http://h/{state}", owner="me")
            states[job_id] = state
            await wait_all_tasks_blocked()
            if command := {"pausing": "pause", "cancelling": "cancel"}.get(state):
                await web.ask("POST", f"/api/jobs/{job_id}/{command}")
        assert all(
            web.supervisor.get(job_id).state.value == state
            for job_id, state in states.items()
            if state in ROWS
        )
        yield web, states


async def ends(web: Web) -> dict[str, str]:
    """Let the engine let go; return how each job that is left stands."""
    await trio.sleep(40)
    listed = (await web.ask("GET", "/api/jobs")).json["jobs"]
    return {job["job_id"]: job["status"] for job in listed}


@pytest.mark.parametrize("key", ["job_ids", "jobIds"])
async def test_named_jobs_in_every_state(autojump_clock: MockClock, key: str) -> None:
    """Each gets what its own cancel would do, a failed one too; in the order asked."""
    async with crowd() as (web, states):
        asked = [job_id for job_id, state in states.items() if state in ROWS][::-1]
        reply = await web.ask("POST", "/api/jobs/cancel", {key: [*asked, "nope"]})
        assert reply.status == 200
        assert reply.json["results"] == [
            *({"job_id": job_id, "status": ROWS[states[job_id]][0]} for job_id in asked),
            {"job_id": "nope", "status": "not_found"},
        ]
        left = await ends(web)
        for job_id in asked:
            named, _, end = ROWS[states[job_id]]
            assert left.pop(job_id, "deleted") == (named if end == "=" else end)
        assert list(left.values()) == ["running"]


@pytest.mark.parametrize(
    ("body", "everybody"),
    [
        ({"scope": "all"}, True),
        ({"scope": " ALL ", "job_ids": ["nope"]}, True),
        ({"scope": "all", "owner": " "}, True),
        ({"scope": "all", "owner": "me"}, False),
    ],
)
async def test_a_scope_in_every_state(
    autojump_clock: MockClock, body: dict[str, object], everybody: bool
) -> None:
    """What is going on is cancelled; what has ended, failed or not, is told and left."""
    async with crowd() as (web, states):
        results = (await web.ask("POST", "/api/jobs/cancel", body)).json["results"]
        told = {result["job_id"]: result["status"] for result in results}
        meant = {job_id for job_id, state in states.items() if everybody or state in ROWS}
        assert set(told) == meant
        assert len(results) == len(told)
        for job_id, word in told.items():
            assert word == ROWS.get(states[job_id], ROWS["running"])[1]
        left = await ends(web)
        for job_id in told:
            _, told_word, end = ROWS.get(states[job_id], ROWS["running"])
            assert left.pop(job_id, "deleted") == (told_word if end == "=" else end)
        assert len(left) == (0 if everybody else 1)


async def test_both_spellings_at_once() -> None:
    """camelCase wins, unless it is null."""
    async with open_web() as web:
        for body, meant in (
            ({"jobIds": ["a"], "job_ids": ["b"]}, "a"),
            ({"jobIds": None, "job_ids": ["b"]}, "b"),
            ({"jobIds": "a"}, "a"),
        ):
            reply = await web.ask("POST", "/api/jobs/cancel", body)
            assert reply.json["results"] == [{"job_id": meant, "status": "not_found"}]
