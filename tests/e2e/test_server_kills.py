"""SIGKILL of a whole server, again and again: nothing outlives it, nothing is lost or torn.

One job of each kind runs at a time. The server is killed at an instant drawn from a
seeded source (see `support.chance`), started on the same data, told to go on with what
it had, killed again... A kill counts for a job that had traffic since the start, and
was not complete.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.chance import seeded, tell
from tests.support.ffmpeg import slow_ffmpeg
from tests.support.kinds import CHUNK, NAMES, SLOW, THROUGH_FFMPEG, Kind, kinds
from tests.support.origin import Origin, digest, open_origin
from tests.support.process import ServerProcess, alive, running_server, wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]

ENGINES: Final = ("process", "thread")
KILLS: Final = 4
MANY: Final = 40
AIMS: Final = ("transfer", "transfer", "any", "ffmpeg", "ffmpeg")
GONE_SECONDS: Final = 5.0
STUBS: Final = Path(__file__).parents[1] / "support" / "stubs"
ACTIVE: Final = ("queued", "starting", "running")
TO_RESUME: Final = ("failed", "paused")


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """Serve for one test; its servers have the stubs."""
    paths = (str(STUBS), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("STUB_CHUNK", str(CHUNK))
    with open_origin() as found:
        yield found


@dataclass
class Fleet:
    """One job of each kind on one data directory, through many lives of its server."""

    root: Path
    origin: Origin
    engine: str
    chance: random.Random
    jobs: dict[str, str] = field(default_factory=dict)
    struck: set[str] = field(default_factory=set)
    kills: Counter[str] = field(default_factory=Counter)
    met_ffmpeg: int = 0
    found: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in NAMES})
    """The digests of all files of a kind that were published."""

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.ffmpeg = slow_ffmpeg(self.root / "program")

    @property
    def kinds(self) -> dict[str, Kind]:
        """What runs."""
        return kinds(SLOW)

    def serve(self) -> Any:  # noqa: ANN401
        """Start the server on what the last one left."""
        return running_server(
            self.root, engine=self.engine, max_concurrent=len(NAMES), allow_local=1
        )

    def live(self, kills: int) -> None:
        """Start, go on with everything, and be killed; `kills` is how often each kind shall be."""
        self.origin.mended.clear()
        with self.serve() as server:
            self.go_on(server)
            before = {name: kind.traffic(self.origin) for name, kind in self.kinds.items()}
            lacking = [name for name in NAMES if self.kills[name] < kills]
            self.await_instant(server, lacking or list(NAMES), before)
            children = server.children()
            in_ffmpeg = self.in_ffmpeg_of(children)
            self.struck = self.moved_since(before) | in_ffmpeg
            server.process.kill()
            server.process.wait(10)
        self.met_ffmpeg += bool(in_ffmpeg)
        wait_until(lambda: self.is_gone(children), GONE_SECONDS, "the end of all of the server")

    def is_gone(self, children: list[int]) -> bool:
        """Return whether nothing of a server still runs, by its ancestry and by its files."""
        return not alive(children) and not processes_of(self.root)

    def go_on(self, server: ServerProcess) -> None:
        """Resume every job that was killed; replace those that are complete."""
        listed = server.ask("GET", "/api/jobs").json()["jobs"]
        assert {job["job_id"] for job in listed} == set(self.jobs.values())  # none lost, none back
        for name, job_id in list(self.jobs.items()):
            job = server.job(job_id)
            if job["status"] == "completed":
                self.take(server, name)
                continue
            self.kills[name] += name in self.struck
            if job["status"] in TO_RESUME:
                answer = server.ask("POST", f"/api/jobs/{job_id}/resume")
                # 507: resumed, but on a machine in trouble it was not on disk in time.
                assert answer.status_code in (200, 507), answer.text
        for name, kind in self.kinds.items():
            if name not in self.jobs:
                options = {**kind.options, "ffmpeg_location": str(self.ffmpeg.path)}
                self.jobs[name] = server.create(kind.url(self.origin), name, **options)

    def await_instant(
        self, server: ServerProcess, lacking: list[str], before: dict[str, int]
    ) -> None:
        """Wait for a random instant: of the transfers, of somebody's ffmpeg, or of any time."""
        name = self.chance.choice(lacking)
        aim = self.chance.choice(AIMS if name in THROUGH_FFMPEG else AIMS[:3])
        seconds = self.chance.random() * {"transfer": 1.0, "any": 2.0, "ffmpeg": 1.0}[aim]
        if aim == "ffmpeg":
            self.origin.mend(f"/{name}")

        def there() -> bool:
            busy, ended = self.in_ffmpeg_of(server.children()), self.ended(server)
            if aim == "ffmpeg":
                return name in busy | ended
            return aim == "any" or set(lacking) <= self.moved_since(before) | busy | ended

        wait_until(there, 60, f"{aim} of {name}")
        time.sleep(seconds)

    def moved_since(self, before: dict[str, int]) -> set[str]:
        """Return the kinds that had traffic since then."""
        return {n for n, kind in self.kinds.items() if kind.traffic(self.origin) > before[n]}

    def ended(self, server: ServerProcess) -> set[str]:
        """Return the kinds whose job is not active any more."""
        jobs = server.ask("GET", "/api/jobs").json()["jobs"]
        active = {job["job_id"] for job in jobs if job["status"] in ACTIVE}
        return {name for name, job_id in self.jobs.items() if job_id not in active}

    def in_ffmpeg_of(self, pids: list[int]) -> set[str]:
        """Return the kinds that one of these processes encodes."""
        commands = [command for pid in pids if "ffmpeg" in (command := command_of(pid))]
        return {name for name in NAMES if any(f"/{name}/" in command for command in commands)}

    def finish(self) -> None:
        """Let all jobs complete, undisturbed."""
        self.origin.mend("/")
        self.ffmpeg.mend()
        with self.serve() as server:
            self.go_on(server)
            for name in list(self.jobs):
                wait_ended(server, self.jobs[name])
                self.take(server, name)

    def take(self, server: ServerProcess, name: str) -> None:
        """Check a complete job's files, and remove both."""
        job = server.job(self.jobs[name])
        assert job["status"] == "completed", (job.get("error"), logs_of(server, self.jobs[name]))
        file = only_file(self.root / name)
        assert str(file) == job["main_file"]
        self.found[name].add(digest(file))
        file.unlink()
        assert server.ask("DELETE", f"/api/jobs/{self.jobs.pop(name)}").status_code == 200


