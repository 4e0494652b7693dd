"""What a download can be in the middle of: the rows of the cancellation suite.

The columns are the commands in `test_phases.py`, and all of it runs under both engines.
A cell brings a job into its phase, gives the command, and then insists: the right end,
told in the right order and in time; no byte from the origin afterwards; no task, thread,
process, socket, descriptor or file left that was not there before.

To add a row, append a `Phase` to one of the tables below:

- `url` says what is downloaded. It sets up what the phase needs through its `Scene`: the
  origin's faults (`support.origin`), an extractor of our own (`support.plugins`), whatever
  `scene.stack` closes again. The URL's path must contain the scene's `name`: by it the
  origin knows whose traffic it is.
- `reached` says that the job is in the phase for good. It is asked until it says so, and
  looks at facts (requests, bytes, log lines), never at a clock.
- `params` go to yt-dlp past the options that clients have.
- Once a scene is mended nothing is in the way any more, and every phase must lead to the
  whole file: `scene.digest`, or what an undisturbed run gives. `goes_on` says that a run
  on its way gets there, too; if not, a new run is needed (no sleep can be shortened).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trio

from tests.support import plugins
from tests.support.engines import wait_until
from tests.support.ffmpeg import FakeFfmpeg, deaf_ffmpeg, slow_ffmpeg
from tests.support.leaks import tcp_states
from tests.support.origin import Origin, open_deaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from tests.support.origin import Request

    Params = dict[str, Any]

SIZE, BIG = 3_000_000, 30_000_000
FAST, SLOW, VERY_SLOW = 10_000_000, 200_000, 20_000
"""Bytes per second."""

STALL = 400_000
"""Bytes after which nothing more comes."""

REACHED_WITHIN = 40
"""Seconds for a job to come into its phase."""

LONG = 600
"""Seconds that no test waits for."""

SEGMENTS, SEGMENT, WHOLE = 30, 60_000, 3
"""Of a playlist: how many, how large, and how many come before the trouble begins."""


class View(Protocol):
    """What can be seen of a run, whoever looks."""

    @property
    def identified(self) -> bool:
        """The site has said what the item is."""

    @property
    def downloaded(self) -> int:
        """How many bytes of the file there are, as told."""

    @property
    def lines(self) -> Sequence[str]:
        """The job's log."""


@dataclass
class Scene:
    """What one cell has to itself."""

    name: str
    origin: Origin
    folder: Path
    stack: ExitStack
    view: View
    digest: str = ""
    port: int = 0
    ffmpeg: FakeFfmpeg | None = None
    menders: list[Callable[[], None]] = field(default_factory=list)
    mended: bool = False

    @property
    def file(self) -> str:
        """What the downloaded file is called."""
        return f"{self.name}.mp4"

    def mend(self) -> None:
        """Take away whatever keeps the job in its phase; twice is once."""
        if not self.mended:
            self.mended = True
            self.origin.mend(self.name)
            for mend in self.menders:
                mend()

    async def reach(self, phase: Phase) -> None:
        """Wait until the job is in the phase; says how far it came when it does not get there."""
        with trio.move_on_after(REACHED_WITHIN):
            await wait_until(lambda: phase.reached(self))
            return
        asked = [f"{one.path} {one.range} {one.sent}" for one in self.requests()]
        facts = (self.view.identified, self.view.downloaded, *self.view.lines, *asked)
        pytest.fail("\n".join(["the phase was not reached:", *map(str, facts)]))

    def requests(self, path: str = "") -> list[Request]:
        """Return the GET requests for this cell, or those for some of its paths, in order."""
        return [one for one in self.origin.seen(self.name) if path in one.path]

    def open_after(self, size: int) -> int:
        """Return how many answers have brought exactly `size` bytes and are not over."""
        return sum(one.sent == size and not one.done for one in self.requests())

    def said(self, words: str) -> bool:
        """Return whether a line of the job's log contains `words`."""
        return any(words in line for line in self.view.lines)


def _no_params(scene: Scene) -> Params:
    return {}


