"""The server in a host that cannot start Python processes: everything happens in threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.engines import run_threads, wait_until
from tests.support.origin import Origin, digest, open_origin
from tests.support.process import free_port
from vidra_trio.client import Client, RemoteJob
from vidra_trio.engine import hooks
from vidra_trio.server import run
from vidra_trio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZE = 1_000_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


class Host:
    """A program with a server in a thread that is not its main one."""

    def __init__(self, root: Path) -> None:
        self.settings = Settings.private(
            root, download_dir=root / "downloads", port=free_port(), embedded=True
        )
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=run, args=(self.settings,), kwargs={"stop": self._remember}
        )

    def _remember(self, stop: trio.Event) -> None:
        self._token, self._stop = trio.lowlevel.current_trio_token(), stop
        self._ready.set()

    def __enter__(self) -> Host:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the start of a Python process what it is in a packaged application: a mistake."""
    real = subprocess.Popen.__init__

    def start(self: object, args: object, *rest: object, **options: object) -> None:
        words = args if isinstance(args, (list, tuple)) else [args]
        assert sys.executable not in map(str, words), words
        real(self, args, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess.Popen, "__init__", start)


@pytest.mark.usefixtures("no_python")
async def test_a_host_downloads_pauses_and_cancels_in_threads(
    tmp_path: Path, origin: Origin
) -> None:
    """The same commands, the same files; nothing of it is left in the host."""
    with trio.fail_after(60):
        with Host(tmp_path) as host:
            await use(host, origin)
        assert run_threads() == []
        assert hooks.wrapped() == ()
        await wait_until(lambda: origin.open_connections() == 0)
    for name in ("whole", "paused"):
        path = tmp_path / "downloads" / f"{name} [{name}].mp4"
        assert digest(path) == origin.digest(f"{name}.mp4", SIZE)


async def use(host: Host, origin: Origin) -> None:
    """Have one job completed, one cancelled, one paused and resumed, and one under way."""
    slow = origin.file("slow.mp4", SIZE, rate=100_000)
    async with Client(host.url, host.settings.token) as client:
        found = await client.diagnostics()
        assert found["engine"]["kind"] == "thread"
        assert "embedded" in found["engine"]["reason"]

        first = await client.create(origin.file("whole.mp4", SIZE))
        doomed = await client.create(slow)
        paused = await client.create(origin.file("paused.mp4", SIZE, rate=400_000))
        await wait_until(lambda: sum(one.sent for one in origin.seen("slow.mp4")) > 50_000)
        await wait_until(lambda: sum(one.sent for one in origin.seen("paused.mp4")) > 50_000)
        await client.cancel(doomed.job_id)
        await client.pause(paused.job_id)
        for job, status in ((first, "completed"), (doomed, "cancelled"), (paused, "paused")):
            await reaches(client, job, status)
        await client.resume(paused.job_id)
        await reaches(client, paused, "completed")
        left = await client.create(slow)  # the stop meets it
        await wait_until(lambda: len(origin.seen("slow.mp4")) > 3)
        assert (await client.job(left.job_id)).status == "running"


async def reaches(client: Client, job: RemoteJob, status: str) -> None:
    """Wait until the job is where it should get."""
    while (await client.job(job.job_id)).status != status:  # noqa: ASYNC110  # as a client polls
        await trio.sleep(0.02)
