"""What only the thread engine has to do: end a thread that does not want to, or give it up,
and be no burden to the host whose process it is."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import yt_dlp
from yt_dlp.downloader.fragment import FragmentFD

from tests.support.engines import Bench, open_bench, run_threads, wait_until
from tests.support.origin import Origin, digest, media_root, open_origin
from tests.support.process import descendants
from vidra_trio.core.report import Failed, Line, Stopped, Tick
from vidra_trio.core.states import Level
from vidra_trio.engine import hooks, ytdlp
from vidra_trio.engine.control import CURRENT, Control, Interrupted
from vidra_trio.engine.thread import MAILBOX, Mailbox, ThreadEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

SIZE = 2_000_000


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


def instead_of_extracting(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have the extractor do `act` first."""
    real = yt_dlp.YoutubeDL.extract_info

    def extract(ydl: yt_dlp.YoutubeDL, url: str, **arguments: Any) -> Any:  # noqa: ANN401  # yt-dlp's
        act()
        return real(ydl, url, **arguments)

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", extract)


def threads(bench: Bench) -> ThreadEngine:
    assert isinstance(bench.engine, ThreadEngine)
    return bench.engine


class Deaf:
    """Code that nothing reaches: it blocks in C, as name resolution does."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self.over.wait()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    """Block somewhere, until the test is over at the latest."""
    found = Deaf()
    yield found
    found.over.set()


# -- ends


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_a_loop_is_ended(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Code that neither waits nor asks nor lets ordinary exceptions through."""
    looping = threading.Event()

    def loop() -> None:
        while True:
            try:
                looping.set()
                sum(range(1000))
            except Exception:  # noqa: BLE001  # as extractors do
                continue

    instead_of_extracting(monkeypatch, loop)
    async with open_bench(tmp_path, "thread") as bench:
        async with bench.engine.open(bench.spec(origin.file("a.mp4", 10))) as run:
            run.stop_grace = 0.1
            await wait_until(looping.is_set)
            if how == "pause":
                run.stop()
                assert [report async for report in run] == [Stopped()]
        assert run_threads() == []
        assert bench.engine.statistics().abandoned == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torn listings
async def test_what_strikes_late_strikes_nobody(tmp_path: Path, origin: Origin) -> None:
    """Exceptions thrown at a run at any moment, its last ones included, stay in the run."""
    async with open_bench(tmp_path, "thread") as bench:
        for number in range(30):
            spec = bench.spec(origin.file(f"s{number}.mp4", 100), str(number))
            async with bench.engine.open(spec) as run:
                driver: Any = run._driver
                assert driver._thread is not None
                while driver._thread.is_alive():
                    driver._control.interrupt()
                    await trio.sleep(0.0007 * (number % 7))
        assert bench.engine.statistics().abandoned == 0
        await bench.finish(bench.spec(origin.file("after.mp4", 100), "after"))


async def test_leaving_the_engine_leaves_no_thread_and_no_patch(
    tmp_path: Path, origin: Origin
) -> None:
    """What is wrapped is wrapped while a run needs it."""
    before = (socket.socket.connect, time.sleep, subprocess.Popen.__init__)
    async with open_bench(tmp_path, "thread") as bench:
        async with bench.engine.open(bench.spec(origin.at("/hang"))):
            assert "sleep" in hooks.wrapped()
        assert run_threads() == []
        await bench.finish(bench.spec(origin.file("x.mp4", 1000)))
    assert hooks.wrapped() == ()
    assert (socket.socket.connect, time.sleep, subprocess.Popen.__init__) == before
    assert "connect" not in vars(socket.socket)


# -- is given up


