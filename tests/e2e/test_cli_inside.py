"""The command line's own parts, called in this process: what is drawn, read and decided."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import trio
from rich.console import Console

from tests.support.origin import Origin, open_origin
from vidra_trio import demo, remote, serving
from vidra_trio.bars import Files, LiveBoard, describe, open_board, open_console, say
from vidra_trio.cli import cli
from vidra_trio.client import Client, Message, RemoteProgress, RequestRefused
from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.report import Failed, Identified
from vidra_trio.core.states import JobKind
from vidra_trio.engine.tools import find_ffmpeg
from vidra_trio.settings import Settings
from vidra_trio.surroundings import find_server, read_environment
from vidra_trio.testing import ScriptedEngine, download, open_test_server

LIMIT = 60.0
TOKEN = "a token of the tests, long enough"


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run a media origin for one test."""
    with open_origin() as running:
        yield running


@pytest.fixture(autouse=True)
def _empty_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("VIDRA_"):
            monkeypatch.delenv(name)


def screen(*, terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=100, markup=False, highlight=False
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def wait_shown(console: Console, words: str) -> None:
    while words not in shown(console):  # noqa: ASYNC110 - a screen has no event
        await trio.sleep(0.01)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments, prog_name="vidra-trio")
    assert isinstance(ended.value.code, int)
    return ended.value.code


def moved(name: str, done: int, total: int | None = None, **more: object) -> RemoteProgress:
    percent = None if total is None else 100 * done / total
    progress = RemoteProgress("downloading", "downloading", percent=percent)
    changes = {"filename": name, "downloaded_bytes": done, "total_bytes": total, **more}
    return RemoteProgress(
        **{**{f: getattr(progress, f) for f in progress.__struct_fields__}, **changes}
    )


def progress_of(job: str, **payload: object) -> Message:
    return Message("progress", {"job_id": job, "stage": "downloading", **payload})


# -- bars


def test_one_file() -> None:
    """A single file has one bar, with the item's own total."""
    files = Files()
    files.apply(moved("/job/a.mp4", 10, 100))
    (row,) = files.rows.values()
    assert (row.name, row.done, row.total, row.finished) == ("a.mp4", 10, 100, False)
    files.apply(moved("/job/a.mp4", 100, 100, status="finished"))
    assert (row.done, row.total, row.finished) == (100, 100, True)


def test_two_streams() -> None:
    """Of two streams each has its own bytes; its total is not known before it is done."""
    files = Files()
    files.apply(moved("a.f1.mp4", 10, 300))
    assert files.rows["a.f1.mp4"].total is None
    files.apply(moved("a.f1.mp4", 200, 300))
    files.apply(moved("a.f2.m4a", 250, 300))
    video, sound = files.rows.values()
    assert (video.done, video.finished) == (200, True)
    assert (sound.done, sound.finished) == (50, False)
    files.apply(RemoteProgress(stage="Merger"))
    assert sound.finished


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (RemoteProgress(), ""),
        (RemoteProgress(stage="IDENTIFICANDO"), "identifying"),
        (RemoteProgress(stage="Merger", stage_name="Merger"), "Merger"),
        (RemoteProgress(stage="x", stage_name="\x1b[31mred\n"), "red"),
        (moved("a", 500), "500 bytes"),
        (moved("a", 500, 2000), " 25 %  500 bytes of 2.0 kB"),
        (moved("a", 500, 2000, speed=1500.0, eta=65.2),
         " 25 %  500 bytes of 2.0 kB  1.5 kB/s  1:05"),
    ],
)  # fmt: skip
def test_describe(progress: RemoteProgress, words: str) -> None:
    """Progress is a few words, with what is known and nothing that a terminal obeys."""
    assert describe(progress) == words


