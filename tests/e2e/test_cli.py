"""The command line as users run it: processes, exit codes, signals, and what is left behind.

Rules: an empty home and a temporary directory of its own, which must be empty
afterwards; every wait has a limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.origin import Origin, open_origin
from tests.support.process import TOKEN, alive, descendants, free_port, running_server, wait_until

pytestmark = pytest.mark.slow

SECONDS = 60
SIZE = 300_000

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc")


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run a media origin for one test."""
    with open_origin() as running:
        yield running


@dataclass
class Shell:
    """A place to run commands in."""

    home: Path
    temporary: Path

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `python -m vidra_trio` with nothing of ours in the environment."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("VIDRA_")}
        env |= {"HOME": str(self.home), "TMPDIR": str(self.temporary), **variables}
        return subprocess.Popen(
            [sys.executable, "-m", "vidra_trio", *arguments],
            cwd=self.home,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Run a command to its end; return exit code, stdout and stderr."""
        process = self.start(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
            process.wait()
        return process.returncode, out, err

    def interrupt(
        self, process: subprocess.Popen[str], number: signal.Signals
    ) -> tuple[int, float]:
        """Send a signal; return the exit code and the seconds that it took."""
        asked = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
        return process.returncode, time.monotonic() - asked

    def left(self) -> list[str]:
        """Return what is in the temporary directory."""
        return sorted(path.name for path in self.temporary.iterdir())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Make an empty home and an empty temporary directory."""
    made = Shell(tmp_path / "home", tmp_path / "temporary")
    made.home.mkdir()
    made.temporary.mkdir()
    return made


def serving(shell: Shell, **more: str) -> dict[str, str]:
    return {
        "VIDRA_SERVER_TOKEN": TOKEN,
        "VIDRA_SERVER_DATA": str(shell.home / "data"),
        "VIDRA_SERVER_CACHE": str(shell.home / "cache"),
        "VIDRA_SERVER_PORT": str(free_port()),
        **more,
    }


# -- words


def test_help_and_version(shell: Shell) -> None:
    """Both answer, and name what there is."""
    code, out, _ = shell.run("--help")
    assert code == 0
    assert re.findall(r"^  (\w+)  ", out, re.MULTILINE) == [
        "cancel", "demo", "get", "jobs", "serve", "token", "watch",
    ]  # fmt: skip
    code, out, _ = shell.run("--version")
    assert code == 0
    assert re.fullmatch(r"vidra-trio \S+ \(yt-dlp 2026\.\S+, Python 3\.\S+\)\n", out)


def test_help_loads_no_server(shell: Shell) -> None:
    """`--help` is quick because it imports neither a web server nor an event loop."""
    heavy = {"trio", "quart", "hypercorn", "httpx", "rich", "yt_dlp"}
    code = f"import sys, vidra_trio.cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS
    )
    assert done.stdout == "[]\n"


def test_token_new(shell: Shell) -> None:
    """Each call prints another token that nobody can guess."""
    code, first, _ = shell.run("token", "new")
    assert code == 0
    assert re.fullmatch(r"[A-Za-z0-9_-]{64}\n", first)
    assert shell.run("token", "new")[1] != first


# -- serve


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"VIDRA_SERVER_TOKEN": ""}, "VIDRA_SERVER_TOKEN: must be set"),
        ({"VIDRA_SERVER_DATA": " "}, "VIDRA_SERVER_DATA: must be set"),
        ({"VIDRA_SERVER_CACHE": ""}, "VIDRA_SERVER_CACHE: must be set"),
        ({"VIDRA_SERVER_PORT": "many"}, "VIDRA_SERVER_PORT: expected an integer"),
    ],
)
def test_serve_is_not_configured(shell: Shell, wrong: dict[str, str], words: str) -> None:
    """What is missing or wrong is one line that names it, exit code 2."""
    code, out, err = shell.run("serve", **serving(shell, **wrong))
    assert (code, out) == (2, "")
    assert err.startswith(f"vidra-trio: {words}")
    assert err.count("\n") == 1


def test_serve_twice(shell: Shell) -> None:
    """The data directory belongs to one server (75), the port too (3); the first one lives on."""
    with running_server(shell.home) as first:
        port = first.url.rpartition(":")[2]
        code, _, err = shell.run("serve", **serving(shell))
        assert code == 75
        assert err == f"vidra-trio: another server is using {first.data}\n"
        other = serving(shell, VIDRA_SERVER_DATA="other", VIDRA_SERVER_PORT=port)
        code, _, err = shell.run("serve", **other)
        assert code == 3
        assert err.startswith(f"vidra-trio: cannot listen on 127.0.0.1:{port}: ")
        assert err.count("\n") == 1
        assert first.ask("GET", "/api/jobs").status_code == 200


