"""The server as users run it: real processes, real downloads, real sockets.

Rules: everything is on loopback and a free port; every wait has a limit; what a
test starts it ends.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from tests.support.origin import Origin, digest, open_origin
from tests.support.process import (
    TOKEN,
    ServerProcess,
    alive,
    running_server,
    wait_until,
)
from vidra_trio.client import Client
from vidra_trio.watch import WatchEnded

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]

TERMINAL = {"completed", "completed_with_errors", "failed", "cancelled"}


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run a media origin for one test."""
    with open_origin() as running:
        yield running


def wait_status(server: ServerProcess, job_id: str, *wanted: str, seconds: float = 40) -> None:
    """Block until the job has one of the wanted statuses."""
    wait_until(lambda: server.job(job_id)["status"] in wanted, seconds, f"{job_id}: {wanted}")


def test_twenty_downloads_complete_three_at_a_time(tmp_path: Path, origin: Origin) -> None:
    """Every file arrives whole, and the origin never sees more than the configured number."""
    size = 200_000
    most, watching = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not watching.wait(0.005):
            with origin.lock:
                running = {r.path for r in origin.requests if r.method == "GET" and not r.done}
            most = max(most, len(running))

    watcher = threading.Thread(target=watch)
    with running_server(tmp_path, max_concurrent=3) as server:
        watcher.start()
        try:
            jobs = {
                name: server.create(origin.file(name, size, rate=2_000_000), "out")
                for name in (f"clip{n}.mp4" for n in range(20))
            }
            summary = server.ask("GET", "/api/jobs").json()["summary"]
            assert summary["active"] <= 3
            assert summary["total"] == 20
            for job_id in jobs.values():
                wait_status(server, job_id, *TERMINAL)
        finally:
            watching.set()
            watcher.join()
        for name, job_id in jobs.items():
            job = server.job(job_id)
            assert job["status"] == "completed", job.get("error")
            assert digest(str(job["main_file"])) == origin.digest(name, size)
    assert 1 <= most <= 3
    assert len(list((tmp_path / "out").iterdir())) == 20


@pytest.mark.parametrize(
    ("chosen", "kind", "reason"),
    [
        ({}, "process", "a worker answered"),
        ({"engine": "process"}, "process", "the settings ask for process"),
        ({"engine": "thread"}, "thread", "the settings ask for thread"),
        ({"embedded": "1"}, "thread", "the settings say that it is embedded in another program"),
    ],
    ids=["auto", "process", "thread", "embedded"],
)
def test_the_engine_is_told_with_its_reason(
    tmp_path: Path, origin: Origin, chosen: dict[str, Any], kind: str, reason: str
) -> None:
    """In the diagnostics and, on one line, in the log; and it is the one that works."""
    with running_server(tmp_path, **chosen) as server:

        def engine() -> dict[str, object]:
            told: dict[str, object] = server.ask("GET", "/api/diagnostics").json()["engine"]
            return told

        wait_until(lambda: engine()["kind"] != "undecided", what="a choice")
        job_id = server.create(origin.file("clip.mp4", 200_000, rate=200_000), "out")
        wait_status(server, job_id, "running")
        told = engine()
        assert (told["kind"], told["reason"], told["running"]) == (kind, reason, 1)
        assert told["workers"] in {1, 2}
        assert told["abandoned"] == 0
        wait_status(server, job_id, *TERMINAL)
        assert server.job(job_id)["status"] == "completed"
    log = (tmp_path / "data" / "release_logs.txt").read_text()
    assert log.count(f"engine: {kind} ({reason})") == 1
    assert TOKEN not in log


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_in_the_middle_of_a_download_ends_in_order(
    sig: signal.Signals, tmp_path: Path, origin: Origin
) -> None:
    """Exit code 0 within 5 s, sockets told 1001, no process left, the job there afterwards."""
    code, seconds, told = -1, 99.0, trio.Event()
    with running_server(tmp_path) as server:
        url = origin.file("clip.mp4", 2_000_000, rate=100_000)
        job_id = await trio.to_thread.run_sync(server.create, url, "out")
        await trio.to_thread.run_sync(origin.wait_sent, "clip.mp4", 50_000)
        children = server.children()
        assert children

        async def watch() -> None:
            async with Client(server.url, TOKEN) as client, client.watch_overview() as events:
                started.set()
                with pytest.raises(WatchEnded) as ended:
                    async for _ in events:
                        pass
                assert ended.value.close_code == 1001
                told.set()

        started = trio.Event()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await started.wait()
                code, seconds = await trio.to_thread.run_sync(server.stop, sig)
    assert code == 0, (tmp_path / "output.txt").read_text()
    assert seconds < 5
    assert told.is_set()
    assert alive(children) == []
    state = json.loads((tmp_path / "data" / "download_state.json").read_bytes())
    assert [job["job_id"] for job in state["jobs"]] == [job_id]
    assert not list((tmp_path / "out").glob("*.mp4"))
    with running_server(tmp_path, restore="fail") as server:
        job = await trio.to_thread.run_sync(server.job, job_id)
        assert (job["status"], job["urls"]) == ("failed", [url])
        assert "stopped" in str(job["error"])


