"""The server inside this process: the stack of `serve` over real sockets, engine scripted."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
import trio

import vidra_trio
from vidra_trio.client import Client, RequestRefused
from vidra_trio.core.errors import DataDirInUse, PortBusy
from vidra_trio.core.report import Identified, Tick
from vidra_trio.core.restore import Policy
from vidra_trio.core.states import JobKind, JobState
from vidra_trio.engine.scripted import ScriptedEngine, download
from vidra_trio.server import run, serve
from vidra_trio.settings import Settings
from vidra_trio.testing import open_test_server
from vidra_trio.watch import WatchEnded

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://site.example/watch"
VIDEO = Identified(JobKind.VIDEO, {"title": "T"})


async def test_a_job_over_http_and_sockets(tmp_path: Path) -> None:
    """Created by one client, watched by another, listed with its file: the whole stack."""
    gate = trio.Event()
    engine = ScriptedEngine(lambda _: (gate, VIDEO, Tick("a", 1, 2), *download()[1:]))
    with trio.fail_after(20):
        async with (
            open_test_server(tmp_path, engine=engine) as server,
            Client(server.url, server.token) as client,
        ):
            job = await client.create(URL)
            story: list[str] = []
            async with client.watch_job(job.job_id) as events:
                gate.set()
                async for event, payload in events:
                    story.append(f"{event} {payload.get('reason') or payload.get('stage') or ''}")
                    if payload.get("reason") == "completed":
                        break
            (listed,) = await client.jobs()
    assert story[0] == "update initial_sync"
    assert story[1] == "progress initial_sync"
    assert story.index("update updated") < story.index("progress downloading")
    assert story[-1] == "update completed"
    assert listed.main_file == "/downloads/clip.mp4"


async def test_pause_resume_retry_and_delete_over_http(tmp_path: Path) -> None:
    """Every command of a client works from end to end."""
    ready = trio.Event()

    def script(_: object) -> tuple[object, ...]:
        return download() if ready.is_set() else (VIDEO, trio.Event())

    with trio.fail_after(20):
        async with (
            open_test_server(tmp_path, engine=ScriptedEngine(script)) as server,
            Client(server.url, server.token) as client,
        ):
            supervisor = server.supervisor
            job = await client.create(URL)
            async with client.watch_job(job.job_id) as events:
                async for _, payload in events:
                    if payload.get("status") == "running":
                        break
            assert (await client.pause(job.job_id)).status == "pausing"
            assert (await supervisor.wait_settled(job.job_id)).state is JobState.PAUSED
            with pytest.raises(RequestRefused) as refused:
                await client.delete(job.job_id)
            assert refused.value.code == "job_delete_conflict_active"
            ready.set()
            assert (await client.resume(job.job_id)).status == "running"
            assert (await supervisor.wait_settled(job.job_id)).state is JobState.COMPLETED
            assert (await client.retry(job.job_id)).status == "queued"
            assert (await supervisor.wait_settled(job.job_id)).state is JobState.COMPLETED
            assert (await client.delete(job.job_id)).status == "deleted"
            assert await client.jobs() == []


async def test_diagnostics_of_a_given_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine is told to be the caller's, with its numbers, and neither token nor folder."""
    started = trio.Event()

    def script(_: object) -> tuple[object, ...]:
        started.set()
        return (VIDEO, trio.Event())

    engine = ScriptedEngine(script)
    with trio.fail_after(20), caplog.at_level("INFO", "vidra_trio.server"):
        async with (
            open_test_server(tmp_path, engine=engine, max_concurrent=2) as server,
            Client(server.url, server.token) as client,
        ):
            await client.create(URL)
            await started.wait()
            async with client.watch_overview() as events:
                await anext(events)
                told = await client.diagnostics()
            own = await server.diagnostics()
            with pytest.raises(RequestRefused) as refused:
                async with Client(server.url, "wrong") as stranger:
                    await stranger.diagnostics()
    assert refused.value.status == 401
    assert (told["engine"]["kind"], told["engine"]["running"]) == ("given", 1)
    assert told["engine"]["reason"] == own.engine.reason
    assert told["slots"] == {"total": 2, "used": 1}
    assert told["jobs"]["total"] == 1
    assert told["sockets"] == {"open": 1, "subscribed": 1}
    assert told["yt_dlp"] == own.yt_dlp
    assert server.token not in str(told)
    assert str(tmp_path) not in str(told)
    assert caplog.messages.count(f"engine: given ({own.engine.reason})") == 1