def test_serve_reads_dotenv_and_the_environment_wins(shell: Shell) -> None:
    """`.env` of the current directory is enough, and any variable can be overruled."""
    settings = serving(shell, VIDRA_SERVER_PORT="1")
    text = "".join(f'{name}="{value}"\n' for name, value in settings.items())
    (shell.home / ".env").write_text(text)
    port = str(free_port())
    process = shell.start("serve", VIDRA_SERVER_PORT=port)
    assert process.stderr is not None
    assert process.stderr.readline() == f"listening on http://127.0.0.1:{port}\n"
    log_file = shell.home / "data" / "release_logs.txt"
    assert process.stderr.readline() == f"logging to {log_file}\n"
    code, out, _ = shell.run("jobs", VIDRA_SERVER_PORT=port)
    assert (code, out) == (0, "")
    assert shell.interrupt(process, signal.SIGTERM)[0] == 0
    assert TOKEN not in log_file.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_serve_keeps_the_token_from_its_children(shell: Shell) -> None:
    """What a server starts does not inherit its token."""
    with running_server(shell.home) as server:
        wait_until(lambda: programs(server.children()), what="a worker")
        for child in programs(server.children()):
            assert TOKEN.encode() not in Path(f"/proc/{child}/environ").read_bytes()


def programs(children: list[int]) -> list[int]:
    """Return those that run a program of their own.

    Between fork and exec a child still is the server, and /proc shows the
    server's first environment for it (measured: 308 sightings, all of this kind,
    and none in 6,000 of children after their exec).
    """
    own = []
    for child in children:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if command != [b""] and b"serve" not in command:
                own.append(child)
    return own


# -- a running server, from outside


def test_jobs_watch_cancel(shell: Shell, origin: Origin) -> None:
    """A job can be listed, watched to its end, and another one cancelled."""
    with running_server(shell.home / "server") as server:
        port = server.url.rpartition(":")[2]
        target = {"VIDRA_SERVER_TOKEN": TOKEN, "VIDRA_SERVER_PORT": port}
        job_id = server.create(origin.file("a.mp4", SIZE, rate=SIZE), "out")
        code, _, err = shell.run("watch", job_id, **target)
        assert code == 0
        assert err.splitlines()[-1] == "a: completed"
        code, out, _ = shell.run("jobs", **target)
        assert (code, out) == (0, f"{job_id}\tcompleted\t100 %\ta\n")
        slow = server.create(origin.file("b.mp4", 10 * SIZE, rate=SIZE), "out")
        code, out, _ = shell.run("cancel", slow, "nobody", **target)
        assert code == 1
        lines = out.splitlines()
        assert lines[0].startswith(f"{slow}\t")
        assert lines[1] == "nobody\tjob_not_found"
        wait_until(lambda: server.ask("GET", f"/api/jobs/{slow}").json().get("status") in
                   {None, "cancelled"})  # fmt: skip
        code, _, err = shell.run("watch", "nobody", **target)
        assert code == 1
        assert err == "vidra-trio: job_not_found (404): no job 'nobody'\n"
        code, _, err = shell.run("jobs", "--url", server.url, VIDRA_SERVER_TOKEN="w" * 43)
        assert code == 1
        assert err.startswith("vidra-trio: token_missing_or_invalid (401)")
        (shell.home / "token").write_text(TOKEN + "\n")
        code, _, _ = shell.run("jobs", "--url", server.url, "--token-file", "token")
        assert code == 0


def test_watching_everything(shell: Shell, origin: Origin) -> None:
    """`watch` prints every change of every job, and ends with the server."""
    with running_server(shell.home / "server") as server:
        process = shell.start("watch", "--url", server.url, VIDRA_SERVER_TOKEN=TOKEN)
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == f"watching {server.url}\n"
        job_id = server.create(origin.file("a.mp4", 1000), "out")
        assert any(line.startswith(f"{job_id}\tcompleted\t") for line in process.stdout)
        server.stop()
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert "closed the socket (1001" in err


@pytest.mark.parametrize("command", ["jobs", "watch", "cancel"])
def test_nobody_there(shell: Shell, command: str) -> None:
    """Without a server it is one line and exit code 1, without a token exit code 2."""
    url = f"http://127.0.0.1:{free_port()}"
    arguments = [command, *(["x"] if command == "cancel" else []), "--url", url]
    code, out, err = shell.run(*arguments, VIDRA_SERVER_TOKEN=TOKEN)
    assert (code, out) == (1, "")
    assert err.startswith(f"vidra-trio: no answer from {url}: ")
    assert err.count("\n") == 1
    code, _, err = shell.run(*arguments)
    assert code == 2
    assert err.startswith("vidra-trio: VIDRA_SERVER_TOKEN: must be set")


