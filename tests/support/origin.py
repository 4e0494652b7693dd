"""A media origin for tests: real bytes, real media, and every fault that a site can have.

    with open_origin() as origin:
        url = origin.file("clip.mp4", 1_000_000, rate=200_000)
        ...
        assert digest(path) == origin.digest("clip.mp4", 1_000_000)

Paths: `/file/<size>/<name>` has seeded bytes; `/media/...` is real media (made once
per process with the project's own ffmpeg: clip.mp4, tone.mp3, cover.jpg, subs.vtt,
hls/, dash/); `/status/<code>`, `/hang`, `/redirect?to=`, `/page?src=...&title=`,
`/html`, `/feed?src=...`.

Faults, as query of a file: rate=<bytes a second>, ttfb=<seconds before the answer>,
stall=<bytes, then nothing more>, drop=<bytes, then the connection is cut>,
drop_times=<only the first k answers>, status=<code>, fail_times=<only the first k>,
norange=1, nolen=1.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import html
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOISE_SIZE = 1 << 18
_STEPS_PER_SECOND = 50
_TYPES = {
    ".mp4": "video/mp4",
    ".m4s": "video/iso.segment",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".ts": "video/mp2t",
    ".jpg": "image/jpeg",
    ".vtt": "text/vtt",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".mpd": "application/dash+xml",
}


@dataclass
class Request:
    """One request for a file, as the origin saw it."""

    method: str
    path: str
    query: str
    range: str | None
    user_agent: str | None
    sent: int = 0
    done: bool = False


@dataclass
class Origin:
    """A running origin."""

    url: str
    requests: list[Request] = field(default_factory=list)
    connections: set[socket.socket] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def file(self, name: str, size: int, **faults: object) -> str:
        """Return the URL of `size` seeded bytes called `name`."""
        return self.at(f"/file/{size}/{quote(name)}", **faults)

    def media(self, name: str, **faults: object) -> str:
        """Return the URL of a real media file."""
        return self.at(f"/media/{name}", **faults)

    def at(self, path: str, **query: object) -> str:
        """Return a URL of this origin; a list in the query is repeated."""
        return f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")

    @staticmethod
    def digest(name: str, size: int) -> str:
        """Return the sha256 of a seeded file."""
        return hashlib.sha256(content(name, size)).hexdigest()

    def open_connections(self) -> int:
        """Return how many connections clients hold now."""
        with self.lock:
            return len(self.connections)

    def seen(self, path: str) -> list[Request]:
        """Return the GET requests whose path contains `path`, in order."""
        with self.lock:
            return [one for one in self.requests if path in one.path and one.method == "GET"]

    def wait_sent(self, path: str, size: int, *, seconds: float = 20.0) -> None:
        """Block until `size` bytes of `path` are on their way (all GET answers together)."""
        self.wait(lambda: sum(one.sent for one in self.seen(path)) >= size, seconds=seconds)

    def wait(self, condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
        """Block until `condition()` is true: for a thread of its own, not for Trio's."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.005)


