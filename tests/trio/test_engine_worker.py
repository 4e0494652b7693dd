"""The worker process, looked at from inside and from its command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from vidra_trio.core.report import Line, Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine import ytdlp
from vidra_trio.engine.control import Control, Interrupted
from vidra_trio.engine.pipe import (
    Ended,
    Produced,
    Start,
    Stop,
    dump_line,
    parse_message,
    parse_order,
)
from vidra_trio.engine.pool import COMMAND, environment
from vidra_trio.engine.worker import Worker

if TYPE_CHECKING:
    from vidra_trio.engine.reporting import Emit

ORDER = Start(3, "http://x", "/w", "/d", "%(id)s", "/c", {"format": "best"})


def test_a_message_survives_the_pipe() -> None:
    """One line each; what is decoded is what was sent."""
    for message in (Line(Level.ERROR, "a\nb ✓"), Ended(Produced("a.mp4")), Ended(Stopped(), False)):
        line = dump_line(message)
        assert line.count(b"\n") == 1
        assert parse_message(line) == message
    for order in (ORDER, Stop(3)):
        assert parse_order(dump_line(order)) == order
    with pytest.raises(msgspec.MsgspecError):
        parse_order(b'{"type":"dance"}')


def test_a_control_says_no_from_then_on() -> None:
    """Asked once or twice, every later check ends the run."""
    control = Control()
    control.check()
    for _ in range(2):
        control.stop()
    assert control.asked
    with pytest.raises(Interrupted):
        control.check()


def test_an_exception_for_nobody_is_not_swallowed_by_extractors() -> None:
    """`except Exception` in an extractor must not turn a stop into a broken file."""
    assert not issubclass(Interrupted, Exception)


def test_a_worker_runs_one_order_and_stops_only_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop for another run is late, and nothing."""
    running, stopped = threading.Event(), threading.Event()

    def run_item(order: Start, emit: Emit, control: Control) -> Ended:
        emit(Line(Level.INFO, order.url))
        running.set()
        stopped.wait(10)
        return Ended(Stopped() if control.asked else Produced(), reusable=False)

    monkeypatch.setattr(ytdlp, "run_item", run_item)
    messages = io.BytesIO()
    worker = Worker(io.BytesIO(), messages)
    worker.accept(dump_line(Stop(3)))  # nothing runs yet
    thread = threading.Thread(target=worker.serve_one, args=(ORDER,))
    thread.start()
    assert running.wait(10)
    worker.accept(dump_line(Stop(2)))
    worker.accept(dump_line(Stop(3)))
    stopped.set()
    thread.join(10)
    told = [parse_message(line) for line in messages.getvalue().splitlines()]
    assert told == [Line(Level.INFO, "http://x"), Ended(Stopped(), reusable=False)]


def test_the_worker_starts_light() -> None:
    """Nothing of the server is loaded in the process that runs yt-dlp."""
    code = "import sys, json, vidra_trio.engine.worker; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(answer.stdout))
    assert "yt_dlp" in loaded
    assert not loaded & {"trio", "quart", "quart_trio", "hypercorn", "httpx", "click", "rich"}


def test_no_setting_of_ours_reaches_a_worker() -> None:
    """The token least of all; yt-dlp looks for no plugins."""
    theirs = environment({"VIDRA_SERVER_TOKEN": "t" * 64, "VIDRA_X": "1", "HOME": "/h"})
    assert not any(key.startswith("VIDRA") for key in theirs)
    assert theirs["HOME"] == "/h"
    assert theirs["YTDLP_NO_PLUGINS"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("nonsense", [b"", b"this is no order\n"])
def test_a_worker_goes_with_its_server(nonsense: bytes) -> None:
    """The end of the pipe, or nonsense on it, ends the process with its group."""
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(os.environ),
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = json.loads(process.stdout.readline())
        assert hello == {"type": "hello", "pid": process.pid, "version": ytdlp.version()}
        process.stdin.write(nonsense)
        process.stdin.close()
        assert process.wait(10) == -9
