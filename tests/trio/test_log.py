"""Our log: private, one line per event, without secrets, and never in the way."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import stat
import sys
from pathlib import Path

import pytest

from vidra_trio import log
from vidra_trio.settings import Settings

OURS = logging.getLogger("vidra_trio.somewhere")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose log lies in a folder that is not there yet."""
    return Settings.private(tmp_path / "server", download_dir=tmp_path)


def mode(path: Path) -> int:
    """Return the permission bits of `path`."""
    return stat.S_IMODE(path.stat().st_mode)


def test_lines_go_to_a_private_file(settings: Settings) -> None:
    """Time, level, logger and text, in a 0600 file in a 0700 folder."""
    with log.configure(settings, to_terminal=False):
        OURS.info("the answer is %d", 42)
        logging.getLogger("hypercorn.error").warning("from the server")
        logging.getLogger("quart.app").error("from the framework")
    first, *rest = settings.log_file.read_text().splitlines()
    stamp, _, text = first.partition(" ")
    assert text == "INFO vidra_trio.somewhere: the answer is 42"
    assert stamp.endswith("Z")
    assert "T" in stamp
    assert [line.split(" ", 1)[1] for line in rest] == [
        "WARNING hypercorn.error: from the server",
        "ERROR quart.app: from the framework",
    ]
    assert mode(settings.log_file) == 0o600
    assert mode(settings.log_file.parent) == 0o700


def test_one_event_is_one_line(settings: Settings) -> None:
    """Control characters, colours, line breaks and tracebacks are spelt out."""
    with log.configure(settings, to_terminal=False):
        OURS.info("title \x1b]0;x\x07 \r\nINFO forged\u2028 \ud800 ñ")
        try:
            int("two\nlines")
        except ValueError:
            OURS.exception("broke")
    lines = settings.log_file.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert r"title \x1b]0;x\x07 \r\nINFO forged\u2028 \ud800 ñ" in lines[0]
    assert r"broke\nTraceback" in lines[1]
    assert all(line.isprintable() for line in lines)


def test_no_secret_is_logged(settings: Settings) -> None:
    """The token, in any spelling and wherever it hides, and what looks like one."""
    settings = dataclasses.replace(settings, token="s3 cret/\u202e%token!!")
    with log.configure(settings, to_terminal=False):
        OURS.info("plain %s", settings.token)
        OURS.info("url ?token=s3%20cret%2F%E2%80%AE%25token%21%21&a=1")
        OURS.info("header %s", {"Authorization": "Bearer other"})
        OURS.info("x" * 16_000 + "token=" + "y" * 10_000)
        OURS.info("z" * (16 * 1024 - 50) + settings.token)
    text = settings.log_file.read_text(encoding="utf-8")
    assert "s3" not in text
    assert "other" not in text
    assert "yy" not in text
    assert "a=1" in text
    assert len(text) < 40_000


def test_the_previous_log_is_kept_once(settings: Settings) -> None:
    """Each start has a fresh file; one older one stays, private too."""
    previous = settings.log_file.with_name("release_logs.txt.1")
    for start in range(3):
        with log.configure(settings, to_terminal=False):
            OURS.info("start %d", start)
        settings.log_file.chmod(0o644)
    assert "start 2" in settings.log_file.read_text()
    assert "start 1" in previous.read_text()
    assert mode(previous) == 0o600
    assert len(list(settings.log_file.parent.iterdir())) == 2


def test_a_planted_link_is_not_followed(settings: Settings, tmp_path: Path) -> None:
    """A link under the log's name is moved away; what it leads to is not touched."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o644)
    settings.log_file.parent.mkdir(parents=True)
    settings.log_file.symlink_to(victim)
    with log.configure(settings, to_terminal=False):
        OURS.info("line")
    assert victim.read_text() == "mine"
    assert mode(victim) == 0o644
    assert "line" in settings.log_file.read_text()


def test_a_device_is_left_where_it_is(settings: Settings) -> None:
    """`/dev/null` as a log file is written to, never renamed."""
    settings = dataclasses.replace(settings, log_file=Path(os.devnull))
    with log.configure(settings, to_terminal=False):
        OURS.info("line")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_no_log_file_is_no_reason_to_stop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in its place: the terminal says so, and the rest works."""
    settings.log_file.mkdir(parents=True)
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with log.configure(settings, to_terminal=True):
        OURS.info("line")
    first, second = terminal.getvalue().splitlines()
    assert "no log file" in first
    assert second.endswith("line")
    with log.configure(settings, to_terminal=False):
        OURS.error("to nobody")
    assert len(terminal.getvalue().splitlines()) == 2


def test_the_terminal_is_optional(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded server may have no stderr at all."""
    monkeypatch.setattr(sys, "stderr", None)
    with log.configure(settings, to_terminal=True):
        OURS.info("line")
    assert "line" in settings.log_file.read_text()


def test_a_failing_log_fails_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a closed terminal, a wrong format: the line is lost, the caller is not."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with log.configure(settings, to_terminal=True):
        OURS.info("wrong %d", "format")
        with monkeypatch.context() as disk:
            disk.setattr(os, "write", full)
            OURS.info("while full")
        terminal.close()
        OURS.info("after")
    lines = settings.log_file.read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["after"]


@pytest.mark.parametrize(
    ("level", "verbose", "debug", "lowest"),
    [
        ("critical", False, False, "CRITICAL"),
        ("error", False, False, "ERROR"),
        ("warning", False, False, "WARNING"),
        ("info", False, False, "INFO"),
        ("debug", False, False, "DEBUG"),
        ("trace", False, False, "DEBUG"),
        ("error", True, False, "INFO"),
        ("debug", True, False, "DEBUG"),
        ("error", False, True, "DEBUG"),
    ],
)
def test_levels(settings: Settings, level: str, verbose: bool, debug: bool, lowest: str) -> None:
    """LOG_LEVEL says what is logged; VERBOSE and DEBUG only add to it."""
    settings = dataclasses.replace(settings, log_level=level, verbose=verbose, debug=debug)
    with log.configure(settings, to_terminal=False):
        for word in ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"):
            OURS.log(logging.getLevelNamesMapping()[word], "line")
    lines = settings.log_file.read_text().splitlines()
    assert lines[-1].split()[1] == lowest


def test_there_is_no_access_log(settings: Settings) -> None:
    """Request targets carry tokens; nobody reads them."""
    settings = dataclasses.replace(settings, debug=True)
    with log.configure(settings, to_terminal=False):
        logging.getLogger("hypercorn.access").info("GET /?token=x")
    assert settings.log_file.read_text() == ""


def test_everything_is_put_back(settings: Settings) -> None:
    """After the block, and after one that raised, logging is as it was."""

    def picture() -> list[object]:
        loggers = [logging.getLogger(name) for name in (*log.TREES, log.SILENT)]
        parts = [(lo.handlers[:], lo.level, lo.propagate, lo.disabled) for lo in loggers]
        return [parts, logging.raiseExceptions]

    before = picture()
    with log.configure(settings, to_terminal=True):
        assert picture() != before
    assert picture() == before
    with pytest.raises(ZeroDivisionError), log.configure(settings, to_terminal=True):
        _ = 1 // 0
    assert picture() == before
