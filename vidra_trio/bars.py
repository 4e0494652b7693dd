"""How downloads look while they run: live bars on a terminal, plain lines elsewhere.

1. Everything goes to stderr; stdout is for the finished files.
2. Titles, file names and errors come from web sites: control characters are
   taken out and no markup is read from them.
3. Per job one bar with the whole, and below it one per file (a video and an
   audio stream are two files until they are merged).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from vidra_trio.core.progress import IDENTIFYING, PROGRESSING
from vidra_trio.core.redact import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from vidra_trio.client import Message, RemoteJob, RemoteProgress

LINE_STEP: Final = 25
"""Percent between two plain lines: enough to see life in a log, few enough to read."""

NOTE_WIDTH: Final = 44
"""Columns for the words beside a bar: a fixed number, or the bars jump with every digit."""

_ONE_OF_SEVERAL: Final = re.compile(r"\.f[^.]+\.[^.]+$")
"""yt-dlp's name for a stream that is to be merged (`title.f137.mp4`): its total is the item's."""


def open_console(*, stderr: bool) -> Console:
    """Return a console that shows text as it is: no markup, no colours of its own, no emoji."""
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def say(console: Console, line: str) -> None:
    """Print one line, however long; what a terminal would obey is taken out."""
    console.print(one_line(line), soft_wrap=True)


class Board(Protocol):
    """What shows a set of jobs."""

    def begin(self, job_id: str, name: str) -> None:
        """Call a job `name` until its title is known."""

    def take(self, message: Message) -> None:
        """Show what a job's socket said."""


@dataclass(slots=True)
class FileBar:
    """One file of an item: bytes so far, and the size when it is known."""

    name: str
    done: int = 0
    total: int | None = None
    finished: bool = False


class Files:
    """The files of one job, told apart again from the item's sums."""

    def __init__(self) -> None:
        self.rows: dict[str, FileBar] = {}

    def apply(self, progress: RemoteProgress) -> None:
        """Take one `progress` in; what describes no transfer finishes the rows."""
        if progress.stage != PROGRESSING or progress.filename is None:
            self._finish(self.rows.values())
            return
        before = [row for name, row in self.rows.items() if name != progress.filename]
        offset = sum(row.done for row in before)
        row = self.rows.setdefault(progress.filename, FileBar(PurePath(progress.filename).name))
        self._finish(before)
        row.done = max(row.done, (progress.downloaded_bytes or 0) - offset)
        if progress.total_bytes is not None and not _ONE_OF_SEVERAL.search(progress.filename):
            row.total = max(row.done, progress.total_bytes - offset)
        row.finished = progress.status == "finished"

    def _finish(self, rows: Iterable[FileBar]) -> None:
        for row in rows:
            row.finished = True


@contextmanager
def open_board(console: Console) -> Iterator[Board]:
    """Show jobs on `console` for the length of the block, in the way that it can."""
    if not console.is_terminal:
        yield PlainBoard(console)
        return
    with _Bars(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis"),
        ),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn(
            "{task.fields[note]}", markup=False, table_column=Column(width=NOTE_WIDTH, no_wrap=True)
        ),
        console=console,
        expand=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bars:
        yield LiveBoard(bars)


class _Bars(Progress):
    """A table of bars in which each job has its files right below it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the table in the order of the tasks' places."""
        yield self.make_tasks_table(sorted(self.tasks, key=lambda task: task.fields["place"]))


class LiveBoard:
    """Bars that move."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._jobs: dict[str, _JobBars] = {}

    def begin(self, job_id: str, name: str) -> None:
        """Add a bar that waits."""
        self._jobs[job_id] = _JobBars(self._bars, name, len(self._jobs))

    def take(self, message: Message) -> None:
        """Redraw the job that the message is about."""
        job_id = str(message.payload.get("job_id"))
        if job_id not in self._jobs:
            self.begin(job_id, job_id)
        shown = self._jobs[job_id]
        if message.job is not None:
            shown.show_job(message.job)
        if message.progress is not None:
            shown.show_progress(message.progress)


class _JobBars:
    """The bars of one job."""

    def __init__(self, bars: Progress, name: str, place: int) -> None:
        self._bars = bars
        self._place = place
        self._whole = bars.add_task(one_line(name), total=None, note="", place=(place, 0))
        self._rows: dict[str, TaskID] = {}
        self._files = Files()

    def show_job(self, job: RemoteJob) -> None:
        if job.title:
            self._bars.update(self._whole, description=one_line(job.title))
        if job.ended or job.status == "queued":
            self._bars.update(self._whole, note=job.status)
        if job.ended:
            if job.main_file:  # it is there: whatever the last sample said
                self._bars.update(self._whole, total=100, completed=100)
            self._bars.stop_task(self._whole)
            for row in self._rows.values():
                self._bars.update(row, visible=False)

    def show_progress(self, progress: RemoteProgress) -> None:
        self._bars.update(
            self._whole,
            total=None if progress.percent is None else 100,
            completed=progress.percent or 0,
            note=describe(progress),
        )
        self._files.apply(progress)
        for name, row in self._files.rows.items():
            if name not in self._rows:
                place = (self._place, 1 + len(self._rows))
                words = f"  {one_line(row.name)}"
                self._rows[name] = self._bars.add_task(words, note="", place=place)
            self._bars.update(
                self._rows[name],
                total=row.done if row.finished else row.total,
                completed=row.done,
                note=decimal(row.done),
            )


class PlainBoard:
    """Lines, for files, pipes and logs: what a job became, and every quarter of the way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def begin(self, job_id: str, name: str) -> None:
        """Remember the name."""
        self._names[job_id] = name

    def take(self, message: Message) -> None:
        """Print a line if there is something new to say."""
        job_id = str(message.payload.get("job_id"))
        if (job := message.job) is not None:
            if job.title:
                self._names[job_id] = job.title
            if self._said.get(job_id) != job.status:
                self._said[job_id] = job.status
                self._line(job_id, job.status)
        if (progress := message.progress) is not None and progress.stage == PROGRESSING:
            step = int((progress.percent or 0) // LINE_STEP)
            if step > self._steps.get(job_id, 0):
                self._steps[job_id] = step
                self._line(job_id, describe(progress))

    def _line(self, job_id: str, words: str) -> None:
        say(self._console, f"{self._names.get(job_id, job_id)}: {words}")


def describe(progress: RemoteProgress) -> str:
    """Put a job's progress into a few words: `42 %  12.3 MB of 29.0 MB  2.1 MB/s  0:08`."""
    if progress.stage == IDENTIFYING:
        return "identifying"
    if progress.stage != PROGRESSING:
        return one_line(progress.stage_name or progress.stage or progress.status or "")
    words = [] if progress.percent is None else [f"{progress.percent:3.0f} %"]
    if progress.downloaded_bytes is not None:
        of = "" if progress.total_bytes is None else f" of {decimal(progress.total_bytes)}"
        words.append(decimal(progress.downloaded_bytes) + of)
    if progress.speed:
        words.append(f"{decimal(round(progress.speed))}/s")
    if progress.eta is not None and progress.eta > 0:
        minutes, seconds = divmod(round(progress.eta), 60)
        words.append(f"{minutes}:{seconds:02d}")
    return "  ".join(words)
