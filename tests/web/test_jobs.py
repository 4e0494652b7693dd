"""The job endpoints, through the guard and the framework to a real supervisor."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fakes import FakeStore
from tests.support.web import MEBIBYTE, Web, open_web
from vidra_trio.engine.scripted import ScriptedEngine, download
from vidra_trio.web import listing

ODD_IDS = (
    "nope", "cancel", "..", "%2e%2e", "a" * 3000, "%F0%9F%92%A9", "x%00y", "null", "%20", "a.b",
    "x::y", "::",
)  # fmt: skip


def slow() -> ScriptedEngine:
    """Return an engine whose downloads take a minute."""
    return ScriptedEngine(lambda spec: (download()[0], 60, download()[1]))


async def settled(web: Web, **body: object) -> str:
    """Create a job and wait for its end."""
    job_id = await web.create(**body)  # type: ignore[arg-type]  # JSON members
    await web.supervisor.wait_settled(job_id)
    return job_id


# -- create


async def test_a_created_job_is_there(autojump_clock: MockClock) -> None:
    """201 with the whole job; it is durable and in the list."""
    async with open_web(engine=slow()) as web:
        body = {"urls": "http://site.example/v", "options": {"format": "best"}, "owner": "me"}
        reply = await web.ask("POST", "/api/jobs", body)
        assert reply.status == 201
        job = reply.json
        assert (job["status"], job["stage"], job["percent"]) == ("queued", "IDENTIFICANDO", 0.0)
        assert job["urls"] == ["http://site.example/v"]
        assert job["creator"] == "me"
        assert job["job_id"] in web.store.saved
        listed = (await web.ask("GET", "/api/jobs")).json
        assert [each["job_id"] for each in listed["jobs"]] == [job["job_id"]]
        assert listed["summary"]["total"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "urls_required"),
        ({"urls": 5}, "invalid_json_payload"),
        ({"urls": "http://h/x", "options": "x"}, "invalid_json_payload"),
        ({"urls": "http://h/x", "metadata": "x"}, "invalid_json_payload"),
        ({"urls": "http://h/x", "owner": {}}, "invalid_json_payload"),
        ({"urls": "file:///etc/passwd"}, "url_not_allowed"),
        ({"urls": ["--exec=id", "http://h/x"]}, "url_not_allowed"),
        ({"urls": "--help"}, "url_not_allowed"),
        ({"urls": "http://127.0.0.1:5000/"}, "url_not_allowed"),
        ({"urls": "http://h/x", "options": {"exec": "id"}}, "option_not_allowed"),
        ({"urls": "http://h/x", "options": {"paths": {"home": "/etc"}}}, "option_not_allowed"),
    ],
)
async def test_a_bad_create_makes_nothing(body: dict[str, Any], code: str) -> None:
    """400 with a code and a detail, and no job."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs", body)
        assert (reply.status, reply.error) == (400, code)
        assert reply.json["detail"]
        assert web.supervisor.jobs() == []


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b'{"urls":"\xff"}', b'{"urls":"\\ud800"}',
     b'{"urls":"http://h/x","options":{"retries":NaN}}', b"[" * 100_000,
     b'{"urls":' + b"9" * 5000 + b"}"],
    ids=lambda raw: repr(raw[:24]),
)  # fmt: skip
async def test_a_body_that_is_no_json_object(raw: bytes) -> None:
    """Always the same code, never a 500."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs", raw=raw)
        assert (reply.status, reply.error) == (400, "invalid_json_payload")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(chunked: bool) -> None:
    """413, whether its size was announced or not."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs", raw=b"x" * (2 * MEBIBYTE), chunked=chunked)
        assert (reply.status, reply.error) == (413, "payload_too_large")


async def test_the_limit_of_bodies_is_a_setting() -> None:
    """A body of exactly the limit is read."""
    async with open_web(max_body=100) as web:
        assert (await web.ask("POST", "/api/jobs", raw=b" " * 100)).status == 400
        assert (await web.ask("POST", "/api/jobs", raw=b" " * 101)).status == 413


async def test_a_body_that_never_comes(autojump_clock: MockClock) -> None:
    """408 after ten seconds, and the connection is of no further use."""
    async with open_web() as web:
        started = trio.current_time()
        reply = await web.ask("POST", "/api/jobs", raw=b"x" * 10, stalls=True)
        assert (reply.status, reply.error) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert trio.current_time() - started == 10


async def test_a_create_that_cannot_be_stored() -> None:
    """507, and no job."""
    async with open_web() as web:
        web.store.broken = True
        reply = await web.ask("POST", "/api/jobs", {"urls": "http://h/x"})
        assert (reply.status, reply.error) == (507, "storage_failed")
        assert web.supervisor.jobs() == []


