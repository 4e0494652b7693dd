"""What really goes wrong on a line, at a site, on a disk: the code and the words for it."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from yt_dlp.extractor.generic import GenericIE
from yt_dlp.utils import GeoRestrictedError, UserNotLive

from tests.support.origin import Origin, open_origin
from vidra_trio.core.report import Failed, Line, Stopped, Waiting
from vidra_trio.core.states import Level
from vidra_trio.engine import params, ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Ended, Produced, Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SIZE = 100_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module, also with a certificate that nobody vouches for."""
    with ytdlp.installed(own_groups=True), open_origin(tls=True) as found:
        yield found


class Bench:
    """Runs items and keeps what they logged."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reports: list[object] = []
        self.control = Control()

    def run(self, url: str, **more: object) -> Ended:
        self.reports = []
        order = Start(
            run=1,
            url=url,
            work=str(self.root / "work"),
            destination=str(self.root / "downloads"),
            template="%(id)s.%(ext)s",
            cache=str(self.root / "cache"),
            params={
                "retries": 1,
                "fragment_retries": 1,
                "extractor_retries": 0,
                "socket_timeout": 0.5,
                "fixup": "never",
                **more,
            },
        )
        return ytdlp.run_item(order, self.reports.append, self.control)

    def fail(self, url: str, **more: object) -> Failed:
        end = self.run(url, **more).end
        assert isinstance(end, Failed), end
        errors = [r for r in self.reports if isinstance(r, Line) and r.level is Level.ERROR]
        assert [line.message for line in errors] == [end.message]
        return end


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench on which nobody pauses between two tries."""
    monkeypatch.setattr(params, "pause", lambda n: 0.0)
    return Bench(tmp_path)


def test_nobody_listens(bench: Bench) -> None:
    """Refused: worth another try, and no Python notation in the words."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but it does not listen
        port = taken.getsockname()[1]
        end = bench.fail(f"http://127.0.0.1:{port}/x.mp4")
    assert (end.code, end.retryable) == ("network_error", True)
    assert end.message.endswith(
        f"127.0.0.1:{port}: Failed to establish a new connection: Connection refused"
    )


def test_a_name_that_is_unknown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver may be what is wrong: worth another try."""

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    end = bench.fail("http://nowhere.invalid/x.mp4")
    assert (end.code, end.retryable) == ("network_error", True)
    assert end.message.endswith("Failed to resolve 'nowhere.invalid' (Name or service not known)")


def test_a_certificate_that_nobody_vouches_for(bench: Bench, origin: Origin) -> None:
    """Stays so: no other try; for a page as for a file."""
    for url in (origin.at("/html"), origin.at("/page", src=origin.encrypted(origin.file("f", 9)))):
        end = bench.fail(origin.encrypted(url) if "/html" in url else url)
        assert (end.code, end.retryable) == ("tls_error", False)
        assert end.message.endswith(
            "certificate verify failed: unable to get local issuer certificate"
        )


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (403, "http_403", False),
        (410, "http_410", False),
        (408, "http_error", True),
        (429, "http_429", True),
        (502, "http_error", True),
    ],
)
def test_a_file_that_is_refused(
    bench: Bench, origin: Origin, status: int, code: str, retryable: bool
) -> None:
    """The page is fine, the file is not: with the status, also after the last try."""
    page = origin.at("/page", src=origin.file(f"refused-{status}.mp4", SIZE, status=status))
    end = bench.fail(page)
    assert (end.code, end.retryable) == (code, retryable)
    assert f"HTTP Error {status}" in end.message


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("skip", [True, False])
def test_segments_that_are_refused(
    bench: Bench, origin: Origin, skip: bool, connections: int
) -> None:
    """A token that ran out: not "the file is empty", which is what yt-dlp ends with."""
    end = bench.fail(
        origin.hls(f"refused-{skip}-{connections}", 4, 1000, status=403),
        concurrent_fragment_downloads=connections,
        skip_unavailable_fragments=skip,
    )
    assert (end.code, end.retryable) == ("http_403", False)
    assert "HTTP Error 403" in end.message


def test_a_line_that_always_breaks(bench: Bench, origin: Origin) -> None:
    """After the last try it is still the line."""
    page = origin.at("/page", src=origin.file("breaks.mp4", SIZE, drop=1000))
    end = bench.fail(page)
    assert (end.code, end.retryable) == ("network_error", True)
    assert "Giving up after 1 retries" in end.message