async def test_sockets_are_told_when_the_server_goes(tmp_path: Path) -> None:
    """Leaving the block closes every socket with 1001, quickly."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            opened, codes = trio.Event(), []

            async def watch(server: vidra_trio.Server) -> None:
                async with (
                    Client(server.url, server.token) as client,
                    client.watch_overview() as events,
                ):
                    opened.set()
                    with pytest.raises(WatchEnded) as ended:
                        async for _ in events:
                            pass
                    codes.append(ended.value.close_code)

            async with open_test_server(tmp_path) as server:
                nursery.start_soon(watch, server)
                await opened.wait()
                began = trio.current_time()
            assert trio.current_time() - began < 5
    assert codes == [1001]


async def test_a_restart_shows_what_was_there(tmp_path: Path) -> None:
    """A job that ran at the stop is listed after it, as the settings say, and can be resumed."""
    with trio.fail_after(20):
        engine = ScriptedEngine(lambda _: (VIDEO, trio.Event()))
        async with open_test_server(tmp_path, engine=engine) as server:
            job = await server.supervisor.create(vidra_trio.JobSpec((URL,)))
        async with open_test_server(tmp_path, restore=Policy.FAIL) as server:
            again = server.supervisor.get(job.job_id)
            assert (again.state, again.error_code) == (JobState.FAILED, "interrupted")
            async with Client(server.url, server.token) as client:
                await client.resume(job.job_id)
            end = await server.supervisor.wait_settled(job.job_id)
    assert end.state is JobState.COMPLETED


async def test_an_error_of_the_host_comes_out_as_it_is(tmp_path: Path) -> None:
    """The embedding program's own exception is not wrapped, and the server is gone."""
    with trio.fail_after(20):
        with pytest.raises(KeyError, match="mine"):
            async with open_test_server(tmp_path):
                raise KeyError("mine")
        async with open_test_server(tmp_path):
            pass


async def test_a_cancelled_host_stops_the_server(tmp_path: Path) -> None:
    """Cancelling the block ends the server, and nothing of it is left."""
    with trio.fail_after(20):
        with trio.move_on_after(0.2) as scope:
            async with open_test_server(tmp_path) as server:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_two_servers_in_one_process(tmp_path: Path) -> None:
    """Each has its own token, directory and jobs."""
    with trio.fail_after(20):
        async with (
            open_test_server(tmp_path / "a") as one,
            open_test_server(tmp_path / "b") as other,
        ):
            assert one.token != other.token
            await one.supervisor.create(vidra_trio.JobSpec((URL,)))
            assert other.supervisor.summary().total == 0
            with pytest.raises(RequestRefused) as refused:
                async with Client(other.url, one.token) as stranger:
                    await stranger.jobs()
            assert refused.value.status == 401


async def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    """A second server on the same directory is refused, the first unharmed."""
    with trio.fail_after(20):
        async with open_test_server(tmp_path) as server:
            with pytest.raises(DataDirInUse):
                async with open_test_server(tmp_path):
                    pass
            async with Client(server.url, server.token) as client:
                assert await client.jobs() == []


async def test_a_busy_port_is_said(tmp_path: Path) -> None:
    """No other port is taken instead, and the directory is free again."""
    with socket.socket() as taken, trio.fail_after(20):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortBusy):
            async with open_test_server(tmp_path, port=taken.getsockname()[1]):
                pass
        async with open_test_server(tmp_path):
            pass


async def test_ipv6_loopback(tmp_path: Path) -> None:
    """Bound to ::1 the URL has brackets and works."""
    if not socket.has_ipv6:
        return
    with trio.fail_after(20):
        async with open_test_server(tmp_path, host="::1") as server:
            assert server.url.startswith("http://[::1]:")
            async with Client(server.url, server.token) as client:
                assert (await client.health())["service"]


def test_run_blocks_in_any_thread(tmp_path: Path) -> None:
    """`run` serves in a thread that is not the main one until it is told to stop."""
    settings = Settings.private(tmp_path, download_dir=tmp_path / "downloads")
    started: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []
    ready = threading.Event()

    def remember(stop: trio.Event) -> None:
        started.append((trio.lowlevel.current_trio_token(), stop))
        ready.set()

    thread = threading.Thread(target=run, args=(settings,), kwargs={"stop": remember})
    thread.start()
    assert ready.wait(20)
    ((token, stop),) = started
    token.run_sync_soon(stop.set)
    thread.join(20)
    assert not thread.is_alive()


async def test_serve_starts_workers_of_its_own(tmp_path: Path) -> None:
    """Without an engine given, the server runs yt-dlp in worker processes."""
    settings = Settings.private(tmp_path, download_dir=tmp_path / "downloads")
    with trio.fail_after(30):
        async with serve(settings) as server:
            job = await server.supervisor.create(vidra_trio.JobSpec(("http://127.0.0.1:9/x.mp4",)))
            end = await server.supervisor.wait_settled(job.job_id)
    assert end.state is JobState.FAILED
    assert end.error


def test_the_public_names_are_loaded_when_asked_for() -> None:
    """The package lists what it promises, and says what it does not have."""
    for name in vidra_trio.__all__:
        assert getattr(vidra_trio, name) is not None
    assert dir(vidra_trio) == vidra_trio.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vidra_trio.no_such_name