async def test_a_create_during_shutdown() -> None:
    """503 with a code."""
    async with open_web() as web:
        web.supervisor.closing = True
        reply = await web.ask("POST", "/api/jobs", {"urls": "http://h/x"})
        assert (reply.status, reply.error) == (503, "shutting_down")


async def test_too_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with a code."""
    monkeypatch.setattr("vidra_trio.supervisor.MAX_UNSETTLED", 0)
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs", {"urls": "http://h/x"})
        assert (reply.status, reply.error) == (429, "too_many_jobs")


async def test_a_client_that_leaves_before_its_job_is_stored(autojump_clock: MockClock) -> None:
    """No trace of the job remains."""
    async with open_web(store=FakeStore(delay=5)) as web:
        with trio.move_on_after(1):
            await web.ask("POST", "/api/jobs", {"urls": "http://h/x"})
        await wait_all_tasks_blocked()
        assert web.supervisor.jobs() == []
        assert len(web.store.forgotten) == 1


async def test_a_job_that_was_removed_before_it_was_answered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer still tells what was created."""
    async with open_web(engine=slow()) as web:
        create = web.supervisor.create

        async def create_and_lose(spec: Any) -> Any:  # noqa: ANN401
            job = await create(spec)
            await web.ask("POST", f"/api/jobs/{job.job_id}/cancel")
            await trio.sleep(5)
            return job

        monkeypatch.setattr(web.supervisor, "create", create_and_lose)
        monkeypatch.setattr(
            "vidra_trio.core.job.Snapshot.leaves_nothing", property(lambda _job: True)
        )
        reply = await web.ask("POST", "/api/jobs", {"urls": "http://h/x"})
        assert reply.status == 201
        assert reply.json["logs"] == []
        assert web.supervisor.jobs() == []


# -- list and detail


async def test_the_list_is_filtered(autojump_clock: MockClock) -> None:
    """By status in any case, and by owner exactly; blank filters do not count."""
    async with open_web() as web:
        mine = await settled(web, owner="me")
        yours = await settled(web, owner="you")

        async def ids(query: str) -> list[str]:
            return [
                job["job_id"] for job in (await web.ask("GET", f"/api/jobs?{query}")).json["jobs"]
            ]

        assert await ids("owner=me") == [mine]
        assert await ids("owner=ME") == []
        assert await ids("status=Completed&owner=you") == [yours]
        assert await ids("status=failed") == []
        assert await ids("status=nonsense") == []
        assert await ids("status=&owner=") == [mine, yours]


async def test_a_long_list_gives_others_a_turn(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dumped in batches and is still one valid answer."""
    monkeypatch.setattr(listing, "SLICE", 2)
    async with open_web() as web:
        made = [await settled(web) for _ in range(5)]
        reply = await web.ask("GET", "/api/jobs")
        assert [job["job_id"] for job in reply.json["jobs"]] == made
        assert reply.headers["content-length"] == str(len(reply.body))


async def test_a_history_in_pages(autojump_clock: MockClock) -> None:
    """Each page tells where the next begins; without a limit there is only one."""
    async with open_web() as web:
        made = [await settled(web) for _ in range(5)]
        found: list[str] = []
        cursor = ""
        for size in (2, 2, 1):
            page = (await web.ask("GET", f"/api/jobs?limit=2&cursor={cursor}")).json
            assert len(page["jobs"]) == size
            assert page["summary"]["total"] == 5
            found += [job["job_id"] for job in page["jobs"]]
            cursor = page["next_cursor"]
        assert cursor is None
        assert found == made
        assert "next_cursor" not in (await web.ask("GET", "/api/jobs")).json
        refused = await web.ask("GET", "/api/jobs?limit=2&cursor=nonsense")
        assert (refused.status, refused.json["error"]) == (400, "cursor_not_usable")


async def test_a_list_tells_what_is(autojump_clock: MockClock) -> None:
    """Whatever it remembers: changed jobs are told as they are, removed ones not at all."""
    async with open_web() as web:
        made = [await settled(web) for _ in range(3)]

        async def told() -> dict[str, str]:
            jobs = (await web.ask("GET", "/api/jobs")).json["jobs"]
            return {job["job_id"]: job["status"] for job in jobs}

        assert await told() == dict.fromkeys(made, "completed")
        await web.ask("DELETE", f"/api/jobs/{made[0]}")
        web.supervisor._find(made[1]).change(error="x")
        jobs = (await web.ask("GET", "/api/jobs")).json["jobs"]
        assert [(job["job_id"], job.get("error")) for job in jobs] == [
            (made[1], "x"),
            (made[2], None),
        ]


async def test_what_is_remembered_is_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are no more are forgotten, too."""
    monkeypatch.setattr(listing, "SLICE", 1)
    async with open_web() as web:
        made = [await settled(web) for _ in range(8)]
        await web.ask("GET", "/api/jobs")
        for job_id in made[1:]:
            await web.ask("DELETE", f"/api/jobs/{job_id}")
        await web.ask("GET", "/api/jobs")
        assert web.context.listing._known.keys() == {made[0]}


async def test_the_detail_of_a_job(autojump_clock: MockClock) -> None:
    """With URLs, options (secrets masked) and log."""
    async with open_web() as web:
        job_id = await settled(web, options={"password": "hush", "username": "me"})
        job = (await web.ask("GET", f"/api/jobs/{job_id}")).json
        assert job["status"] == "completed"
        assert "hush" not in str(job)
        assert job["options"]["password"] == "***"
        assert job["logs"][0]["message"] == "job created"


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume"),
        ("POST", "/retry"), ("GET", "/logs"), ("GET", "/options"),
    ],
)  # fmt: skip
async def test_jobs_that_are_not_there(method: str, rest: str) -> None:
    """404 with the code of a lost job, whatever the id looks like."""
    async with open_web() as web:
        for job_id in ODD_IDS:
            reply = await web.ask(method, f"/api/jobs/{job_id}{rest}")
            assert (reply.status, reply.error) == (404, "job_not_found"), job_id