@dataclass(frozen=True)
class Phase:
    """A row of the table; the module's docstring says how to make one."""

    name: str
    url: Callable[[Scene], str]
    reached: Callable[[Scene], bool]
    params: Callable[[Scene], Params] = _no_params
    waits: bool = False
    """For a slot: no engine has heard of it."""
    identified: bool = False
    """The site has answered: the job runs, and is remembered when it is cancelled."""
    continued: Callable[[Scene], bool] | None = None
    """There are parts to keep; this tells whether a later run made use of them."""
    goes_on: bool = True
    unstoppable: bool = False
    """A thread cannot be brought out of it: it is given up after its grace, and counted."""

    def __str__(self) -> str:
        return self.name


# -- what is downloaded


def file_of(size: int = SIZE, *, tls: bool = False, **faults: object) -> Callable[[Scene], str]:
    def url(scene: Scene) -> str:
        scene.digest = scene.origin.digest(scene.file, size)
        plain = scene.origin.file(scene.file, size, **faults)
        return scene.origin.encrypted(plain) if tls else plain

    return url


def _playlist(**faults: object) -> Callable[[Scene], str]:
    def url(scene: Scene) -> str:
        scene.digest = scene.origin.hls_digest(scene.name, SEGMENTS, SEGMENT)
        return scene.origin.hls(scene.name, SEGMENTS, SEGMENT, since=WHOLE, **faults)

    return url


def _page(kind: str, **faults: object) -> Callable[[Scene], str]:
    def url(scene: Scene) -> str:
        scene.digest = scene.origin.digest(scene.file, SIZE)
        return plugins.url(scene.origin, kind, scene.file, SIZE, **faults)

    return url


def _redirects(scene: Scene) -> str:
    scene.digest = scene.origin.digest(scene.file, SIZE)
    return scene.origin.at(f"/loop/0/{SIZE}/{scene.file}", ttfb=1)


def _hanging_resolver(scene: Scene) -> str:
    scene.menders.append(scene.stack.enter_context(plugins.hanging_resolver(scene.name)))
    return plugins.hanging(file_of()(scene), scene.name)


def _deaf_port(*, full: bool, tls: bool) -> Callable[[Scene], str]:
    def url(scene: Scene) -> str:
        deaf = open_deaf(scene.origin, full=full, tls=tls)
        scene.port, mend = scene.stack.enter_context(deaf)
        scene.menders.append(mend)
        base = f"{'https' if tls else 'http'}://127.0.0.1:{scene.port}"
        return file_of()(scene).replace(scene.origin.url, base)

    return url


def _tracks(scene: Scene) -> str:
    scene.ffmpeg = slow_ffmpeg(scene.folder)
    scene.menders.append(scene.ffmpeg.mend)
    return plugins.url(scene.origin, "merge", scene.file)


def _clip(scene: Scene) -> str:
    scene.ffmpeg = deaf_ffmpeg(scene.folder)
    scene.menders.append(scene.ffmpeg.mend)
    return scene.origin.at(f"/clip/{scene.name}/clip.mp4")


# -- with which parameters


def _connections(number: int) -> Callable[[Scene], Params]:
    return lambda scene: {"concurrent_fragment_downloads": number}


def _sleep_first(scene: Scene) -> Params:
    return {} if scene.mended else {"sleep_interval": LONG}


def _merging(scene: Scene) -> Params:
    return {"ffmpeg_location": _program(scene), "merge_output_format": "mp4"}


def _converting(scene: Scene) -> Params:
    return {
        "ffmpeg_location": _program(scene),
        "postprocessors": [{"key": "FFmpegVideoConvertor", "preferedformat": "mov"}],
        # With several threads one file in twenty comes out a little different.
        "postprocessor_args": {"videoconvertor+ffmpeg_o": ["-threads", "1"]},
    }


def _program(scene: Scene) -> str:
    assert scene.ffmpeg is not None
    return str(scene.ffmpeg.path)


# -- when a phase is reached


def _asked(path: str = "") -> Callable[[Scene], bool]:
    return lambda scene: bool(scene.requests(path))


def _said(words: str) -> Callable[[Scene], bool]:
    return lambda scene: scene.said(words)


def _brought(size: int) -> Callable[[Scene], bool]:
    return lambda scene: scene.view.downloaded >= size


