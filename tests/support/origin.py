"""A media origin for tests: real bytes, real media, and every fault that a site can have.

    with open_origin() as origin:
        url = origin.file("clip.mp4", 1_000_000, rate=200_000)
        ...
        assert digest(path) == origin.digest("clip.mp4", 1_000_000)

Paths: `/file/<size>/<name>` has seeded bytes; `/hls/<segments>x<size>/<name>/index.m3u8`
is seeded, too; `/media/...` is real media (made once per process with the project's own
ffmpeg: clip.mp4, video.mp4, sound.m4a, tone.mp3, cover.jpg, subs.vtt, hls/, dash/), and
`/clip/<name>/...` the same under any name; `/status/<code>`, `/hang`, `/redirect?to=`,
`/loop/<hop>/<size>/<name>` (redirects for ever), `/page?src=...&title=`, `/html`,
`/feed?src=...`; `/ask/...` and `/list/...` answer the extractors of `support.plugins`.

Faults, as query of a file: rate=<bytes a second>, ttfb=<seconds before the answer>,
half_head=1 (the headers never end), stall=<bytes, then nothing more>, drop=<bytes, then
the connection is cut>, drop_times=<only the first k answers>, status=<code>,
fail_times=<only the first k>, norange=1, nolen=1. Segments inherit a playlist's; with
since=<k> only those from the k-th on.

    origin.mend("clip.mp4")  # faults of such paths end, for answers on their way, too
    origin.encrypted(url)  # the same over TLS, with `open_origin(tls=True)`

Every request is remembered, with its bytes and its times: `seen`, `traffic`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import html
import json
import math
import random
import shutil
import socket
import ssl
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

import trustme

from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NOISE_SIZE = 1 << 18
_STEPS_PER_SECOND = 50
_LOOK = 0.02
"""Seconds between two looks at a client that may be gone."""

LARGEST_WRITE = 1 << 18
"""What one connection may still send after its peer is gone, if it was just about to."""

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
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None


@dataclass(frozen=True)
class Traffic:
    """What went over the wire for some paths, up to now."""

    requests: int
    sent: int
    connections: int
    """Open now, whatever they are for."""


@dataclass
class Origin:
    """A running origin."""

    url: str
    tls: str = ""
    requests: list[Request] = field(default_factory=list)
    connections: set[socket.socket] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)
    mended: set[str] = field(default_factory=set)
    ports: set[int] = field(default_factory=set)

    def file(self, name: str, size: int, **faults: object) -> str:
        """Return the URL of `size` seeded bytes called `name`."""
        return self.at(f"/file/{size}/{quote(name)}", **faults)

    def media(self, name: str, **faults: object) -> str:
        """Return the URL of a real media file."""
        return self.at(f"/media/{name}", **faults)

    def hls(self, name: str, segments: int, size: int, **faults: object) -> str:
        """Return the URL of a playlist of `segments` with `size` seeded bytes each."""
        return self.at(f"/hls/{segments}x{size}/{quote(name)}/index.m3u8", **faults)

    def at(self, path: str, **query: object) -> str:
        """Return a URL of this origin; a list in the query is repeated."""
        return f"{self.url}{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")

    def encrypted(self, url: str) -> str:
        """Return the same URL over TLS; needs `open_origin(tls=True)`."""
        assert self.tls, "this origin speaks no TLS"
        return url.replace(self.url, self.tls, 1)

    @staticmethod
    def digest(name: str, size: int) -> str:
        """Return the sha256 of a seeded file."""
        return hashlib.sha256(content(name, size)).hexdigest()

    @staticmethod
    def hls_digest(name: str, segments: int, size: int) -> str:
        """Return the sha256 of all segments of a seeded playlist, one after the other."""
        parts = (content(f"{name}-{number}", size) for number in range(segments))
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def mend(self, text: str) -> None:
        """End all faults of paths that contain `text`; answers that hang go on."""
        with self.lock:
            self.mended.add(text)

    def is_mended(self, path: str) -> bool:
        """Return whether the faults of `path` have ended."""
        with self.lock:
            return any(text in path for text in self.mended)

    def traffic(self, path: str) -> Traffic:
        """Return what the paths that contain `path` have cost so far, HEAD requests included."""
        with self.lock:
            found = [one for one in self.requests if path in one.path]
            return Traffic(len(found), sum(one.sent for one in found), len(self.connections))

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


def content(name: str, size: int) -> bytes:
    """Return a seeded file's bytes: the same for the same name and size, everywhere."""
    return (_noise(name) * (size // _NOISE_SIZE + 1))[:size]


@functools.lru_cache(maxsize=256)
def _noise(name: str) -> bytes:
    return random.Random(name).randbytes(_NOISE_SIZE)


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
    _ffmpeg("-i", clip, "-c", "copy", "-an", str(root / "video.mp4"))
    _ffmpeg("-i", clip, "-c", "copy", "-vn", str(root / "sound.m4a"))
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
def open_origin(*, tls: bool = False) -> Iterator[Origin]:
    """Serve on a free port of 127.0.0.1 for the length of the block; with `tls` on two."""
    server = _Server()
    origin = server.origin
    with contextlib.ExitStack() as stack:
        stack.enter_context(_serving(server))
        if tls:
            safe = _Server(origin, _certified())
            origin.tls = f"https://127.0.0.1:{safe.server_port}"
            stack.enter_context(_serving(safe))
        stack.callback(origin.closing.set)
        yield origin


@contextlib.contextmanager
def open_deaf(
    origin: Origin, *, full: bool = False, tls: bool = False
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Yield a port where nobody accepts, and what makes it one more of `origin`'s.

    With `full` its queue is full, too: a connect hangs. Without, it succeeds, and
    nobody says a word.
    """
    server = _Server(origin, _certified() if tls else None, queue=0 if full else 16)
    with contextlib.ExitStack() as stack:
        stack.callback(server.server_close)
        filler = stack.enter_context(socket.socket())
        if full:
            filler.connect(("127.0.0.1", server.server_port))

        def mend() -> None:
            filler.close()
            stack.enter_context(_serving(server))

        yield server.server_port, mend


@contextlib.contextmanager
def _serving(server: _Server) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="origin")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@functools.cache
def _certified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def _ffmpeg(*arguments: str) -> None:
    program = find_ffmpeg().path
    head = (program, "-hide_banner", "-loglevel", "error", "-nostdin", "-y")
    subprocess.run([*head, *arguments], check=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, origin: Origin | None = None, tls: ssl.SSLContext | None = None, *, queue: int = 128
    ) -> None:
        self.request_queue_size = queue
        super().__init__(("127.0.0.1", 0), _Handler)
        self.origin = origin or Origin(f"http://127.0.0.1:{self.server_port}")
        self.origin.ports.add(self.server_port)
        self._tls = tls

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept; the handshake is made in the connection's own thread, with the first read."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

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
        if self._mended:
            self.query = {}
        head, _, rest = self.route.lstrip("/").partition("/")
        answer = getattr(self, f"_answer_{head}", None)
        if answer is None:
            self._text("not here", status=404)
        else:
            self._noted: Request | None = None
            try:
                with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
                    answer(rest)
            finally:
                if self._noted is not None:
                    self._noted.done, self._noted.ended = True, time.monotonic()

    def _answer_file(self, rest: str) -> None:
        size, _, name = rest.partition("/")
        self._body(content(name, int(size)), Path(name).suffix)

    def _answer_hls(self, rest: str) -> None:
        shape, name, file = rest.split("/")
        segments, size = map(int, shape.split("x"))
        if file.endswith(".m3u8"):
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1"]
            for number in range(segments):
                lines += ["#EXTINF:1,", f"{number}.ts?{urlsplit(self.path).query}"]
            self.query = {}
            self._body("\n".join([*lines, "#EXT-X-ENDLIST"]).encode(), ".m3u8")
            return
        number = int(file.removesuffix(".ts"))
        if number < self._number("since"):
            self.query = {}
        self._body(content(f"{name}-{number}", size), ".ts")

    def _answer_clip(self, rest: str) -> None:
        self._answer_media(rest.partition("/")[2])

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
        if self._silent_for():
            self._text("at last")

    def _answer_redirect(self, rest: str) -> None:
        self._text("there", status=302, headers={"Location": self.query["to"][0]})

    def _answer_loop(self, rest: str) -> None:
        hop, _, file = rest.partition("/")
        self._note()
        query = urlsplit(self.path).query
        if hop == "0" or self._silent_for(self._number("ttfb")):
            there = f"/file/{file}" if self._mended else f"/loop/{int(hop) + 1}/{file}?{query}"
            self._text("there", status=302, headers={"Location": there})

    def _answer_ask(self, rest: str) -> None:
        self._note()
        self._text(json.dumps({"well": self._mended}), kind="application/json")

    def _answer_list(self, rest: str) -> None:
        page, _, file = rest.partition("/")
        self._note()
        if self._silent_for(self._number("ttfb")):
            entries = [self.origin.at(f"/file/{file}")] if page == "1" else []
            self._text(json.dumps(entries), kind="application/json")

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
        if not self._silent_for(self._number("ttfb")):
            return
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
        if "half_head" in self.query:
            self.flush_headers()
            if not self._silent_for():
                raise ConnectionResetError
        self.end_headers()

    def _send(self, data: bytes, request: Request) -> None:
        rate = self._number("rate")
        stall = int(self._number("stall")) if "stall" in self.query else len(data)
        cut = "drop" in self.query and self._first("drop_times")
        limit = min(stall, int(self._number("drop")) if cut else len(data))
        began = time.monotonic()
        while request.sent < len(data):
            if self._mended:
                rate, limit = 0.0, len(data)
            if request.sent < limit:
                self._send_some(data[:limit], rate, request)
                ahead = request.sent / rate - (time.monotonic() - began) if rate else 0.0
                if ahead > 0 and self.origin.closing.wait(ahead):
                    return
            elif cut or not self._silent_for():
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return

    def _send_some(self, data: bytes, rate: float, request: Request) -> None:
        step = int(rate / _STEPS_PER_SECOND) if rate else 1 << 16
        piece = data[request.sent : request.sent + max(1, min(step, LARGEST_WRITE))]
        self.wfile.write(piece)
        request.sent += len(piece)

    @property
    def _mended(self) -> bool:
        return self.origin.is_mended(self.route)

    def _silent_for(self, seconds: float = math.inf) -> bool:
        """Say nothing for so long; return whether there is somebody left to talk to.

        A fault that is mended meanwhile ends the silence.
        """
        until = time.monotonic() + seconds
        self.connection.settimeout(_LOOK)
        try:
            while time.monotonic() < until and not self._mended:
                if self._is_gone():
                    self.close_connection = True
                    return False
        finally:
            with contextlib.suppress(OSError):
                self.connection.settimeout(None)
        return True

    def _is_gone(self) -> bool:
        """Wait a moment; return whether the client went or the origin closes."""
        try:
            if self.connection.recv(1) == b"":
                return True
        except TimeoutError:
            pass
        except OSError:
            return True
        return self.origin.closing.is_set()

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
        self._noted = request
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