def digest(path: str | Path) -> str:
    """Return a file's sha256."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@functools.lru_cache(maxsize=32)
def content(name: str, size: int) -> bytes:
    """Return a seeded file's bytes: the same for the same name and size, everywhere."""
    noise = random.Random(name).randbytes(_NOISE_SIZE)
    return (noise * (size // _NOISE_SIZE + 1))[:size]


@functools.cache
def media_root() -> Path:
    """Return the folder of real media, made at the first call (about 2 s of work)."""
    root = Path(tempfile.mkdtemp(prefix="vidra-media-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    encode = ("-c:v", "mpeg4", "-q:v", "5", "-g", "25", "-c:a", "aac", "-b:a", "64k")
    picture, sound = "testsrc2=s=320x180:r=25:d=8", "sine=frequency=330:d=8"
    clip = str(root / "clip.mp4")
    _ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, *encode,
            "-movflags", "+faststart", "-metadata", "title=Clip", clip)  # fmt: skip
    _ffmpeg("-f", "lavfi", "-i", "sine=frequency=440:d=2", str(root / "tone.mp3"))
    _ffmpeg("-i", clip, "-frames:v", "1", "-update", "1", str(root / "cover.jpg"))
    (root / "subs.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.500\nhello\n")
    (root / "hls").mkdir()
    _ffmpeg("-i", clip, "-c", "copy", "-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod",
            "-hls_segment_filename", str(root / "hls" / "seg%03d.ts"),
            str(root / "hls" / "index.m3u8"))  # fmt: skip
    (root / "dash").mkdir()
    _ffmpeg("-i", clip, "-c", "copy", "-f", "dash", "-seg_duration", "2", "-adaptation_sets",
            "id=0,streams=v id=1,streams=a", str(root / "dash" / "manifest.mpd"))  # fmt: skip
    return root


@contextlib.contextmanager
def open_origin() -> Iterator[Origin]:
    """Serve on a free port of 127.0.0.1 for the length of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="origin")
    thread.start()
    try:
        yield server.origin
    finally:
        server.origin.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _ffmpeg(*arguments: str) -> None:
    program = find_ffmpeg().path
    head = (program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y")
    subprocess.run([*head, *arguments], check=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.origin = Origin(f"http://127.0.0.1:{self.server_address[1]}")

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def origin(self) -> Origin:
        assert isinstance(self.server, _Server)
        return self.server.origin

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def setup(self) -> None:
        super().setup()
        with self.origin.lock:
            self.origin.connections.add(self.connection)

    def finish(self) -> None:
        with self.origin.lock:
            self.origin.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self.route = unquote(split.path)
        self.query = parse_qs(split.query, keep_blank_values=True)
        head, _, rest = self.route.lstrip("/").partition("/")
        answer = getattr(self, f"_answer_{head}", None)
        if answer is None:
            self._text("not here", status=404)
        else:
            with contextlib.suppress(ConnectionError, TimeoutError):
                answer(rest)

    def _answer_file(self, rest: str) -> None:
        size, _, name = rest.partition("/")
        self._body(content(name, int(size)), Path(name).suffix)

    def _answer_media(self, rest: str) -> None:
        path = (media_root() / rest).resolve()
        if not path.is_relative_to(media_root()) or not path.is_file():
            self._text("not here", status=404)
            return
        data = path.read_bytes()
        if path.suffix == ".m3u8" and self.query:  # segments share the playlist's faults
            query = urlsplit(self.path).query
            lines = data.decode().splitlines()
            data = "\n".join(x if x.startswith("#") else f"{x}?{query}" for x in lines).encode()
            self.query = {}
        self._body(data, path.suffix)

    def _answer_status(self, rest: str) -> None:
        self._text("as you wish", status=int(rest))

    def _answer_hang(self, rest: str) -> None:
        self._note()
        self._wait_for_the_end()

    def _answer_redirect(self, rest: str) -> None:
        self._text("there", status=302, headers={"Location": self.query["to"][0]})

    def _answer_html(self, rest: str) -> None:
        self._text("<html><head><title>Words</title></head><body>Only words.</body></html>")

    def _answer_page(self, rest: str) -> None:
        title = html.escape(self.query.get("title", ["A page"])[0])
        videos = "".join(f'<video src="{html.escape(x)}"></video>' for x in self.query["src"])
        self._text(f"<html><head><title>{title}</title></head><body>{videos}</body></html>")

    def _answer_feed(self, rest: str) -> None:
        items = "".join(
            f"<item><title>Entry {n}</title><guid>entry-{n}</guid>"
            f'<enclosure url="{html.escape(x)}" type="video/mp4" length="1"/></item>'
            for n, x in enumerate(self.query.get("src", []), 1)
        )
        channel = f"<channel><title>A feed</title>{items}</channel>"
        self._text(f'<rss version="2.0">{channel}</rss>', kind="application/rss+xml")

    def _text(
        self,
        text: str,
        *,
        status: int = 200,
        kind: str = "text/html; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self, data: bytes, suffix: str) -> None:
        request = self._note()
        try:
            self._answer_body(data, suffix, request)
        finally:
            request.done = True

    def _answer_body(self, data: bytes, suffix: str, request: Request) -> None:
        if self._number("ttfb"):
            self.origin.closing.wait(self._number("ttfb"))
        if "status" in self.query and self._first("fail_times"):
            self._text("as you wish", status=int(self.query["status"][0]))
            return
        start, end = self._range(len(data))
        if start >= len(data) > 0:
            self._text("", status=416, headers={"Content-Range": f"bytes */{len(data)}"})
            return
        self._head(start, end, len(data), suffix)
        if self.command == "GET":
            self._send(data[start:end], request)

    def _range(self, size: int) -> tuple[int, int]:
        asked = (self.headers.get("Range") or "").removeprefix("bytes=")
        if not asked or "norange" in self.query:
            return 0, size
        first, _, last = asked.partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def _head(self, start: int, end: int, size: int, suffix: str) -> None:
        partial = "Range" in self.headers and "norange" not in self.query
        self.send_response(206 if partial else 200)
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if "norange" not in self.query:
            self.send_header("Accept-Ranges", "bytes")
        if "nolen" in self.query:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(end - start))
        self.end_headers()

    def _send(self, data: bytes, request: Request) -> None:
        rate = self._number("rate")
        step = max(1, int(rate / _STEPS_PER_SECOND)) if rate else 1 << 16
        stall = int(self._number("stall")) if "stall" in self.query else len(data)
        cut = "drop" in self.query and self._first("drop_times")
        limit = min(stall, int(self._number("drop")) if cut else len(data))
        began = time.monotonic()
        for position in range(0, min(limit, len(data)), step):
            self.wfile.write(data[position : min(position + step, limit)])
            request.sent = min(position + step, limit)
            ahead = request.sent / rate - (time.monotonic() - began) if rate else 0.0
            if ahead > 0 and self.origin.closing.wait(ahead):
                return
        if limit == len(data):
            return
        if not cut:
            self._wait_for_the_end()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _wait_for_the_end(self) -> None:
        """Say nothing more until the client goes or the origin closes."""
        self.connection.settimeout(0.05)
        while not self.origin.closing.is_set():
            with contextlib.suppress(TimeoutError):
                if self.connection.recv(1) == b"":
                    break
        self.close_connection = True

    def _note(self) -> Request:
        request = Request(
            self.command,
            self.route,
            urlsplit(self.path).query,
            self.headers.get("Range"),
            self.headers.get("User-Agent"),
        )
        with self.origin.lock:
            self.origin.requests.append(request)
        return request

    def _number(self, name: str) -> float:
        return float(self.query.get(name, ["0"])[0])

    def _first(self, times: str) -> bool:
        """Return whether a fault with a number of times still applies to this URL."""
        if times not in self.query:
            return True
        if self.command == "HEAD":
            return False
        with self.origin.lock:
            self.origin.answers[self.path] += 1
            return self.origin.answers[self.path] <= self._number(times)