def _stalled(connections: int = 1, *, size: int = STALL) -> Callable[[Scene], bool]:
    """Every connection has brought its last byte, and what came before is accounted for."""
    return lambda scene: (
        scene.view.downloaded > 0
        and scene.view.identified
        and scene.open_after(size) == connections
    )


def _segments_open(number: int) -> Callable[[Scene], bool]:
    """What came before the slow ones is in the file, and so many of them are on their way."""
    return lambda scene: (
        scene.view.downloaded >= WHOLE * SEGMENT
        and sum(0 < one.sent < SEGMENT for one in scene.requests(".ts")) == number
    )


def _resolving(scene: Scene) -> bool:
    return plugins.resolver_asked(scene.name)


def _connection(state: str) -> Callable[[Scene], bool]:
    return lambda scene: state in tcp_states(scene.port)


def _encoding(scene: Scene) -> bool:
    return scene.ffmpeg is not None and scene.ffmpeg.begun


# -- whether a later run used what an earlier one left


def _by_range(scene: Scene) -> bool:
    return (scene.requests()[-1].range or "bytes=0-") != "bytes=0-"


def _first_segment_once(scene: Scene) -> bool:
    return len(scene.requests("/0.ts")) == 1


def _streams_fetched(times: int) -> Callable[[Scene], bool]:
    return lambda scene: len(scene.requests("/clip/")) == times


WAITING = (Phase("queued", file_of(), lambda scene: True, waits=True),)

ASKING = (
    Phase("name resolution", _hanging_resolver, _resolving, unstoppable=True),
    Phase("connecting", _deaf_port(full=True, tls=False), _connection("SYN_SENT")),
    Phase("tls handshake", _deaf_port(full=False, tls=True), _connection("ESTABLISHED")),
    Phase("no answer", file_of(ttfb=LONG), _asked()),
    Phase("half a header", file_of(half_head=1), _asked()),
    Phase("redirect loop", _redirects, _asked("/loop/1/")),
    Phase("playlist enumeration", _page("list", ttfb=LONG), _asked("/list/1/")),
    Phase("extractor computes", _page("loop"), _said("computing"), goes_on=False),
    Phase("extractor sleeps", _page("nap"), _said("sleeping"), goes_on=False),
    Phase("extractor catches all", _page("greedy"), _asked("/hang/")),
)

_direct = partial(Phase, identified=True, continued=_by_range)
_hls = partial(Phase, identified=True, continued=_first_segment_once)

TRANSFERRING = (
    _direct("direct, fast", file_of(BIG, rate=FAST), _brought(STALL)),
    _direct("direct, slow", file_of(rate=SLOW), _brought(40_000)),
    _direct("direct, stalled", file_of(stall=STALL), _stalled()),
    _direct("direct, fast, tls", file_of(BIG, tls=True, rate=FAST), _brought(STALL)),
    _direct("direct, slow, tls", file_of(tls=True, rate=SLOW), _brought(40_000)),
    _direct("direct, stalled, tls", file_of(tls=True, stall=STALL), _stalled()),
    _hls("hls x1, slow", _playlist(rate=VERY_SLOW), _segments_open(1), _connections(1)),
    _hls("hls x8, slow", _playlist(rate=VERY_SLOW), _segments_open(8), _connections(8)),
    _hls("hls x1, stalled", _playlist(stall=1000), _stalled(1, size=1000), _connections(1)),
    _hls("hls x8, stalled", _playlist(stall=1000), _stalled(8, size=1000), _connections(8)),
)

BESIDE = (
    Phase(
        "sleep interval", file_of(), _said("Sleeping"), _sleep_first, identified=True, goes_on=False
    ),
    Phase("back-off", _page("file", status=503), _said("Sleeping"), identified=True),
)

ENCODING = (
    Phase("merge", _tracks, _encoding, _merging, identified=True, continued=_streams_fetched(2)),
    Phase(
        "re-encode", _clip, _encoding, _converting, identified=True, continued=_streams_fetched(3)
    ),
)
"""The first is the real ffmpeg; the second one writes for ever and ignores SIGTERM."""

PHASES = (*WAITING, *ASKING, *TRANSFERRING, *BESIDE, *ENCODING)