MESSAGES = [
    Message("update", {"job_id": None, "reason": "initial_sync"}),
    Message("update", {"job_id": "j1", "status": "queued"}),
    Message("update", {"job_id": "j1", "status": "running", "preview": {"title": "A \x1b[1mfilm"}}),
    Message("log", {"job_id": "j1", "message": "[bold]hello"}),
    progress_of("j1", filename="a.f1.mp4", downloaded_bytes=10, total_bytes=100, percent=10),
    progress_of("j1", filename="a.f1.mp4", downloaded_bytes=60, total_bytes=100, percent=60),
    progress_of("j1", filename="a.f2.mp4", downloaded_bytes=70, total_bytes=100, percent=70),
    Message("progress", {"job_id": "j1", "stage": "Merger", "percent": 100}),
    Message("update", {"job_id": "j1", "status": "completed", "preview": {"title": "A film"}}),
]


def test_plain_lines() -> None:
    """Where nothing can move, there is a line per state and per quarter of the way."""
    console = screen()
    with open_board(console) as board:
        board.begin("j1", "http://site/watch")
        for message in MESSAGES[1:]:
            board.take(message)
    assert shown(console).splitlines() == [
        "http://site/watch: queued",
        "A film: running",
        "A film:  60 %  60 bytes of 100 bytes",
        "A film: completed",
    ]


def test_live_bars() -> None:
    """On a terminal each job has a bar, with its files below it."""
    console = screen(terminal=True)
    with open_board(console) as board:
        assert isinstance(board, LiveBoard)
        board.begin("j2", "second")
        for message in MESSAGES[1:-1]:
            board.take(message)
    lines = shown(console)
    for words in ("A film", "second", "a.f1.mp4", "a.f2.mp4", "Merger"):
        assert words in lines
    assert "\x1b[1mfilm" not in lines


def test_consoles_obey_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """Text of others is printed as it is: no markup, no escape sequence, one line."""
    say(open_console(stderr=True), "[red]a[/red] :smile: \x1b[31mb\nc" + "x" * 300)
    err = capsys.readouterr().err
    assert err == "[red]a[/red] :smile: b c" + "x" * 300 + "\n"


# -- surroundings


def test_read_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over `.env`, whose values are literal; the token leaves the former."""
    (tmp_path / ".env").write_text("VIDRA_SERVER_TOKEN=a$HOME\nVIDRA_SERVER_NAME=own\nEMPTY\n")
    monkeypatch.setenv("VIDRA_SERVER_NAME", "real")
    found = read_environment(tmp_path)
    assert found["VIDRA_SERVER_TOKEN"] == "a$HOME"
    assert found["VIDRA_SERVER_NAME"] == "real"
    assert "EMPTY" not in found
    monkeypatch.setenv("VIDRA_SERVER_TOKEN", "real one")
    assert read_environment(tmp_path)["VIDRA_SERVER_TOKEN"] == "real one"
    assert "VIDRA_SERVER_TOKEN" not in os.environ


def test_unreadable_environment(tmp_path: Path) -> None:
    """A `.env` that is no text is one line."""
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"^\.env: expected a readable UTF-8 file"):
        read_environment(tmp_path)


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"HOST": "0.0.0.0", "PORT": "80"}, "http://127.0.0.1:80"),
        ({"HOST": "::"}, "http://[::1]:5000"),
        ({"HOST": "::1"}, "http://[::1]:5000"),
        ({"HOST": "192.0.2.1"}, "http://192.0.2.1:5000"),
        ({"HOST": "localhost"}, "http://localhost:5000"),
    ],
)
def test_find_server(
    monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], address: str
) -> None:
    """A server is found where its own settings put it."""
    for name, value in {"TOKEN": TOKEN, **environ}.items():
        monkeypatch.setenv(f"VIDRA_SERVER_{name}", value)
    assert find_server(None, None) == (address, TOKEN)


def test_find_server_by_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said on the command line wins; a port of 0 says nothing."""
    monkeypatch.setenv("VIDRA_SERVER_TOKEN", "another token, long enough")
    monkeypatch.setenv("VIDRA_SERVER_PORT", "0")
    file = tmp_path / "token"
    file.write_text(TOKEN)
    assert find_server("http://a:1", file) == ("http://a:1", TOKEN)
    with pytest.raises(ConfigurationError, match="--url"):
        find_server(None, file)