# -- get


def test_get(shell: Shell, origin: Origin) -> None:
    """The files are there, whole, and printed one per line; nothing else is left."""
    urls = [origin.file("a.mp4", SIZE), origin.file("b.mp4", SIZE + 1)]
    code, out, err = shell.run("get", *urls, "-o", "new/folder")
    assert code == 0, err
    files = [Path(line) for line in out.splitlines()]
    assert [file.name for file in files] == ["a [a].mp4", "b [b].mp4"]
    assert {file.parent for file in files} == {shell.home / "new" / "folder"}
    assert sorted(files) == sorted((shell.home / "new" / "folder").iterdir())
    assert shell.left() == []
    assert "a: completed" in err


def test_get_again(shell: Shell, origin: Origin) -> None:
    """A file that is there already stays as it is, unless it is to be replaced."""
    url = origin.media("clip.mp4")
    code, out, _ = shell.run("get", url)
    assert code == 0
    file = Path(out.strip())
    file.write_bytes(b"mine")
    assert shell.run("get", url)[0] == 0
    assert file.read_bytes() == b"mine"
    code, out, _ = shell.run("get", url, "--overwrite")
    assert (code, out) == (0, f"{file}\n")
    assert file.stat().st_size > len(b"mine")


def test_get_fails(shell: Shell, origin: Origin) -> None:
    """Each URL that came to nothing is a line with the cause; the others are printed."""
    urls = [origin.at("/status/404"), "file:///etc/passwd", origin.file("a.mp4", SIZE)]
    code, out, err = shell.run("get", *urls)
    assert code == 1
    assert out == f"{shell.home / 'a [a].mp4'}\n"
    first, second = err.splitlines()[-2:]
    assert first.startswith(f"vidra-trio: {urls[0]}: ")
    assert "404" in first
    assert second.startswith("vidra-trio: file:///etc/passwd: url_not_allowed (400)")
    assert shell.left() == []


def test_get_audio_of_two_streams(shell: Shell, origin: Origin) -> None:
    """`--audio` gives a sound file, without it picture and sound are merged."""
    code, out, err = shell.run("get", origin.media("dash/manifest.mpd"))
    assert code == 0, err
    assert Path(out.strip()).suffix == ".mkv"
    code, out, err = shell.run("get", "--audio", origin.media("clip.mp4"))
    assert code == 0, err
    assert Path(out.strip()).suffix in {".m4a", ".aac"}


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_get_interrupted(shell: Shell, origin: Origin, number: signal.Signals) -> None:
    """Ctrl-C cancels and cleans up: no part, no process, no connection; exit code 130."""
    process = shell.start("get", origin.file("a.mp4", 100 * SIZE, rate=SIZE), "-o", "out")
    origin.wait_sent("a.mp4", 50_000)
    wait_until(lambda: any((shell.home / "out").rglob("*.mp4*")), what="a part")
    started = descendants(process.pid)
    assert started
    code, seconds = shell.interrupt(process, number)
    assert code == 130
    assert seconds < 5
    assert list((shell.home / "out").rglob("*")) == []
    assert shell.left() == []
    wait_until(lambda: not alive(started), what="the end of all processes")
    wait_until(lambda: origin.open_connections() == 0, what="the end of the connection")


# -- demo


@linux
def test_demo(shell: Shell) -> None:
    """The demo does what it says, says so in its last line, and leaves nothing."""
    code, out, err = shell.run("demo")
    assert code == 0, err
    last = out.splitlines()[-1]
    assert re.fullmatch(
        r"demo ok in \d+\.\d s: .* sha256 right, .* cancelled in .* nothing left", last
    )
    assert shell.left() == []
    assert list(shell.home.iterdir()) == []


@linux
def test_demo_interrupted(shell: Shell) -> None:
    """Ctrl-C ends the demo like any other command."""
    process = shell.start("demo")
    assert process.stdout is not None
    assert any("running" in line for line in process.stdout)
    started = descendants(process.pid)
    code, seconds = shell.interrupt(process, signal.SIGINT)
    assert code == 130
    assert seconds < 5
    assert shell.left() == []
    wait_until(lambda: not alive(started), what="the end of all processes")


# -- signals


def test_the_second_signal_forces() -> None:
    """A program that does not end when asked ends at the second signal, hanging loop or not."""
    code = """
import time, trio
from vidra_trio.interrupts import interrupts

async def main():
    with interrupts(lambda: print("asked", flush=True)):
        print("ready", flush=True)
        await trio.sleep(0.2)
        while True:
            time.sleep(0.01)

trio.run(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == ""
