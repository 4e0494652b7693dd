"""The bench of downloads compares what it measures. Its numbers are no test's business."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from bench.origin import Request, noise, parse_head, parse_range
from bench.processes import descendants
from bench.scenarios import downloads
from bench.site import open_site

if TYPE_CHECKING:
    from bench.site import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the bench asks the Linux kernel"),
]

TINY = downloads.Load(jobs=2, size=300_000, rounds=1)


def test_all_ways_fetch_the_same() -> None:
    """A ratio between two different amounts of work would be worth nothing."""
    before = descendants()
    table = downloads.measure(downloads.Wishes([TINY]))
    assert [(row[0], row[1]) for row in table.rows] == [
        ("2 x 0.3 MB", way) for way in ("process", "thread", "cli")
    ]
    assert not table.notes
    assert all(cell["rounds"][0]["cpu"] > 0 for cell in table.data)
    assert descendants() == before


class Forger:
    """A way that brings something else."""

    name = "forger"

    async def fetch(self, url: str, folder: Path, number: int) -> Path:
        file = folder / str(number)
        await trio.Path(file).write_bytes(noise(0)[:-1] + b"!")
        return file

    def pids(self) -> list[int]:
        return []


async def test_a_wrong_file_is_no_result(tmp_path: Path) -> None:
    """A round counts only when every byte is right."""
    async with open_site() as site:
        with pytest.raises(RuntimeError, match="is not what was sent"):
            await downloads.run_round(Forger(), replace(TINY, size=len(noise(0))), site, tmp_path)
    assert not list(await trio.Path(tmp_path).iterdir())


async def ask(site: Site, head: str) -> bytes:
    """Return what the origin answers, as far as it comes in half a second."""
    stream = await trio.open_tcp_stream("127.0.0.1", site.ports.http)
    answer = b""
    async with stream:
        await stream.send_all(f"{head}\r\n\r\n".encode())
        with trio.move_on_after(0.5):
            async for chunk in stream:
                answer += chunk
    return answer


async def test_the_origin_serves_parts_and_faults() -> None:
    """A range is exact, a stall is one, and the end of a connection is seen at once."""
    async with open_site() as site:
        part = await ask(site, "GET /a/file/3000000/x.mp4 HTTP/1.1\r\nRange: bytes=2000000-2000009")
        whole = noise(0) + noise(1)
        assert part.startswith(b"HTTP/1.1 206")
        assert part.partition(b"\r\n\r\n")[2] == whole[2_000_000:2_000_010]
        stalled = await ask(site, "GET /b/file/3000000/x.mp4?stall=1000 HTTP/1.1")
        assert len(stalled.partition(b"\r\n\r\n")[2]) == 1000
        before = trio.current_time()
        visit = await site.wait_closed("b")
        assert trio.current_time() - before < 10
        assert visit.requests == {"file": 1}
        assert visit.open == 0


def test_heads_are_parsed() -> None:
    """What clients of ours send, no more."""
    head = b"GET /t/file/10/a.mp4?rate=5 HTTP/1.1\r\nHost: x\r\nRange: bytes=3-\r\n\r\n"
    assert parse_head(head) == Request("GET", "t", "file", "10/a.mp4", {"rate": "5"}, "3-")
    assert parse_range("3-", 10) == (3, 10)
    assert parse_range("3-4", 10) == (3, 5)
    assert parse_range("", 10) == (0, 10)