# -- commands


async def test_cancelling_a_running_job(autojump_clock: MockClock) -> None:
    """200 `cancelling`; a second time is fine."""
    async with open_web(engine=slow()) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        reply = await web.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert (reply.status, reply.json) == (200, {"job_id": job_id, "status": "cancelling"})
        await web.supervisor.wait_settled(job_id)
        reply = await web.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert reply.json["status"] == "cancelled"


async def test_pausing_and_resuming(autojump_clock: MockClock) -> None:
    """`pausing`, then `paused`; a resume says `running`."""
    async with open_web(engine=slow()) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        reply = await web.ask("POST", f"/api/jobs/{job_id}/pause")
        assert reply.json == {"job_id": job_id, "status": "pausing"}
        await web.supervisor.wait_settled(job_id)
        refused = await web.ask("DELETE", f"/api/jobs/{job_id}")
        assert (refused.status, refused.json) == (409, {"error": "job_delete_conflict_active"})
        reply = await web.ask("POST", f"/api/jobs/{job_id}/resume")
        assert reply.json == {"job_id": job_id, "status": "running"}
        refused = await web.ask("POST", f"/api/jobs/{job_id}/resume")
        assert (refused.status, refused.error) == (409, "job_status_conflict")


async def test_retrying_and_deleting(autojump_clock: MockClock) -> None:
    """A retry queues; a delete ends it all, and a conflict names the status."""
    async with open_web() as web:
        job_id = await settled(web)
        refused = await web.ask("POST", f"/api/jobs/{job_id}/pause")
        assert refused.status == 409
        assert refused.json == {"error": "job_status_conflict", "detail": "completed"}
        reply = await web.ask("POST", f"/api/jobs/{job_id}/retry")
        assert reply.json == {"job_id": job_id, "status": "queued"}
        await web.supervisor.wait_settled(job_id)
        reply = await web.ask("DELETE", f"/api/jobs/{job_id}")
        assert reply.json == {"job_id": job_id, "status": "deleted", "reason": "deleted"}
        assert (await web.ask("GET", f"/api/jobs/{job_id}")).error == "job_not_found"


async def test_a_command_that_acts_but_is_not_stored(autojump_clock: MockClock) -> None:
    """507, and the job is being cancelled all the same."""
    async with open_web(engine=slow()) as web:
        job_id = await web.create()
        await wait_all_tasks_blocked()
        web.store.broken = True
        reply = await web.ask("POST", f"/api/jobs/{job_id}/cancel")
        assert (reply.status, reply.error) == (507, "storage_failed")
        assert web.supervisor.get(job_id).state.value in {"cancelling", "cancelled"}
        web.store.broken = False


# -- bulk cancel


async def test_cancelling_many_by_id(autojump_clock: MockClock) -> None:
    """One result per id, in the order asked, the unknown and the odd included."""
    async with open_web(engine=slow()) as web:
        a, b = await web.create(), await web.create()
        await wait_all_tasks_blocked()
        asked = [b, "nope", a, "../x"]
        results = (await web.ask("POST", "/api/jobs/cancel", {"job_ids": asked})).json["results"]
        assert [result["job_id"] for result in results] == asked
        assert [result["status"] for result in results] == [
            "cancelling", "not_found", "cancelling", "not_found",
        ]  # fmt: skip


