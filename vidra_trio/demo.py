"""`vidra-trio demo`: the whole stack at work, without internet, in a few seconds.

A small clip is made with the ffmpeg that downloads use, and served, slowly, by
an origin of our own. A private server downloads it: real worker process, real
HTTP, real WebSockets; one client shows bars, a second one only watches. Then
another download is cancelled on its way. Whatever is not as it should be ends
the demo with the reason and exit code 1.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.bars import open_board, say
from vidra_trio.client import Client
from vidra_trio.core.errors import VidraError
from vidra_trio.core.states import JobState
from vidra_trio.engine.tools import find_ffmpeg
from vidra_trio.get import open_private_server
from vidra_trio.interrupts import INTERRUPTED, interrupts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rich.console import Console

    from vidra_trio.client import Message, RemoteJob
    from vidra_trio.server import Server

CLIP_SECONDS: Final = 6

TRANSFER_SECONDS: Final = 4.0
"""What one transfer takes at the origin's pace: long enough to watch, short enough to wait for."""

SLOWER: Final = 20
"""The download that is to be cancelled takes this much longer: it cannot finish by accident."""

HALFWAY: Final = 50_000
"""Bytes after which it is cancelled: on its way, and seen to be."""

DEADLINE: Final = 60.0
"""Seconds for everything. It takes about ten; a machine under load may be slower."""

CLEAN_DEADLINE: Final = 5.0
"""Seconds after a cancel within which every trace must be gone."""

CHUNK: Final = 16 * 1024

AS_IT_IS: Final = {
    "output": "%(title)s.%(ext)s",
    "fixup": "never",
    **dict.fromkeys(
        ("embed_subs", "embed_thumbnail", "embed_metadata", "embed_chapters", "embed_info_json"),
        False,
    ),
}
"""Options that leave a file byte by byte as the origin sent it, so that its hash says all."""


class DemoFailed(VidraError):
    """Something was not as the demo promises."""

    code = "demo_failed"


async def show(console: Console) -> int:
    """Run the demo and return the exit code; what it made is gone afterwards.

    Raises:
        DemoFailed: something was not as it should be.
    """
    started = trio.current_time()
    scope = trio.CancelScope(deadline=started + DEADLINE)
    with (
        interrupts(partial(scope.cancel, "interrupted")) as received,
        tempfile.TemporaryDirectory(prefix="vidra-demo-", ignore_cleanup_errors=True) as folder,
    ):
        results = await _show(trio.Path(folder), scope, console)
    if received:
        return INTERRUPTED
    if scope.cancelled_caught:
        raise DemoFailed(f"not done in {DEADLINE:g} s")
    seconds = trio.current_time() - started
    say(console, f"demo ok in {seconds:.1f} s: {', '.join(results)}")
    return 0


async def _show(folder: trio.Path, scope: trio.CancelScope, console: Console) -> list[str]:
    results: list[str] = []
    processes: frozenset[int] = frozenset()
    failure: DemoFailed | None = None  # raised outside of the nurseries, which would wrap it
    downloads = folder / "downloads"
    async with open_private_server(Path(downloads)) as (server, client), open_origin() as origin:
        # Inside the server: its own tasks are needed to cancel what is left.
        with scope:
            say(console, f"a private server listens on {server.url}")
            try:
                origin.clip = await _make_clip(folder / "clip.mp4", console)
                stage = Stage(server, client, origin, downloads, console)
                results.append(await stage.download())
                cancelled, processes = await stage.cancel()
                results += [cancelled, "nothing left"]
            except DemoFailed as error:
                failure = error
    if failure is not None:
        raise failure
    await _expect_gone(processes)
    if processes:
        say(console, f"server stopped; none of its {len(processes)} processes is left")
    return results


