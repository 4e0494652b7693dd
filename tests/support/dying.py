"""Runs an item and dies just before its n-th file operation: `python -m tests.support.dying`.

A line of JSON in (an `Attempt`), a line of JSON out (its `Outcome`). Each attempt is
made in a fork of this process, which is killed with everything it started: so yt-dlp
is loaded once. It does what an engine and its server do around a run, in one process.

File operations are met with `sys.setprofile`, which is told of every call into C.
Buffers die with the process, as they do when the kernel kills it. A write can also be
*torn*: half of its bytes arrive, then the process dies.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import stat
import sys
import threading
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidra_trio.engine import janitor, workdir, ytdlp
from vidra_trio.engine.control import Control
from vidra_trio.engine.pipe import Produced, Start

if TYPE_CHECKING:
    from types import FrameType

OWNER = "me"

MODULES = frozenset(("builtins", "io", "_io", "posix", "_posixsubprocess"))

CALLS = frozenset((
    "open", "rename", "replace", "unlink", "remove", "truncate", "ftruncate", "mkdir", "rmdir",
    "utime", "link", "symlink", "copy_file_range", "sendfile", "fork_exec", "waitpid",
))  # fmt: skip
"""Their functions that change files, or that start and await who writes files."""

METHODS = frozenset(("write", "writelines", "flush", "close", "truncate", "__exit__"))
"""Methods of open files that do."""

WRITES = frozenset(("write", "writelines"))


@dataclass
class Attempt:
    """One run of an item, and when it dies."""

    url: str
    root: str
    params: dict[str, Any] = field(default_factory=dict)
    die_at: int = 0
    """Before which operation, counted from 1; 0 is never."""

    torn: bool = False
    """If that is a write: die in the middle of it instead. If not, live on."""

    apart: bool = False
    """In a place with a name of its own, as a thread works."""

    ffmpeg: str | None = None


@dataclass
class Outcome:
    """How it went."""

    died: bool
    error: str = ""
    operations: list[str] = field(default_factory=list)
    """Of a run that lived: each one's name and who called it. Of another: the last one's."""

    files: list[str] = field(default_factory=list)


class Death:
    """Counts file operations, and ends the process at one of them."""

    def __init__(self, attempt: Attempt, results: int) -> None:
        self._attempt = attempt
        self._results = results
        self._counter = itertools.count(1)
        self._sizes: dict[int, int] = {}  # thread -> its file's size before the write
        self.met: list[str] = []

    @contextlib.contextmanager
    def watching(self) -> Any:  # noqa: ANN401
        """Watch this thread and those that it starts."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)

    def __call__(self, frame: FrameType, event: str, call: Any) -> None:  # noqa: ANN401
        """Hear of an event; see `sys.setprofile`."""
        if event == "c_call" and _is_operation(call):
            self._before(frame, call)
        elif event in ("c_return", "c_exception"):
            size = self._sizes.pop(threading.get_ident(), None)
            if size is not None:
                self._tear(frame, call, size)

    def _before(self, frame: FrameType, call: Any) -> None:  # noqa: ANN401
        number = next(self._counter)
        self.met.append(_told(frame, call))
        if number != self._attempt.die_at:
            return
        if not self._attempt.torn:
            self._die(frame, call)
        if call.__name__ in WRITES:
            call.__self__.flush()
            self._sizes[threading.get_ident()] = os.fstat(call.__self__.fileno()).st_size

    def _tear(self, frame: FrameType, call: Any, before: int) -> None:  # noqa: ANN401
        call.__self__.flush()
        file = call.__self__.fileno()
        written = os.fstat(file).st_size - before
        os.ftruncate(file, before + max(0, written) // 2)
        self._die(frame, call)

    def _die(self, frame: FrameType, call: Any) -> None:  # noqa: ANN401
        _say(self._results, Outcome(True, operations=[_told(frame, call)]))
        os.killpg(0, signal.SIGKILL)


def _told(frame: FrameType | None, call: Any) -> str:  # noqa: ANN401
    """Return what is done, and who of ours or of yt-dlp does it."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if {"vidra_trio", "yt_dlp"} & set(file.parts):
            return f"{call.__name__} in {file.parent.name}/{file.name}:{frame.f_code.co_name}"
        frame = frame.f_back
    return call.__name__  # type: ignore[no-any-return]


def _is_operation(call: Any) -> bool:  # noqa: ANN401
    name = call.__name__
    if getattr(call.__self__, "__name__", "") in MODULES:
        return name in CALLS
    if name not in METHODS:
        return False
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return stat.S_ISREG(os.fstat(call.__self__.fileno()).st_mode)
    return False


def attempt_in_fork(attempt: Attempt) -> Outcome:
    """Make one attempt in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        _attempt_and_tell(attempt, writer)
    os.close(writer)
    with open(reader, "rb") as results:  # noqa: PTH123 - a descriptor
        said = results.read()
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Outcome(**json.loads(said))


def _attempt_and_tell(attempt: Attempt, results: int) -> None:
    death = Death(attempt, results)
    outcome = Outcome(False, error="it ended")
    try:
        with death.watching():
            outcome = _attempt(attempt)
        outcome.operations = death.met
    except BaseException:  # noqa: BLE001 - a fork: it must not go back into the parent's loop
        outcome.error = traceback.format_exc()
    finally:
        _say(results, outcome)
        os._exit(0)


def _say(results: int, outcome: Outcome) -> None:
    os.write(results, json.dumps(asdict(outcome)).encode())


def _attempt(attempt: Attempt) -> Outcome:
    """Do what a server does at its start, then an engine, and what follows a job's end."""
    root = Path(attempt.root)
    downloads, folder = root / "downloads", root / "downloads" / ".vidra-j"
    janitor.sweep((downloads,), {"j"}, OWNER)
    files = _run(attempt, folder / "0", downloads, root)
    if isinstance(files, str):
        return Outcome(False, error=files)
    workdir.remove(folder)
    return Outcome(False, files=[Path(file).name for file in files])


def _run(attempt: Attempt, work: Path, downloads: Path, root: Path) -> tuple[str, ...] | str:
    done = workdir.complete(work, downloads, (), overwrite=True, check=_go_on)
    if done is not None:
        return done.files
    place = workdir.prepare(work, downloads, (), owner=OWNER, apart=attempt.apart)
    order = Start(
        run=1,
        url=attempt.url,
        work=str(place),
        destination=str(downloads),
        template="%(title)s.%(ext)s",
        cache=str(root / "cache"),
        params={"retries": 1, "fragment_retries": 1, **attempt.params},
        overwrite=True,
        ffmpeg=attempt.ffmpeg,
    )
    end = ytdlp.run_item(order, lambda _: None, Control()).end
    if not isinstance(end, Produced) or end.main is None:
        return repr(end)
    return workdir.publish(place, downloads, (), main=end.main, overwrite=True, check=_go_on)


def _go_on() -> None:
    pass


def main() -> None:
    """Answer attempts until the input ends."""
    with ytdlp.installed(own_groups=False):
        ytdlp.prewarm()
        for line in sys.stdin:
            outcome = attempt_in_fork(Attempt(**json.loads(line)))
            sys.stdout.write(f"{json.dumps(asdict(outcome))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
