"""What commands do to files, seen from outside: real servers, both engines.

A finished file is nobody's to remove; parts live in the job's own folder, and go with
the job. Foreign files lie beside all of that, and stay.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.origin import Origin, digest, open_origin
from tests.support.process import ServerProcess, running_server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="sends signals"),
]

SIZE = 1_000_000
SLOW = {"rate": 200_000}
MIDDLE = 200_000


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Serve for one test."""
    with open_origin() as found:
        yield found


@pytest.fixture(params=["process", "thread"])
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return a server's settings, for each engine."""
    return {"engine": request.param}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a destination in which somebody else has files."""
    folder = tmp_path / "out"
    (folder / ".vidra-of-another-server").mkdir(parents=True)
    (folder / ".vidra-of-another-server" / "owner").write_text(str(tmp_path))
    for name in ("holiday.mp4", "clip.mp4.part", "clip.jpg"):
        (folder / name).write_text("mine")
    return folder


FOREIGN = {".vidra-of-another-server", "holiday.mp4", "clip.mp4.part", "clip.jpg"}


def ours(folder: Path) -> set[str]:
    """Return what is in `folder` beside foreign files, of which none is missing."""
    names = {one.name for one in folder.iterdir()}
    assert names >= FOREIGN
    return names - FOREIGN


def do(server: ServerProcess, job_id: str, command: str) -> None:
    method, path = ("DELETE", "") if command == "delete" else ("POST", f"/{command}")
    answer = server.ask(method, f"/api/jobs/{job_id}{path}")
    assert answer.status_code == 200, answer.text


def wait_status(server: ServerProcess, job_id: str, *wanted: str) -> None:
    wait_until(lambda: server.job(job_id)["status"] in wanted, 40, f"{job_id}: {wanted}")


def started(server: ServerProcess, origin: Origin, name: str = "clip.mp4") -> tuple[str, str]:
    """Start a slow download and wait for its middle; return its id and its folder's name."""
    url = origin.file(name, SIZE, **SLOW)
    job_id = server.create(url, "out", output="%(title)s.%(ext)s")
    origin.wait_sent(name, MIDDLE)
    return job_id, f".vidra-{job_id}"


def completed(server: ServerProcess, url: str) -> tuple[str, Path]:
    job_id = server.create(url, "out", output="%(title)s.%(ext)s")
    wait_status(server, job_id, "completed")
    return job_id, Path(str(server.job(job_id)["main_file"]))


def side_files(server: ServerProcess, job_id: str) -> list[Path]:
    return [path for path in server.data.rglob("*") if job_id in path.name]


def test_cancel_removes_the_jobs_folder(
    tmp_path: Path, origin: Origin, out: Path, settings: dict[str, Any]
) -> None:
    """Of a running job, and of a paused one; nothing else is touched."""
    with running_server(tmp_path, **settings) as server:
        running, folder = started(server, origin)
        assert ours(out) == {folder}
        do(server, running, "cancel")
        wait_status(server, running, "cancelled")
        assert ours(out) == set()
        paused, folder = started(server, origin, "other.mp4")
        do(server, paused, "pause")
        wait_status(server, paused, "paused")
        assert ours(out) == {folder}
        do(server, paused, "cancel")
        wait_status(server, paused, "cancelled")
        assert ours(out) == set()