@pytest.mark.parametrize("restore", ["resume", "hold", "fail"])
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_an_interrupted_job_continues(
    tmp_path: Path, origin: Origin, how: str, restore: str
) -> None:
    """After a restart it goes on from the parts, by itself or by hand, to the exact file."""
    size = 1_500_000
    with running_server(tmp_path) as server:
        job_id = server.create(origin.file("clip.mp4", size, rate=300_000), "out")
        origin.wait_sent("clip.mp4", 700_000)
        if how == "stopped":
            assert server.stop()[0] == 0
    with running_server(tmp_path, restore=restore) as server:
        if restore != "resume":
            assert server.job(job_id)["status"] == {"hold": "paused", "fail": "failed"}[restore]
            assert server.ask("POST", f"/api/jobs/{job_id}/resume").json()["status"] == "running"
        wait_status(server, job_id, *TERMINAL)
        job = server.job(job_id)
        assert job["status"] == "completed", job.get("error")
        assert digest(str(job["main_file"])) == origin.digest("clip.mp4", size)
    assert [r.range for r in origin.seen("clip.mp4") if r.range and r.range != "bytes=0-"]


def test_a_killed_server_leaves_no_worker(tmp_path: Path, origin: Origin) -> None:
    """SIGKILL of the server ends its workers too, and the next start finds the job."""
    with running_server(tmp_path) as server:
        job_id = server.create(origin.file("clip.mp4", 2_000_000, rate=100_000), "out")
        origin.wait_sent("clip.mp4", 20_000)
        children = server.children()
        server.process.kill()
        server.process.wait(10)
        wait_until(lambda: not alive(children), 5, "the workers' end")
    with running_server(tmp_path, restore="hold") as server:
        assert server.job(job_id)["status"] == "paused"


async def test_a_stalled_subscriber_costs_nobody_else_anything(
    tmp_path: Path, origin: Origin
) -> None:
    """Beside one that never reads, two healthy subscribers get every event, in order."""
    with running_server(tmp_path, max_concurrent=4) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.socket() as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.connect(("127.0.0.1", port))
            stalled.sendall(handshake(port))
            stories: list[list[str]] = [[], []]
            with trio.fail_after(90):
                async with trio.open_nursery() as nursery:
                    for story in stories:
                        await nursery.start(follow, server.url, story, 60)
                    for n in range(60):
                        url = origin.file(f"c{n}.mp4", 30_000)
                        await trio.to_thread.run_sync(server.create, url, "out")
            code, seconds = await trio.to_thread.run_sync(server.stop)
    assert code == 0
    assert seconds < 5
    assert stories[0] == stories[1]
    assert sum(line.endswith("completed") for line in stories[0]) == 60