async def _make_clip(file: trio.Path, console: Console) -> bytes:
    """Draw and encode a clip; every ffmpeg has these sources and encoders."""
    ffmpeg = await trio.to_thread.run_sync(find_ffmpeg)
    if not ffmpeg.path:
        raise DemoFailed("there is no ffmpeg, neither on PATH nor from imageio-ffmpeg")
    picture = ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440"]
    coding = ["-t", str(CLIP_SECONDS), "-c:v", "mpeg4", "-b:v", "6M", "-c:a", "aac"]
    command = [ffmpeg.path, "-nostdin", "-v", "error", "-y", *picture, *sound, *coding, str(file)]
    done = await trio.run_process(command, capture_stderr=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"ffmpeg: {done.stderr.decode(errors='replace')[-200:]}")
    clip = await file.read_bytes()
    say(console, f"made a clip of {len(clip):,} bytes with ffmpeg {ffmpeg.version}")
    return clip


@dataclass(slots=True)
class Tally:
    """What the second client hears."""

    events: Counter[str] = field(default_factory=Counter)
    percents: list[float] = field(default_factory=list)

    def take(self, message: Message) -> None:
        """Count one message."""
        self.events[message.event] += 1
        if message.progress is not None and message.progress.percent is not None:
            self.percents.append(message.progress.percent)


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that the two acts play with."""

    server: Server
    client: Client
    origin: Origin
    downloads: trio.Path
    console: Console

    async def download(self) -> str:
        """Download the clip, watched by a second client, and compare it with the original."""
        say(self.console, "a download, shown by one client and watched by another:")
        started = trio.current_time()
        job, tally = await self._download_watched()
        seconds = trio.current_time() - started
        if job is None or job.state is not JobState.COMPLETED or job.main_file is None:
            raise DemoFailed(f"the download did not complete: {job}")
        got = await trio.Path(job.main_file).read_bytes()
        if hashlib.sha256(got).digest() != hashlib.sha256(self.origin.clip).digest():
            raise DemoFailed(f"{job.main_file} is not what the origin sent")
        if not tally.percents or tally.percents != sorted(tally.percents):
            raise DemoFailed(f"the second client saw something else: {tally}")
        heard = tally.events.total()
        say(self.console, f"sha256 is right; the second client heard {heard} messages")
        return f"{len(got) / 1e6:.1f} MB in {seconds:.1f} s, sha256 right, {heard} messages watched"

    async def _download_watched(self) -> tuple[RemoteJob | None, Tally]:
        tally = Tally()
        with open_board(self.console) as board:
            job = await self.client.create(self.origin.url("fast"), options=AS_IT_IS)
            board.begin(job.job_id, self.origin.url("fast"))
            async with (
                Client(self.server.url, self.server.token) as second,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(second.follow, job.job_id, tally.take)
                ended = await self.client.follow(job.job_id, board.take)
        return ended, tally

    async def cancel(self) -> tuple[str, frozenset[int]]:
        """Cancel a download on its way; return also the processes that were there then."""
        say(self.console, "another download, cancelled on its way:")
        before = await _tree(self.downloads)
        with open_board(self.console) as board:
            job = await self.client.create(self.origin.url("slow"), options=AS_IT_IS)
            board.begin(job.job_id, self.origin.url("slow"))
            async with self.client.watch_job(job.job_id) as watch:
                async for message in watch:
                    board.take(message)
                    if _downloaded(message) >= HALFWAY:
                        break
            processes = await trio.to_thread.run_sync(descendants)
            asked = trio.current_time()
            await self.client.cancel(job.job_id)
            ended = await self.client.follow(job.job_id, board.take)
        milliseconds = 1000 * (trio.current_time() - asked)
        if ended is not None and ended.state is not JobState.CANCELLED:
            raise DemoFailed(f"the cancelled download is {ended.status}")
        await self._expect_clean(before)
        say(self.console, f"cancelled in {milliseconds:.0f} ms; no file left, connection closed")
        return f"cancelled in {milliseconds:.0f} ms", processes

    async def _expect_clean(self, before: frozenset[str]) -> None:
        async def traces() -> list[str]:
            sending = ["an open connection"] if self.origin.transfers else []
            return sending + sorted(await _tree(self.downloads) - before)

        if left := await _until_empty(traces):
            raise DemoFailed(f"the cancelled download left {', '.join(left)}")


def _downloaded(message: Message) -> int:
    progress = message.progress
    return (progress.downloaded_bytes or 0) if progress is not None else 0


async def _tree(folder: trio.Path) -> frozenset[str]:
    return frozenset([str(path) for path in await folder.rglob("*")])


async def _expect_gone(processes: frozenset[int]) -> None:
    async def alive() -> list[str]:
        return [str(pid) for pid in sorted(processes) if _is_alive(pid)]

    if left := await _until_empty(alive):
        raise DemoFailed(f"processes are still there: {', '.join(left)}")


async def _until_empty(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Look again and again until nothing is left or time is up; return what is left."""
    given_up = trio.current_time() + CLEAN_DEADLINE
    while (left := await look()) and trio.current_time() < given_up:  # noqa: ASYNC110 - others' doing has no event of ours
        await trio.sleep(0.01)
    return left