def test_a_file_that_never_comes(bench: Bench, origin: Origin) -> None:
    """After the socket's time it is a timeout."""
    end = bench.fail(origin.at("/page", src=origin.file("late.mp4", SIZE, ttfb=5)))
    assert (end.code, end.retryable) == ("timeout", True)


def test_a_redirect_without_end(bench: Bench, origin: Origin) -> None:
    """An answer like any other that is none."""
    end = bench.fail(origin.at(f"/loop/0/{SIZE}/loop.mp4"))
    assert (end.code, end.retryable) == ("http_error", False)
    assert "redirect" in end.message


def test_a_file_with_nothing_in_it(bench: Bench, origin: Origin) -> None:
    """There is nothing to have, and trying again does not help."""
    end = bench.fail(origin.at("/page", src=origin.file("empty.mp4", 0)))
    assert (end.code, end.retryable) == ("nothing_downloaded", False)


def test_a_scheme_that_nobody_speaks(bench: Bench, origin: Origin) -> None:
    """A page may link whatever it likes."""
    assert bench.fail("gopher://example.org/x").code == "unsupported_url"


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
def test_a_disk_that_takes_no_more(bench: Bench, origin: Origin) -> None:
    """A real write that fails, of a file as of a fragment: never a file with a hole."""
    page = origin.at("/page", src=origin.file("big.mp4", SIZE))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        ends = [bench.fail(page), bench.fail(origin.hls("big", 2, SIZE))]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {(end.code, end.retryable) for end in ends} == {("disk_error", False)}
    assert all("File too large" in end.message for end in ends)


@pytest.fixture
def upcoming(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what a site says before it has a video, in order; how often it was asked is gone."""
    answers: list[object] = []
    real = GenericIE._real_extract

    def extract(ie: GenericIE, url: str) -> object:
        answer = answers.pop(0) if answers else real(ie, url)
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    monkeypatch.setattr(GenericIE, "_real_extract", extract)
    return answers


ANNOUNCED = {"id": "x", "title": "Soon", "live_status": "is_upcoming"}


def in_seconds(seconds: float) -> dict[str, object]:
    """Return what a site says of a video that begins then."""
    return {**ANNOUNCED, "release_timestamp": time.time() + seconds}


def test_a_video_that_is_announced_is_waited_for(
    bench: Bench, origin: Origin, upcoming: list[object]
) -> None:
    """Whichever way the site says that it is not there yet; each wait is told."""
    upcoming += [UserNotLive(), ANNOUNCED, lambda: in_seconds(1.5)]
    end = bench.run(origin.file("live.mp4", SIZE), wait_for_video=[0.05, None]).end
    assert isinstance(end, Produced), end
    assert upcoming == []
    waits = [one.seconds for one in bench.reports if isinstance(one, Waiting)]
    assert len(waits) == 1  # the short ones need no excuse
    lines = [one.message for one in bench.reports if isinstance(one, Line)]
    assert sum("nothing to download yet" in line for line in lines) == 3


def test_nobody_waits_unasked(bench: Bench, origin: Origin, upcoming: list[object]) -> None:
    """Without `wait_for_video` the answer is the end."""
    for answer in (UserNotLive(), ANNOUNCED):
        upcoming[:] = [answer]
        end = bench.fail(origin.file("live.mp4", SIZE))
        assert (end.code, end.retryable) == (
            "unavailable" if answer is not ANNOUNCED else "engine_error",
            False,
        )


def test_a_failure_is_not_waited_for(bench: Bench, origin: Origin, upcoming: list[object]) -> None:
    """Only what is not there yet."""
    upcoming.append(GeoRestrictedError("not here"))
    end = bench.fail(origin.file("live.mp4", SIZE), wait_for_video=[60, None])
    assert end.code == "geo_restricted"


def test_a_stop_ends_the_wait(bench: Bench, origin: Origin, upcoming: list[object]) -> None:
    """At once, not after the next look."""
    upcoming.append(in_seconds(3600))
    timer = threading.Timer(0.2, bench.control.stop)
    timer.start()
    assert bench.run(origin.file("live.mp4", SIZE), wait_for_video=[1, None]).end == Stopped()
    timer.join()