def handshake(port: int) -> bytes:
    """Return the request that opens the overview socket."""
    lines = (
        "GET /ws/overview HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        f"Authorization: Bearer {TOKEN}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def follow(
    url: str, story: list[str], ends: int, *, task_status: trio.TaskStatus[None]
) -> None:
    """Write every update into `story` until `ends` jobs have completed."""
    async with Client(url, TOKEN) as client, client.watch_overview() as events:
        task_status.started()
        async for event, payload in events:
            if event == "update" and payload.get("job_id"):
                story.append(f"{payload['job_id']} {payload['reason']}")
                if sum(line.endswith(" completed") for line in story) == ends:
                    return


DEEP = b'{"urls": "http://127.0.0.1:1/x", "options": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
BAD = {
    "urls a number": (b'{"urls": 5}', 400, "invalid_json_payload"),
    "urls numbers": (b'{"urls": [1, 2]}', 400, "invalid_json_payload"),
    "options a string": (b'{"urls": "http://h/x", "options": "x"}', 400, "invalid_json_payload"),
    "NaN": (b'{"urls": "http://h/x", "options": {"retries": NaN}}', 400, "invalid_json_payload"),
    "Infinity": (b'{"urls": "http://h/x", "owner": Infinity}', 400, "invalid_json_payload"),
    "a lone surrogate": (b'{"urls": "http://h/\\ud800"}', 400, "invalid_json_payload"),
    "100,000 levels": (DEEP, 400, "invalid_json_payload"),
    "2 MiB": (b'{"urls": "http://h/' + b"x" * (2 << 20) + b'"}', 413, "payload_too_large"),
    "invalid UTF-8": (b'{"urls": "\xff\xfe"}', 400, "invalid_json_payload"),
    "a URL like an option": (b'{"urls": "-rf"}', 400, "url_not_allowed"),
    "--help": (b'{"urls": "--help"}', 400, "url_not_allowed"),
    "--exec": (b'{"urls": ["http://h/x", "--exec=touch x"]}', 400, "url_not_allowed"),
    "file:": (b'{"urls": "file:///etc/passwd"}', 400, "url_not_allowed"),
}  # fmt: skip


def test_bad_input_is_refused_and_harms_nothing(tmp_path: Path, origin: Origin) -> None:
    """Each is a 4xx with its code; afterwards the server serves, and its state is sound."""
    with running_server(tmp_path) as server:
        for what, (body, status, code) in BAD.items():
            answer = server.ask(
                "POST", "/api/jobs", content=body, headers={"Content-Type": "application/json"}
            )
            assert (answer.status_code, answer.json()["error"]) == (status, code), what
            assert answer.json()["detail"], what
        assert server.ask("GET", "/api/jobs").json()["summary"]["total"] == 0
        job_id = server.create(origin.file("clip.mp4", 1000), "out")
        wait_status(server, job_id, "completed")
        assert server.stop()[0] == 0
    assert len(json.loads((tmp_path / "data" / "download_state.json").read_bytes())["jobs"]) == 1


def test_no_secret_is_left_anywhere(tmp_path: Path, origin: Origin) -> None:
    """Neither the token nor a site's password is in a log, an answer or a file for others."""
    with running_server(tmp_path, log_level="debug") as server:
        options = {
            "username": "u",
            "password": "hunter2-secret",
            "video_password": "hunter3-secret",
        }
        job_id = server.create(origin.file("clip.mp4", 1000), "out", **options)
        wait_status(server, job_id, *TERMINAL)
        with pytest.raises(httpx.HTTPStatusError):
            httpx.get(f"{server.url}/api/jobs?token={TOKEN}", trust_env=False).raise_for_status()
        answers = [
            server.ask("GET", path).text
            for path in ("/api/jobs", f"/api/jobs/{job_id}", f"/api/jobs/{job_id}/options")
        ]
        worker_environments = [
            Path(f"/proc/{pid}/environ").read_bytes() for pid in server.children()
        ]
        assert worker_environments
        assert server.stop()[0] == 0
    for text in answers:
        assert "hunter" not in text
        assert TOKEN not in text
    for environment in worker_environments:
        assert b"VIDRA_SERVER_TOKEN" not in environment
    for file in (f for f in tmp_path.rglob("*") if f.is_file() and f.parent.name != "out"):
        text = file.read_text(errors="replace")
        assert TOKEN not in text, file
        if "hunter" in text:
            assert file.parent.name == "job_options"
            assert file.stat().st_mode & 0o077 == 0
