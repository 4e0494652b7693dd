"""The bench's side of the origin: start it, spell its URLs, ask what it saw."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec
import trio

from bench.origin import Ports, Question, Visit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Site:
    """A running origin."""

    ports: Ports
    pid: int

    def url(self, token: str, path: str, *, tls: bool = False, **query: object) -> str:
        """Return the URL of something, in the name of `token`."""
        scheme, port = ("https", self.ports.https) if tls else ("http", self.ports.http)
        faults = f"?{urlencode(query)}" if query else ""
        return f"{scheme}://127.0.0.1:{port}/{token}/{path}{faults}"

    async def visit(self, token: str) -> Visit:
        """Return what the origin has seen of `token`."""
        return await self._ask(Question(token))

    async def wait_closed(self, token: str) -> Visit:
        """Return what the origin has seen of `token`, once it has no connection there."""
        return await self._ask(Question(token, closed=True))

    async def _ask(self, question: Question) -> Visit:
        async with await trio.open_tcp_stream("127.0.0.1", self.ports.control) as stream:
            await stream.send_all(msgspec.json.encode(question) + b"\n")
            answer = b"".join([chunk async for chunk in stream])
        return msgspec.json.decode(answer, type=Visit)


@asynccontextmanager
async def open_site(media: Path | None = None) -> AsyncIterator[Site]:
    """Run an origin for the length of the block; without an `openssl` it has no https."""
    command = [sys.executable, "-m", "bench.origin"]
    with tempfile.TemporaryDirectory(prefix="vidra-bench-") as folder:
        if media is not None:
            command += ["--media", str(media)]
        if (certificate := await _make_certificate(Path(folder))) is not None:
            command += ["--certificate", str(certificate)]
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdin is not None  # noqa: S101  # asked for
        assert process.stdout is not None  # noqa: S101
        try:
            line = b""
            with trio.fail_after(30):
                while not line.endswith(b"\n"):
                    if not (chunk := await process.stdout.receive_some()):
                        raise RuntimeError("the origin did not start")
                    line += chunk
            yield Site(msgspec.json.decode(line, type=Ports), process.pid)
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await process.stdin.aclose()
                await process.stdout.aclose()


async def _make_certificate(folder: Path) -> Path | None:
    """Make a key and a certificate that nobody trusts, in one file."""
    key, certificate, both = folder / "key", folder / "certificate", folder / "both"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command = [*words.split(), "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        await trio.run_process(
            [*command, str(certificate)], capture_stdout=True, capture_stderr=True
        )
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        return both
    return None