def descendants() -> frozenset[int]:
    """Return the processes below this one; none where `ps` is not to be had (Windows)."""
    parents = _parents_in_proc() if Path("/proc/self/stat").exists() else _parents_by_ps()
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return frozenset(found - {os.getpid()})


def _parents_in_proc() -> dict[int, int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # ended meanwhile
            continue
        # The name in parentheses may hold anything, so count from its end.
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    return parents


def _parents_by_ps() -> dict[int, int]:
    ps = shutil.which("ps")
    if ps is None:
        return {}
    listing = subprocess.run(  # noqa: S603 - a fixed command
        [ps, "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    return {int(pid): int(parent) for pid, parent in map(str.split, listing.stdout.splitlines())}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number is somebody else's by now
        return False
    return True


@dataclass(slots=True)
class Origin:
    """A web server with one clip, fast and slow."""

    clip: bytes = b""
    port: int = 0
    transfers: int = 0

    def url(self, pace: str) -> str:
        """Return the clip's address; `pace` is `fast` or `slow`."""
        return f"http://127.0.0.1:{self.port}/{pace}/clip.mp4"

    async def answer(self, stream: trio.SocketStream) -> None:
        """Answer one request and close the connection."""
        async with stream:
            try:
                method, path = await _request(stream)
                await stream.send_all(self._head())
                if method != b"HEAD":
                    await self._send(stream, SLOWER if path.startswith(b"/slow/") else 1)
            except (trio.BrokenResourceError, ValueError):
                return  # the peer is gone, or is no web client

    def _head(self) -> bytes:
        lines = ("HTTP/1.1 200 OK", "Content-Type: video/mp4", "Connection: close")
        return "\r\n".join((*lines, f"Content-Length: {len(self.clip)}", "", "")).encode()

    async def _send(self, stream: trio.SocketStream, slower: int) -> None:
        started = trio.current_time()
        self.transfers += 1
        try:
            for at in range(0, len(self.clip), CHUNK):
                await stream.send_all(self.clip[at : at + CHUNK])
                share = at / len(self.clip)
                await trio.sleep_until(started + share * TRANSFER_SECONDS * slower)
        finally:
            self.transfers -= 1


async def _request(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > CHUNK or not (more := await stream.receive_some()):
            raise ValueError("no request")
        head += more
    method, path, _ = head.split(b" ", 2)
    return method, path


@asynccontextmanager
async def open_origin() -> AsyncIterator[Origin]:
    """Serve a clip on a free port of this machine for the length of the block."""
    origin = Origin()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, origin.answer, port=0, host="127.0.0.1")
        )
        origin.port = listeners[0].socket.getsockname()[1]
        yield origin
        nursery.cancel_scope.cancel("the demo is over")
