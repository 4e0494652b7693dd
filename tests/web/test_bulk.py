"""Cancelling many jobs at once: bounded, and right about jobs that end meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.web import open_web
from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.states import Command, JobState
from vidra_trio.engine.scripted import ScriptedEngine
from vidra_trio.wire.requests import MAX_JOB_IDS

if TYPE_CHECKING:
    from vidra_trio.core.job import Snapshot
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
    """It stays failed, as if it had been so when it was first looked at."""
    async with open_web(engine=ScriptedEngine(lambda _spec: (60,))) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        running = web.supervisor.get(job_id)
        looks: list[Snapshot] = [replace(running, state=JobState.FAILED), running]
        monkeypatch.setattr(web.supervisor, "get", lambda _job_id: looks.pop())
        reply = await web.ask("POST", "/api/jobs/cancel", {"job_ids": [job_id]})
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
