"""Whatever is raised, wherever: one end, one reason, one line; and the next item works."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import failures
from tests.support.engines import ENGINES, open_bench
from tests.support.failures import FAILURES, POSTPROCESSORS, SIZE, SKIPPED, Failure
from tests.support.origin import Origin, digest, open_origin
from vidra_trio.core.report import Failed, Finished, Identified, Line, Stage, Stopped, Tick, Waiting
from vidra_trio.core.states import Level
from vidra_trio.engine import params, ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.errors import FAULTS, OF_THIS_MACHINE
from vidra_trio.engine.pipe import Ended, Produced, Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SOME = {
    name: FAILURES[name]
    for name in ("KeyError", "ENOSPC", "MemoryError", "RecursionError", "SystemExit")
}
PARAMS: dict[str, Any] = {
    "retries": 1,
    "fragment_retries": 0,
    "file_access_retries": 0,
    "fixup": "never",
    "password": "hunter22",
}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module, to an extractor that fails as it is told to."""
    with ytdlp.installed(own_groups=True), open_origin() as found, failures.installed():
        yield found


class Bench:
    """Runs items in this process, each in a directory of its own."""

    def __init__(self, root: Path, origin: Origin) -> None:
        self.root = root
        self.origin = origin
        self.runs = 0
        self.reports: list[Identified | Tick | Stage | Line | Waiting] = []

    def run(self, place: str, name: str, **more: object) -> Ended:
        self.reports = []
        self.runs += 1
        order = Start(
            run=self.runs,
            url=failures.url(self.origin, place, name),
            work=str(self.root / str(self.runs)),
            destination=str(self.root / "downloads"),
            template="%(id)s.%(ext)s",
            cache=str(self.root / "cache"),
            params={**PARAMS, **more},
        )
        # A hook that raises what a broken line does leaves an open answer in a circle of yt-dlp's
        # own (a retry, its error, their frame); the run's end closes what is still there.
        gc.disable()
        try:
            return ytdlp.run_item(order, self.reports.append, Control())
        finally:
            gc.enable()

    def lines(self, level: Level) -> list[str]:
        return [one.message for one in self.reports if isinstance(one, Line) and one.level is level]

    def check(self, ended: Ended, wanted: Failure) -> None:
        """Hold an end against what the table says of its cause."""
        assert ended.reusable is wanted.reusable
        if wanted.code == SKIPPED:
            assert isinstance(ended.end, Produced), ended
            assert ended.end.main is None
            assert ended.end.skipped in self.lines(Level.INFO)
            assert self.lines(Level.ERROR) == []
            return
        end = ended.end
        assert isinstance(end, Failed), ended
        assert (end.code, end.retryable) == (wanted.code, wanted.retryable)
        assert self.lines(Level.ERROR) == [end.message]
        assert end.message.isprintable()
        assert not any(noise in end.message for noise in ("ERROR", "caused by", "report this"))

    def check_next(self) -> None:
        """Run an item that has nothing against it."""
        end = self.run("none", "none").end
        assert isinstance(end, Produced), end
        path = self.root / str(self.runs) / "out" / (end.main or "")
        assert digest(path) == self.origin.digest("none-none.mp4", SIZE)


@pytest.fixture
def bench(tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench on which nobody pauses between two tries."""
    monkeypatch.setattr(params, "pause", lambda n: 0.0)
    return Bench(tmp_path, origin)


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("place", ["extractor", "progress", "fragment"])
def test_whatever_is_raised_is_the_end(bench: Bench, place: str, name: str) -> None:
    """By an extractor, by a progress hook, in a thread that fetches one of many fragments."""
    bench.check(bench.run(place, name, concurrent_fragment_downloads=4), FAILURES[name])
    bench.check_next()


@pytest.mark.parametrize(
    ("place", "name"),
    [*(("essential", name) for name in FAILURES), *(("step", name) for name in SOME)],
)
def test_whatever_an_essential_step_raises_is_the_end(bench: Bench, place: str, name: str) -> None:
    """The step itself, or the hook that tells of it."""
    bench.check(bench.run(place, name, postprocessors=POSTPROCESSORS[1:]), FAILURES[name])
    bench.check_next()


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_a_decorating_step_raises_costs_a_warning(bench: Bench, name: str) -> None:
    """Unless it is no error at all but an order to leave; a process in doubt is replaced."""
    ended = bench.run("decorating", name, postprocessors=POSTPROCESSORS[:1])
    wanted = FAILURES[name]
    if issubclass(type(wanted.make()), Exception):
        assert isinstance(ended.end, Produced), ended
        assert ended.end.main is not None
        assert ended.reusable is wanted.reusable
        assert any("Metadata was skipped: " in line for line in bench.lines(Level.WARNING))
        assert bench.lines(Level.ERROR) == []
    else:
        bench.check(ended, wanted)
    bench.check_next()


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    "name", [name for name, one in FAILURES.items() if one.code in OF_THIS_MACHINE]
)
def test_a_fragment_that_cannot_be_written_is_not_skipped(
    bench: Bench, name: str, connections: int
) -> None:
    """As yt-dlp does with one that a site does not have: the file would have a hole."""
    ended = bench.run("fragment_file", name, concurrent_fragment_downloads=connections)
    bench.check(ended, FAILURES[name])
    bench.check_next()


def test_a_hole_is_told(bench: Bench) -> None:
    """A fragment that the site does not have may be skipped, but not silently."""
    ended = bench.run("fragment_file", "HTTPError 403")
    assert isinstance(ended.end, Produced)
    assert ended.end.main is not None
    assert bench.lines(Level.ERROR) == ["the file has holes: 1 fragments"]


def test_every_code_of_the_table_is_a_code() -> None:
    """And what it says of another try is what every client is told."""
    for name, wanted in FAILURES.items():
        known = {**FAULTS, "http_error": wanted.retryable, SKIPPED: False}
        assert known[wanted.code] is wanted.retryable, name


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("place", ["extractor", "progress"])
async def test_an_engine_survives_everything(
    tmp_path: Path, origin: Origin, kind: str, place: str
) -> None:
    """One terminal report each, one line for it, and the engine's next item works."""
    how: dict[str, Any] = {"command": failures.COMMAND} if kind == "process" else {}
    async with open_bench(tmp_path, kind, **how) as bench:
        for number, (name, wanted) in enumerate(SOME.items()):
            spec = bench.spec(failures.url(origin, place, name), f"a{number}", params=PARAMS)
            end = await bench.run(spec)
            ends = [r for r in bench.reports if isinstance(r, (Failed, Finished, Stopped))]
            assert ends == [end]
            assert isinstance(end, Failed)
            assert (end.code, end.retryable) == (wanted.code, wanted.retryable)
            lines = [r for r in bench.reports if isinstance(r, Line) and r.level is Level.ERROR]
            assert [line.message for line in lines] == [end.message]
            fine = bench.spec(failures.url(origin, "none", "none"), f"b{number}", params=PARAMS)
            assert digest(await bench.finish(fine)) == origin.digest("none-none.mp4", SIZE)