def test_pause_and_crash_keep_the_parts_and_delete_removes_them(
    tmp_path: Path, origin: Origin, out: Path, settings: dict[str, Any]
) -> None:
    """The next server's janitor spares them; what no job owns any more, it removes."""
    with running_server(tmp_path, max_concurrent=4, **settings) as server:
        paused, kept = started(server, origin)
        do(server, paused, "pause")
        wait_status(server, paused, "paused")
        crashed, kept_too = started(server, origin, "other.mp4")
        unwanted, kept_as_well = started(server, origin, "third.mp4")
        server.process.kill()
        server.process.wait(10)
    left_by_a_crash = out / ".vidra-forgotten" / "0"
    left_by_a_crash.mkdir(parents=True)
    (left_by_a_crash.parent / "owner").write_text((server.data / "id").read_text())
    (left_by_a_crash / "some.part").write_text("x")
    assert ours(out) == {kept, kept_too, kept_as_well, ".vidra-forgotten"}
    with running_server(tmp_path, max_concurrent=4, restore="fail", **settings) as server:
        wait_until(lambda: ours(out) == {kept, kept_too, kept_as_well}, 20, "the janitor")
        do(server, unwanted, "delete")
        assert ours(out) == {kept, kept_too}
        assert side_files(server, unwanted) == []
        origin.mend(".mp4")
        for job_id in (paused, crashed):
            if server.job(job_id)["status"] in ("failed", "paused"):
                do(server, job_id, "resume")
        for job_id in (paused, crashed):
            wait_status(server, job_id, "completed")
        assert ours(out) == {"clip.mp4", "other.mp4"}
    for name in ("clip.mp4", "other.mp4"):
        assert digest(out / name) == origin.digest(name, SIZE)
        assert (origin.seen(name)[-1].range or "bytes=0-") != "bytes=0-", "it went on"


def test_delete_of_a_finished_job_keeps_its_files(
    tmp_path: Path, origin: Origin, out: Path, settings: dict[str, Any]
) -> None:
    """Only what the server noted about it goes; and of a failed job what it had begun."""
    with running_server(tmp_path, **settings) as server:
        job_id, file = completed(server, origin.file("clip.mp4", SIZE))
        assert side_files(server, job_id)
        do(server, job_id, "delete")
        assert side_files(server, job_id) == []
        assert digest(file) == origin.digest("clip.mp4", SIZE)
        cut = origin.file("cut.mp4", SIZE, drop=MIDDLE)
        failed = server.create(cut, "out", output="%(title)s.%(ext)s", retries=0)
        wait_status(server, failed, "failed")
        do(server, failed, "delete")
        assert ours(out) == {"clip.mp4"}


def test_retry_keeps_finished_files(
    tmp_path: Path, origin: Origin, out: Path, settings: dict[str, Any]
) -> None:
    """While it runs, when it fails, and when it is cancelled, the old file is there and whole."""
    with running_server(tmp_path, **settings) as server:
        url = origin.file("clip.mp4", SIZE, **SLOW)
        origin.mend("clip.mp4")
        job_id, file = completed(server, url)
        whole = origin.digest("clip.mp4", SIZE)
        origin.mended.clear()
        before = origin.traffic("clip.mp4").sent
        do(server, job_id, "retry")
        wait_until(lambda: origin.traffic("clip.mp4").sent > before + MIDDLE, 20, "traffic")
        assert ours(out) == {"clip.mp4", f".vidra-{job_id}"}
        assert digest(file) == whole
        do(server, job_id, "cancel")
        wait_status(server, job_id, "cancelled")
        assert ours(out) == {"clip.mp4"}
        assert digest(file) == whole
        origin.mend("clip.mp4")
        do(server, job_id, "retry")
        wait_status(server, job_id, "completed")
        assert ours(out) == {"clip.mp4"}
        assert digest(file) == whole


def test_a_retry_that_fails_keeps_what_an_earlier_run_finished(
    tmp_path: Path, origin: Origin, out: Path, settings: dict[str, Any]
) -> None:
    """Of two files one could be had: it stays, however often the other one fails."""
    with running_server(tmp_path, **settings) as server:
        urls = [origin.file("clip.mp4", SIZE), origin.at("/status/404")]
        job_id = server.create(urls, "out", output="%(title)s.%(ext)s")
        for _ in range(2):
            wait_status(server, job_id, "completed_with_errors")
            assert ours(out) == {"clip.mp4"}
            assert digest(out / "clip.mp4") == origin.digest("clip.mp4", SIZE)
            do(server, job_id, "retry")
        wait_status(server, job_id, "completed_with_errors")
        do(server, job_id, "delete")
        assert ours(out) == {"clip.mp4"}
