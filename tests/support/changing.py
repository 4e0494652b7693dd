"""A site whose files change while their URLs stay, for tests of what may be continued.

    with open_site() as site:
        url = site.put("a.mp4", File(body, etag='"1"', drop=1000))
        ...
        site.put("a.mp4", File(other, etag='"2"'))

Instead of a file, a function may be put: it is given the number of the GET for
it, from 0, and returns the file as that request finds it.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class File:
    """One version of a file, and how it is served."""

    body: bytes
    etag: str | None = None
    modified: str | None = None
    drop: int | None = None  # cut the connection after so many bytes of the answer
    redirect: str | None = None
    ranges: bool = True  # False: the whole file, whatever is asked
    piece: str = "bytes {start}-{last}/{size}"  # Content-Range; "": none
    shift: int = 0  # what is sent begins so much later than what was asked for
    compressed: bool = False
    kind: str = "video/mp4"


@dataclass
class Asked:
    """One GET."""

    path: str
    range: str | None
    sent: int = 0

    @property
    def start(self) -> int | None:
        """Where it was asked to begin."""
        match = re.match(r"bytes=(\d+)-", self.range or "")
        return int(match[1]) if match else None


@dataclass
class Site:
    """A running site."""

    url: str = ""
    files: dict[str, Callable[[int], File]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, path: str, file: File | Callable[[int], File]) -> str:
        """Serve `file` at `path` from now on; what was asked before is forgotten."""
        with self.lock:
            self.asked = [one for one in self.asked if one.path != path]
            self.files[path] = (lambda _: file) if isinstance(file, File) else file
        return f"{self.url}/{path}"

    def gets(self, path: str) -> list[Asked]:
        """Return the GETs for `path` since it was put."""
        with self.lock:
            return [one for one in self.asked if one.path == path]


@contextlib.contextmanager
def open_site() -> Iterator[Site]:
    """Serve on a free port of 127.0.0.1 for the length of the block."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="site")
    thread.start()
    try:
        yield server.site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = Site(f"http://127.0.0.1:{self.server_port}")

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        site, path = self.server.site, self.path.lstrip("/")
        asked = Asked(path, self.headers.get("Range"))
        number = len(site.gets(path))
        with site.lock:
            site.asked.append(asked)
            find = site.files.get(path)
        if find is None:
            self.send_error(404)
        else:
            with contextlib.suppress(ConnectionError):
                self._answer(find(number), asked)

    def _answer(self, file: File, asked: Asked) -> None:
        if file.redirect is not None:
            self._head(302, {"Location": file.redirect, "ETag": '"of the redirect"'}, 0)
            return
        start, end = self._wanted(file, asked)
        if start >= len(file.body) > 0:
            self._head(416, {"Content-Range": f"bytes */{len(file.body)}"}, 0)
            return
        partial = asked.range is not None and file.ranges
        body = file.body[start : end + 1]
        headers = {"Content-Type": file.kind, "ETag": file.etag, "Last-Modified": file.modified}
        if partial and file.piece:
            headers["Content-Range"] = file.piece.format(
                start=start, last=start + len(body) - 1, size=len(file.body)
            )
        if file.compressed:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body)
        self._head(206 if partial else 200, headers, len(body))
        asked.sent = len(body) if file.drop is None else min(len(body), file.drop)
        self.wfile.write(body[: asked.sent])
        if file.drop is not None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _wanted(self, file: File, asked: Asked) -> tuple[int, int]:
        """Return the first and the last byte of the answer."""
        match = re.match(r"bytes=(\d+)-(\d*)", asked.range or "")
        if match is None or not file.ranges:
            return 0, len(file.body) - 1
        shift = file.shift if int(match[1]) else 0
        return int(match[1]) + shift, int(match[2] or len(file.body) - 1)

    def _head(self, status: int, headers: dict[str, str | None], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