async def test_a_thread_that_cannot_be_ended_is_given_up_and_counted(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch,
    deaf: Deaf, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The job goes on without it; what it does later reaches nobody."""
    instead_of_extracting(monkeypatch, deaf)
    async with open_bench(tmp_path, "thread") as bench:
        threads(bench).kill_grace = 0.3
        spec = bench.spec(origin.file("deaf.mp4", 1000))
        async with bench.engine.open(spec):
            await wait_until(deaf.reached.is_set)
        assert bench.engine.statistics().abandoned == 1
        assert "given up" in caplog.text
        monkeypatch.undo()
        path = await bench.finish(bench.spec(origin.file("deaf.mp4", 1000)))
        deaf.over.set()
        await wait_until(lambda: bench.engine.statistics().abandoned == 0)
        assert digest(path) == origin.digest("deaf.mp4", 1000)
        assert origin.open_connections() == 0
    assert hooks.wrapped() == ()


async def test_above_a_limit_no_new_thread_is_risked(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, deaf: Deaf
) -> None:
    """A refusal with a code that says so; when one of them ends there is room again."""
    instead_of_extracting(monkeypatch, deaf)
    async with open_bench(tmp_path, "thread") as bench:
        threads(bench).kill_grace, threads(bench).max_abandoned = 0.2, 1
        async with bench.engine.open(bench.spec(origin.file("deaf.mp4", 10))):
            await wait_until(deaf.reached.is_set)
        end = await bench.run(bench.spec(origin.file("next.mp4", 10), "next"))
        assert isinstance(end, Failed)
        assert (end.code, end.retryable) == ("engine_exhausted", True)
        monkeypatch.undo()
        deaf.over.set()
        await wait_until(lambda: bench.engine.statistics().abandoned == 0)
        await bench.finish(bench.spec(origin.file("next.mp4", 10), "next"))


async def test_the_parts_of_a_thread_that_was_given_up_are_continued(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, deaf: Deaf
) -> None:
    """From copies: what the thread still writes goes to files that are nobody's."""
    real = FragmentFD._append_fragment

    def append(fd: FragmentFD, ctx: dict[str, Any], content: bytes) -> None:
        if ctx["fragment_index"] == 4:
            ctx["dest_stream"].write(b"zombie" * 1000)
            ctx["dest_stream"].flush()
            deaf()
            ctx["dest_stream"].write(b"zombie" * 1000)
            ctx["dest_stream"].flush()
        real(fd, ctx, content)

    expected = b"".join(
        segment.read_bytes() for segment in sorted((media_root() / "hls").glob("seg*.ts"))
    )
    async with open_bench(tmp_path, "thread") as bench:
        threads(bench).kill_grace = 0.3
        spec = bench.spec(origin.media("hls/index.m3u8"))
        with ytdlp.installed(own_groups=True), monkeypatch.context() as patch:
            patch.setattr(FragmentFD, "_append_fragment", append)
            async with bench.engine.open(spec) as run:
                run.stop_grace = 0.1
                await wait_until(deaf.reached.is_set)
                run.stop()
                reports = [report async for report in run]
        assert isinstance(reports[-1], Stopped)
        before = len(origin.seen("seg"))
        path = await bench.finish(spec)
        assert path.read_bytes() == expected
        assert len(origin.seen("seg")) - before == 8 - 3
        deaf.over.set()
        await wait_until(lambda: bench.engine.statistics().abandoned == 0)
        assert path.read_bytes() == expected
        await bench.engine.discard(spec.work.parent)
        assert bench.published() == [path.name]
        assert list(bench.downloads.iterdir()) == [path]


# -- is no burden


async def test_the_hosts_own_threads_are_untouched(tmp_path: Path, origin: Origin) -> None:
    """They sleep, connect, start programs and use yt-dlp beside a run that is stopped."""
    done: list[str] = []

    def host() -> None:
        time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", int(origin.url.rpartition(":")[2]))):
            done.append("connected")
        child = subprocess.Popen(["sleep", "0.1"])
        assert os.getpgid(child.pid) == os.getpgid(0)
        assert child.wait() == 0
        params = {"quiet": True, "paths": {"home": str(tmp_path / "host")}, "cachedir": False}
        with yt_dlp.YoutubeDL({**params, "noprogress": True}) as ydl:
            ydl.download([origin.media("hls/index.m3u8", rate=2_000_000)])
        done.append("downloaded")

    async with open_bench(tmp_path, "thread") as bench, trio.open_nursery() as nursery:
        async with bench.engine.open(bench.spec(origin.file("r.mp4", SIZE, rate=10_000))):
            nursery.start_soon(trio.to_thread.run_sync, host)
            await wait_until(lambda: "connected" in done)
        assert run_threads() == []
    assert done == ["connected", "downloaded"]
    (file,) = (tmp_path / "host").iterdir()
    segments = sorted((media_root() / "hls").glob("seg*.ts"))
    assert file.read_bytes() == b"".join(segment.read_bytes() for segment in segments)


async def test_no_plugin_of_the_hosts_is_loaded(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's job is no reason to run code that lies around on the host's path."""
    plugin = tmp_path / "path" / "yt_dlp_plugins" / "extractor" / "mine.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()")
    monkeypatch.syspath_prepend(plugin.parents[2])
    monkeypatch.setattr(yt_dlp.globals.all_plugins_loaded, "value", False)
    async with open_bench(tmp_path, "thread") as bench:
        await bench.finish(bench.spec(origin.file("x.mp4", 100)))
    assert not (tmp_path / "loaded").exists()


async def test_nobody_is_asked_to_type(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's terminal is not ours."""
    instead_of_extracting(monkeypatch, lambda: print(input("Password: ")))  # noqa: T201
    async with open_bench(tmp_path, "thread") as bench:
        end = await bench.run(bench.spec(origin.file("x.mp4", 100)))
    assert isinstance(end, Failed)
    assert "nobody is there" in end.message


async def test_a_child_of_a_run_leads_a_group_and_dies_with_it(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with its own children, whatever signals they ignore."""

    def start() -> None:
        script = "trap '' TERM INT HUP; sleep 600 & wait; sleep 600"
        subprocess.run(["sh", "-c", script], check=False)

    instead_of_extracting(monkeypatch, start)
    async with open_bench(tmp_path, "thread") as bench:
        async with bench.engine.open(bench.spec(origin.file("x.mp4", 100))):
            await wait_until(lambda: len(descendants(os.getpid())) >= 2)
            pids = descendants(os.getpid())
            assert os.getpgid(pids[0]) == pids[0] != os.getpgid(0)
        await wait_until(lambda: not descendants(os.getpid()))
        assert run_threads() == []


# -- the mailbox


async def test_a_run_waits_for_its_reader(tmp_path: Path, origin: Origin) -> None:
    """Nothing is lost, nothing grows without bound; ticks replace each other."""
    box = Mailbox(trio.lowlevel.current_trio_token())

    def talk() -> None:
        for number in range(MAILBOX + 50):
            box.put(Line(Level.INFO, str(number)))
            box.put(Tick("a", downloaded_bytes=number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, talk)
        await wait_until(lambda: len(box._messages) >= MAILBOX)
        await trio.sleep(0.02)
        assert len(box._messages) <= MAILBOX
        lines: list[str] = []
        while len(lines) < MAILBOX + 50:
            for message in await box.receive():
                if isinstance(message, Line):
                    lines.append(message.message)
                else:
                    last = message
    assert lines == [str(number) for number in range(MAILBOX + 50)]
    assert last == Tick("a", downloaded_bytes=MAILBOX + 49) or (await box.receive())


async def test_a_closed_mailbox_holds_nobody_up() -> None:
    """A thread that was given up talks to the wall."""
    box = Mailbox(trio.lowlevel.current_trio_token())
    for number in range(MAILBOX):
        box.put(Line(Level.INFO, str(number)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, box.put, Line(Level.INFO, "one more"))
        await trio.testing.wait_all_tasks_blocked()
        box.close()
    assert len(await box.receive()) == MAILBOX
    with pytest.raises(Exception, match="stopped"):
        await box.receive()


# -- control


def test_a_stop_is_heard_everywhere() -> None:
    """Before, while and after something blocks."""
    control = Control()
    control.check()
    control.stop()
    control.stop()
    assert control.asked
    for wait in (control.check, control.enter, lambda: control.sleep(600)):
        with pytest.raises(Interrupted):
            wait()
    CURRENT.set(None)
    with socket.socket() as sock, pytest.raises(Interrupted):
        control.track_socket(sock)
    child = subprocess.Popen(["sleep", "600"])
    control.track_child(child)
    assert child.wait() == -9
    control.interrupt()  # nobody is exposed
    gc.collect()


def test_a_blocked_read_ends_and_nothing_is_closed() -> None:
    """The descriptor stays its owner's: a number that is free may be somebody else's at once."""
    control = Control()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        control.track_socket(ours)
        answers: list[bytes] = []
        reader = threading.Thread(target=lambda: answers.append(ours.recv(10)))
        reader.start()
        control.stop()
        reader.join(10)
        assert answers == [b""]
        assert ours.fileno() >= 0


def test_somebody_elses_wrapper_stays() -> None:
    """A host that wraps what we wrapped keeps its own."""
    before = time.sleep
    try:
        with hooks.installed(own_groups=True):
            ours = time.sleep

            def theirs(seconds: Any, /) -> None:  # noqa: ANN401
                ours(seconds)

            time.sleep = theirs
        assert time.sleep is theirs
        time.sleep(0)
    finally:
        time.sleep = before
