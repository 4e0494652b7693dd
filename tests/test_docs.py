"""What the README and `.env.example` say is true: the tables, and every example when pasted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.origin import Origin, open_origin
from tests.support.process import TOKEN, running_server
from vidra_trio.core.errors import ConfigurationError
from vidra_trio.engine.errors import FAULTS
from vidra_trio.settings import VARIABLES, Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
NAMES = [variable.name for variable in VARIABLES]
SECONDS = 60


@pytest.fixture
def origin() -> Iterator[Origin]:
    """Run a media origin for one test."""
    with open_origin() as running:
        yield running


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def pasted(command: list[str], folder: Path, text: str = "") -> str:
    """Run an example in `folder`, with a home of its own; return what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("VIDRA_")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**env, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_every_setting() -> None:
    """The settings table is the settings table, line by line."""
    rows = re.findall(r"^\| `(VIDRA_\w+)` \| (.*) \| (.*) \|$", README, re.MULTILINE)
    assert rows == [tuple(variable) for variable in VARIABLES]


def test_the_readme_has_every_error_code() -> None:
    """Each once, with what it really says of another try."""
    told = {"yes": True, "no": False, "408, 5xx": False}
    rows = re.findall(r"^\| (`[a-z_0-9`, ]+`) \| (yes|no|408, 5xx) \| .+ \|$", README, re.MULTILINE)
    codes = [(code, told[again]) for cell, again in rows for code in re.findall(r"`(\w+)`", cell)]
    assert sorted(codes) == sorted(FAULTS.items())


def test_the_example_has_every_setting() -> None:
    """`.env.example` documents each variable once, and none that does not exist."""
    named = re.findall(r"^(?:# )?(VIDRA_\w+)=", EXAMPLE, re.MULTILINE)
    assert sorted(named) == sorted(NAMES)


def test_the_example_shows_the_defaults() -> None:
    """What is commented out in `.env.example` is what happens without it."""
    shown = dict(re.findall(r"^# (VIDRA_\w+)=(.+)$", EXAMPLE, re.MULTILINE))
    must = {f"VIDRA_SERVER_{name}": "x" * 43 for name in ("TOKEN", "DATA", "CACHE")}
    assert Settings.from_env(must | shown) == Settings.from_env(must)


def test_the_example_holds_no_token_that_works() -> None:
    """Whoever forgets to fill the token in gets no server, and is told what to do."""
    given = dict(re.findall(r"^(VIDRA_\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    with pytest.raises(ConfigurationError, match="vidra-trio token new"):
        Settings.from_env(given)


def test_the_first_screen_has_the_two_commands() -> None:
    """One line shows it at work, one line tests it; both begin with nothing but Python."""
    first, second = blocks("console")[0].splitlines()
    assert README.index(first) < 1000
    assert first == (
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/vidra-trio demo"
    )
    assert second == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m tests"
    )


def test_links_lead_somewhere() -> None:
    """Every relative link of the README is a file of the repository."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_embedding_example_runs(tmp_path: Path, origin: Origin) -> None:
    """The program in the README downloads a file."""
    (example,) = blocks("python")
    example = example.replace("https://example.org/watch/1", origin.media("clip.mp4"))
    (tmp_path / "Videos").mkdir()
    said = pasted([sys.executable, "-"], tmp_path, example)
    assert said.startswith("completed ")
    (file,) = (tmp_path / "Videos").glob("*.*")
    assert str(file) in said


needs_shell = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="curl or bash is not here"
)


def answers(said: str) -> list[dict[str, object]]:
    """Return the JSON documents that curl printed, a line each."""
    return [json.loads(line) for line in said.splitlines() if line]


@pytest.mark.slow
@needs_shell
def test_the_curl_examples_run(tmp_path: Path, origin: Origin) -> None:
    """The requests in the README, pasted beside the `.env` of a server, are answered."""
    example = next(block for block in blocks("sh") if "curl" in block)
    example = example.replace("https://example.org/watch/1", origin.media("clip.mp4"))
    (tmp_path / ".env").write_text(f"VIDRA_SERVER_TOKEN={TOKEN}\n")
    with running_server(tmp_path) as server:
        said = pasted(["bash"], tmp_path, example.replace("http://127.0.0.1:5000", server.url))
    health, created, listed, cancelled = answers(said)
    assert health["service"] == "Vidra Download Service"
    assert created["status"] in {"queued", "starting"}
    assert isinstance(listed["jobs"], list)
    assert [job["job_id"] for job in listed["jobs"]] == [created["job_id"]]
    assert cancelled["error"] == "job_not_found"


@pytest.mark.slow
@needs_shell
def test_the_socket_example_runs(tmp_path: Path, origin: Origin) -> None:
    """The watcher in the README prints what happens, whoever causes it."""
    example = next(block for block in blocks("sh") if "watch_overview" in block)
    example = example.replace(".venv/bin/python", sys.executable)
    with running_server(tmp_path) as server:
        example = example.replace("http://127.0.0.1:5000", server.url)
        watcher = subprocess.Popen(
            ["bash", "-c", "exec " + example.replace('TOKEN="$TOKEN" ', "")],
            env={**os.environ, "TOKEN": TOKEN},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "update None None\n"
            job_id = server.create(origin.media("clip.mp4"), "out")
            assert any(line == f"update {job_id} completed\n" for line in watcher.stdout)
        finally:
            watcher.kill()
            watcher.communicate()