def only_file(folder: Path) -> Path:
    """Return the one file in a folder, once nothing else is there.

    A job is `completed` when its file is in place; its work directory goes right after.
    """
    wait_until(lambda: len(list(folder.iterdir())) == 1, 30, f"one file in {folder}")
    (file,) = folder.iterdir()
    return file


def wait_ended(server: ServerProcess, job_id: str) -> None:
    wait_until(lambda: server.job(job_id)["status"] not in ACTIVE, 60, f"the end of {job_id}")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def processes_of(root: Path) -> list[int]:
    """Return the processes that run in `root`, or with a path below it as an argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            where = str((folder / "cwd").readlink())
        except OSError:
            continue
        if where.startswith(f"{root}") or f"{root}/" in command_of(int(folder.name)):
            found.append(int(folder.name))
    return found


def encoders(server: ServerProcess) -> list[int]:
    """Return what encodes for the server, slowly."""
    return [pid for pid in server.children() if "-readrate" in command_of(pid)]


def logs_of(server: ServerProcess, job_id: str) -> str:
    return server.ask("GET", f"/api/jobs/{job_id}/logs").text


def kill_and_kill(fleet: Fleet, kills: int) -> None:
    lives = 0
    while not all(fleet.kills[name] >= kills for name in NAMES):
        fleet.live(kills)
        lives += 1
    fleet.finish()
    undisturbed = Fleet(fleet.root / "undisturbed", fleet.origin, fleet.engine, fleet.chance)
    undisturbed.finish()
    tell(f"{fleet.engine}: {lives} lives, {dict(fleet.kills)}, {fleet.met_ffmpeg} in ffmpeg")
    assert fleet.found == undisturbed.found


@pytest.fixture(params=ENGINES)
def fleet(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin) -> Fleet:
    """Return what is killed."""
    return Fleet(tmp_path, origin, request.param, seeded())


def test_a_server_killed_at_any_instant_loses_and_tears_nothing(fleet: Fleet) -> None:
    """No process is left, every acknowledged job is there and ends with the right bytes."""
    kill_and_kill(fleet, KILLS)


@pytest.mark.soak
def test_many_kills(fleet: Fleet) -> None:
    """The same, many times; some of them while ffmpeg writes."""
    kill_and_kill(fleet, MANY)
    assert fleet.met_ffmpeg


MERGE: Final = {"merge_output_format": "mp4"}
ENCODE: Final = {"extract_audio": True, "audio_format": "mp3"}


@pytest.mark.parametrize(
    ("engine", "work", "workers_first"),
    [
        ("process", MERGE, False),
        ("process", ENCODE, False),
        ("process", ENCODE, True),
        ("thread", MERGE, False),
        ("thread", ENCODE, False),
    ],
    ids=["merge", "re-encode", "re-encode-all-at-once", "merge-thread", "re-encode-thread"],
)
def test_ffmpeg_goes_with_its_server(
    tmp_path: Path, origin: Origin, engine: str, work: dict[str, Any], workers_first: bool
) -> None:
    """Killed while ffmpeg writes, nothing of them is left, and the next run repeats its work.

    Nor when no worker is left to notice anything: all Python processes killed at once.
    """
    ffmpeg = slow_ffmpeg(tmp_path / "program")
    options = {**work, "ffmpeg_location": str(ffmpeg.path)}
    url = kinds()["dash"].url(origin)
    with running_server(tmp_path, engine=engine, allow_local=1) as server:
        job_id = server.create(url, "out", **options)
        wait_until(lambda: encoders(server), 60, "ffmpeg's beginning")
        children = server.children()
        if workers_first:
            server.process.send_signal(signal.SIGSTOP)
            for pid in set(children) - set(encoders(server)):
                os.kill(pid, signal.SIGKILL)
        server.process.kill()
        server.process.wait(10)
        wait_until(lambda: not alive(children), GONE_SECONDS, "the end of all of the server")
    ffmpeg.mend()
    with running_server(tmp_path, engine=engine, allow_local=1) as server:
        whole = server.create(url, "whole", **options)
        if server.job(job_id)["status"] in TO_RESUME:
            server.ask("POST", f"/api/jobs/{job_id}/resume")
        for one in (job_id, whole):
            wait_ended(server, one)
        found, expected = (only_file(tmp_path / name) for name in ("out", "whole"))
    assert digest(found) == digest(expected)


def test_a_worker_that_lets_no_thread_run_goes_with_its_server(
    tmp_path: Path, origin: Origin
) -> None:
    """Its own watch over the server cannot run then: the kernel ends it."""
    with running_server(tmp_path, engine="process") as server:
        job_id = server.create(origin.at("/html", how="keeps-the-interpreter"), "out")
        wait_until(lambda: "keeping the interpreter" in logs_of(server, job_id), 30, "its log")
        children = server.children()
        assert children
        server.process.kill()
        server.process.wait(10)
        try:
            wait_until(lambda: not alive(children), GONE_SECONDS, "the worker's end")
        finally:
            for pid in alive(children):
                os.kill(pid, signal.SIGKILL)