# -- commands


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The words about the program itself need nothing else."""
    assert run("--version") == 0
    assert run("token", "new") == 0
    assert run("get") == 2
    assert run("serve") == 2
    out, err = capsys.readouterr()
    assert out.startswith("vidra-trio ")
    assert "vidra-trio: VIDRA_SERVER_TOKEN: must be set" in err


def test_interrupted_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ctrl-C that comes before there is anything to ask is 130 too."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trio, "run", interrupted)
    assert run("demo") == 130


def test_several_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a group of errors the user reads the first, and the code is that one's."""

    def failing(*_: object) -> None:
        error = ConfigurationError("X", "wrong")
        raise ExceptionGroup("", [ExceptionGroup("", [error])])

    monkeypatch.setattr(trio, "run", failing)
    assert run("demo") == 2
    assert capsys.readouterr().err == "vidra-trio: X: wrong\n"


@pytest.mark.slow
def test_get(origin: Origin, capsys: pytest.CaptureFixture[str]) -> None:
    """Files go to stdout in the order of the URLs, failures to stderr."""
    code = run("get", "http://127.0.0.1:1/x", "nonsense", origin.file("a.mp4", 1000), "-o", "out")
    out, err = capsys.readouterr()
    assert code == 1
    assert out == f"{Path.cwd() / 'out' / 'a [a].mp4'}\n"
    assert [line.partition(": ")[2][:8] for line in err.splitlines()[-2:]] == [
        "http://1",
        "nonsense",
    ]


@pytest.mark.slow
async def test_serve() -> None:
    """A server says where it listens and logs, stops at a signal, and keeps its early lines."""
    console = screen()
    settings = Settings.private(Path.cwd(), download_dir=Path.cwd() / "out")
    (settings.data).mkdir(parents=True)
    (settings.data / "download_state.json").write_text("{damaged")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serving.serve_until_stopped, settings, console)
            await wait_shown(console, "logging to")
            os.kill(os.getpid(), signal.SIGTERM)
    assert shown(console).splitlines()[-1] == "stopped"
    lines = settings.log_file.read_text().splitlines()
    assert "download_state.json" in lines[0]
    assert any(" ffmpeg " in line for line in lines)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not logging.getLogger("vidra_trio").handlers


async def test_jobs_and_cancel(tmp_path: Path) -> None:
    """Jobs are tab-separated lines; a cancel prints what each one became."""
    lines: list[str] = []
    never = trio.Event()
    engine = ScriptedEngine(lambda _: (Identified(JobKind.VIDEO, {"title": "a\tfilm"}), never))
    with trio.fail_after(LIMIT):
        async with open_test_server(tmp_path, engine=engine) as server:
            async with Client(server.url, server.token) as client:
                job = await client.create("http://site.example/a")
                while (await client.job(job.job_id)).title is None:  # noqa: ASYNC110 - may be early
                    await trio.sleep(0.01)
            await remote.show_jobs(server.url, server.token, lines.append)
            code = await remote.cancel_jobs(
                server.url, server.token, [job.job_id, "x"], lines.append
            )
    assert code == 1
    assert lines[0] == f"{job.job_id}\trunning\t0 %\ta film"
    assert lines[1] == f"{job.job_id}\tcancelling"
    assert lines[2] == "x\tjob_not_found"


@pytest.mark.parametrize(
    ("script", "code", "last"),
    [
        (download("clip"), 0, "completed"),
        ((Identified(JobKind.VIDEO), Failed("gone", "it is gone")), 1, "error: it is gone"),
    ],
)
async def test_watch_job(tmp_path: Path, script: tuple[object, ...], code: int, last: str) -> None:
    """Watching a job ends with it, and tells how it went."""
    console = screen()
    with trio.fail_after(LIMIT):
        async with open_test_server(tmp_path, engine=ScriptedEngine(lambda _: script)) as server:
            async with Client(server.url, server.token) as client:
                job = await client.create("http://site.example/a")
            watched = await remote.watch_job(server.url, server.token, job.job_id, console)
            assert watched == code
            assert shown(console).splitlines()[-1].endswith(last)
            with pytest.raises(RequestRefused, match="job_not_found"):
                await remote.watch_job(server.url, server.token, "nobody", console)