async def test_cancelling_all_of_an_owner(autojump_clock: MockClock) -> None:
    """Only this owner's; jobs at their end are named and left as they are."""
    engine = ScriptedEngine(lambda spec: download() if "done" in spec.url else (60,))
    async with open_web(engine=engine) as web:
        done = await settled(web, url="http://h/done", owner="me")
        mine = await web.create(owner="me")
        other = await web.create(owner="you")
        await wait_all_tasks_blocked()
        reply = await web.ask("POST", "/api/jobs/cancel", {"scope": "all", "owner": "me"})
        assert reply.json["results"] == [
            {"job_id": done, "status": "completed"},
            {"job_id": mine, "status": "cancelling"},
        ]
        reply = await web.ask("POST", "/api/jobs/cancel", {"scope": "ALL"})
        assert {"job_id": other, "status": "cancelling"} in reply.json["results"]


async def test_cancelling_many_while_the_disk_fails(autojump_clock: MockClock) -> None:
    """507, and yet every job was asked."""
    async with open_web(engine=slow()) as web:
        made = [await web.create() for _ in range(3)]
        await wait_all_tasks_blocked()
        web.store.broken = True
        reply = await web.ask("POST", "/api/jobs/cancel", {"job_ids": made})
        assert (reply.status, reply.error) == (507, "storage_failed")
        words = {web.supervisor.get(job_id).state.value for job_id in made}
        assert words <= {"cancelling", "cancelled"}
        web.store.broken = False


@pytest.mark.parametrize("body", [{}, {"scope": "everything"}, {"job_ids": []}, {"job_ids": 5}])
async def test_a_bulk_cancel_without_meaning(body: dict[str, object]) -> None:
    """400."""
    async with open_web() as web:
        reply = await web.ask("POST", "/api/jobs/cancel", body)
        assert (reply.status, reply.error) == (400, "invalid_json_payload")


# -- options and logs


async def test_options_and_logs_since_a_version(autojump_clock: MockClock) -> None:
    """Nothing new is a `noop`; the versions are those that the job announces."""
    async with open_web() as web:
        job_id = await settled(web, options={"format": "best"})
        job = (await web.ask("GET", f"/api/jobs/{job_id}")).json
        for part in ("options", "logs"):
            version = job[f"{part}_version"]
            full = (await web.ask("GET", f"/api/jobs/{job_id}/{part}")).json
            assert (full["version"], full["delta"]["type"]) == (version, "full")
            again = (await web.ask("GET", f"/api/jobs/{job_id}/{part}?since={version}")).json
            assert again["delta"]["type"] == "noop"
            assert part not in again


async def test_an_entrys_options_and_logs(autojump_clock: MockClock) -> None:
    """By query or by the fragment of the path; the entry is echoed."""
    async with open_web() as web:
        job_id = await settled(web)
        for part in ("options", "logs"):
            by_query = await web.ask("GET", f"/api/jobs/{job_id}/{part}?entry_index=2")
            assert by_query.json["entry"] == {"playlist_index": 2, "requested_job_id": job_id}
            by_path = await web.ask("GET", f"/api/jobs/{job_id}::abc/{part}")
            assert by_path.json["entry"]["playlist_entry_id"] == "abc"
            assert by_path.json["job_id"] == job_id


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("x/options?since=a&entry_index=a", "entry_index_invalid"),
        ("x/options?since=a", "job_not_found"),
        ("{}/options?since=a", "since_must_be_integer"),
        ("x/logs?since=a&entry_index=a", "since_must_be_integer"),
        ("x/logs?limit=a&entry_index=a", "limit_must_be_integer"),
        ("x/logs?limit=0&entry_index=a", "limit_greater_than_zero"),
        ("x/logs?entry_index=a", "entry_index_invalid"),
        ("x/logs", "job_not_found"),
    ],
)
async def test_the_order_of_checks(autojump_clock: MockClock, path: str, code: str) -> None:
    """Options: selector, job, query. Logs: query, selector, job."""
    async with open_web() as web:
        job_id = await settled(web)
        reply = await web.ask("GET", f"/api/jobs/{path.format(job_id)}")
        assert reply.error == code
        assert reply.status == (404 if code == "job_not_found" else 400)


async def test_the_newest_lines(autojump_clock: MockClock) -> None:
    """`limit` counts from the end."""
    async with open_web() as web:
        job_id = await settled(web)
        every = (await web.ask("GET", f"/api/jobs/{job_id}/logs?detail=true")).json["logs"]
        some = (await web.ask("GET", f"/api/jobs/{job_id}/logs?limit=2&detail=1")).json
        assert some["logs"] == every[-2:]
        assert some["count"] == 2
