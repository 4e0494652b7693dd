"""A server as users run it: a process of its own, watched from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a token of the tests, long enough"
START_SECONDS = 30.0


@dataclass
class ServerProcess:
    """A running `vidra-trio serve` and where everything of it lies."""

    process: subprocess.Popen[str]
    url: str
    root: Path

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "data"

    def ask(self, method: str, path: str, **more: object) -> httpx.Response:
        """Send one request with the token."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(trust_env=False, timeout=15, headers=headers) as client:
            return client.request(method, f"{self.url}{path}", **more)  # type: ignore[arg-type]

    def create(self, url: str | list[str], folder: str, **options: object) -> str:
        """Create a job that downloads into `folder`; return its id."""
        options = {"paths": {"home": str(self.root / folder)}, **options}
        answer = self.ask("POST", "/api/jobs", json={"urls": url, "options": options})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, object]:
        """Return one job."""
        answer = self.ask("GET", f"/api/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def children(self) -> list[int]:
        """Return the ids of all processes that descend from the server, Linux only."""
        return descendants(self.process.pid)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Signal the server; return its exit code and the seconds it took."""
        began = time.monotonic()
        self.process.send_signal(sig)
        return self.process.wait(20), time.monotonic() - began


@contextlib.contextmanager
def running_server(root: Path, port: int = 0, **settings: object) -> Iterator[ServerProcess]:
    """Run `python -m vidra_trio serve` below `root` for the length of the block."""
    root.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("VIDRA_")}
    env |= {
        "VIDRA_SERVER_TOKEN": TOKEN,
        "VIDRA_SERVER_DATA": str(root / "data"),
        "VIDRA_SERVER_CACHE": str(root / "cache"),
        "VIDRA_SERVER_PORT": str(port),
        **{f"VIDRA_SERVER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    output = root / "output.txt"
    with output.open("a") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "vidra_trio", "serve"],
            cwd=root, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
        )  # fmt: skip
    server = ServerProcess(process, f"http://127.0.0.1:{port}", root)
    try:
        _wait_healthy(server, output)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _wait_healthy(server: ServerProcess, output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.process.poll() is None, output.read_text()
        with contextlib.suppress(httpx.TransportError):
            if server.ask("GET", "/").status_code == 200:
                return
        time.sleep(0.05)
    raise TimeoutError(output.read_text())


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def descendants(pid: int) -> list[int]:
    """Return the ids of all living descendants of a process, read from /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(folder.name)] = int(fields[1])
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def group_of(leader: int) -> list[int]:
    """Return the ids of all living processes of a group, Linux only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def alive(pids: list[int]) -> list[int]:
    """Return those of `pids` that still run."""
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z"


def wait_until(condition: object, seconds: float = 20.0, what: str = "it") -> None:
    """Block until `condition()` holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