async def test_watching_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends a watch with 130 and does nothing to the job."""
    console, lines = screen(), list[str]()
    never = trio.Event()
    codes: list[int] = []

    async def watching(server_url: str, token: str, job_id: str | None) -> None:
        watch = (
            partial(remote.watch_all, server_url, token, lines.append)
            if job_id is None
            else partial(remote.watch_job, server_url, token, job_id)
        )
        codes.append(await watch(console))

    with trio.fail_after(LIMIT):
        engine = ScriptedEngine(lambda _: (Identified(JobKind.VIDEO), never))
        async with (
            open_test_server(tmp_path, engine=engine) as server,
            Client(server.url, server.token) as client,
        ):
            for sign in ("watching", "running"):
                async with trio.open_nursery() as nursery:
                    job = await client.create("http://site.example/a")
                    job_id = None if sign == "watching" else job.job_id
                    nursery.start_soon(watching, server.url, server.token, job_id)
                    await wait_shown(console, sign)
                    os.kill(os.getpid(), signal.SIGINT)
                assert (await client.job(job.job_id)).status in {"starting", "running"}
    assert codes == [130, 130]


# -- demo


@pytest.mark.slow
async def test_demo_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo shows live bars where there is a terminal."""
    monkeypatch.setattr(demo, "TRANSFER_SECONDS", 1.0)
    console = screen(terminal=True)
    with trio.fail_after(LIMIT):
        assert await demo.show(console) == 0
    assert "demo ok in" in shown(console).splitlines()[-1]
    assert "━" in shown(console)


@pytest.mark.slow
async def test_demo_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that does not come to its end says so."""
    monkeypatch.setattr(demo, "DEADLINE", 0.1)
    with trio.fail_after(LIMIT), pytest.raises(demo.DemoFailed, match="not done"):
        await demo.show(screen())


@pytest.mark.slow
async def test_demo_notices_a_wrong_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not what the origin sent ends the demo."""
    monkeypatch.setattr(demo, "TRANSFER_SECONDS", 0.2)
    monkeypatch.setattr("hashlib.sha256", lambda data: hashlib.md5(data + os.urandom(4)))
    with trio.fail_after(LIMIT), pytest.raises(demo.DemoFailed, match="not what the origin sent"):
        await demo.show(screen())


async def test_demo_without_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an ffmpeg, or with a broken one, the demo says what is missing."""
    tool = find_ffmpeg()
    monkeypatch.setattr(demo, "find_ffmpeg", lambda: type(tool)("", "", "none", False))
    with pytest.raises(demo.DemoFailed, match="no ffmpeg"):
        await demo._make_clip(trio.Path(tmp_path / "a.mp4"), screen())
    monkeypatch.setattr(demo, "find_ffmpeg", lambda: tool)
    with pytest.raises(demo.DemoFailed, match="ffmpeg: "):
        await demo._make_clip(trio.Path(tmp_path / "no" / "a.mp4"), screen())


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are found in /proc, or by `ps`, or not at all."""
    monkeypatch.setattr(demo, "_parents_in_proc", lambda: {2: os.getpid(), 3: 2, 4: 1})
    monkeypatch.setattr(demo, "_parents_by_ps", lambda: {2: os.getpid(), 3: 2, 4: 1})
    assert demo.descendants() == {2, 3}


async def test_processes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not end is a failure that names it."""
    monkeypatch.setattr(demo, "CLEAN_DEADLINE", 0.05)
    with pytest.raises(demo.DemoFailed, match=str(os.getpid())):
        await demo._expect_gone(frozenset({os.getpid()}))
    await demo._expect_gone(frozenset())


def test_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `ps` nothing is known, which is no failure."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert demo._parents_by_ps() == {}
