"""Whatever happens to a job, at whichever scheduling point of its task: a legal end.

An instrument counts the steps of the job's task and strikes at the n-th point, when the
task began to wait or when it was woken and has not run yet; for n from the first to the one
that the task no longer reaches. What is struck with acts before the task goes on, and, in a
second pass, after: where both could run, their order is nobody's promise.

The referee of `model.py` judges everything on the way. At the end nothing may be left, and
another server must be able to go on from what the store kept.
"""

from __future__ import annotations

import enum
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio._core._run as trio_run
from trio.testing import wait_all_tasks_blocked

from tests.cancel.model import SETTLED, Referee
from tests.cancel.witnesses import WitnessedServer, remembered
from vidra_trio.core.errors import JobNotFound, ShuttingDown
from vidra_trio.core.report import Failed, Finished, Identified, Line, Tick
from vidra_trio.core.states import Command, JobKind, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

    from tests.cancel.witnesses import Order
    from vidra_trio.engine.base import RunSpec

pytestmark = pytest.mark.slow

VIDEO = Identified(JobKind.VIDEO, {"title": "T"})
DONE = Finished(("/downloads/a",), "/downloads/a")
DEAD = Failed("network_error", "the line went dead", retryable=True)
NEVER = Failed("http_404", "gone")
SAYS = Line(Level.ERROR, "thumbnail lost")
SUCCESS: Final[tuple[Order, ...]] = (VIDEO, Tick("a", 1, 2), DONE)

REST: Final = 120.0
ENOUGH: Final = 300
"""No scene has so many checkpoints: an endless one fails instead of hanging."""


class Outside(enum.Enum):
    """What may happen besides commands."""

    STOP = "the server stops"
    CANCEL = "the scope around the server is cancelled"
    CALLER = "whoever waits for an answer goes away"


@dataclass(frozen=True)
class Scene:
    """What the engine says in one run after the other, and how slow everything is."""

    runs: tuple[tuple[Order | Outside, ...], ...]
    urls: int = 1
    retries: int = 0
    store: float = 0.0
    disk: float = 0.0
    engine: float = 0.0
    brittle: bool = False  # whatever ends a run, the engine breaks
    others: int = 0  # jobs that came before, and have the only slot
    before: Command | None = None  # the job failed in an earlier run; this starts the one watched

    @property
    def breaks(self) -> bool:
        """The engine has a defect."""
        return self.brittle or any(isinstance(one, Exception) for run in self.runs for one in run)


SCENES = {
    "success": Scene((SUCCESS,)),
    "failure": Scene(((NEVER,),)),
    "failure with parts": Scene(((VIDEO, DEAD),)),
    "defect": Scene(((VIDEO, RuntimeError("a defect")),)),
    "two urls": Scene((SUCCESS, SUCCESS), urls=2),
    "two urls, slow engine": Scene((SUCCESS, SUCCESS), urls=2, engine=2.0),
    "one bad url of two": Scene(((VIDEO, NEVER), SUCCESS), urls=2),
    "back-off": Scene(((DEAD,), (VIDEO, SAYS, DEAD), SUCCESS), retries=2),
    "back-off in vain": Scene(((VIDEO, DEAD), (DEAD,)), retries=1),
    "slow engine": Scene(((5.0, VIDEO, 5.0, DONE),), engine=2.0),
    "brittle engine": Scene((SUCCESS,), brittle=True),
    "stopping server": Scene(((VIDEO, Outside.STOP, 5.0, DONE),), 1, 0, 1.0, 0.7, 2.0),
    "slow store": Scene((SUCCESS,), store=1.0),
    "slow disk": Scene(((VIDEO, NEVER),), disk=1.0),
    "all slow": Scene(((VIDEO, 5.0, DEAD), (5.0, SAYS, NEVER)), 1, 1, 1.0, 0.7, 2.0),
    "no slot yet": Scene(((5.0, DONE), (5.0, DONE)), others=1),
    "resumed": Scene(((VIDEO, DEAD), (5.0, DONE)), before=Command.RESUME),
    "retried": Scene(((VIDEO, DEAD), (VIDEO, 5.0, DONE)), before=Command.RETRY),
    "retried, all slow": Scene(
        ((VIDEO, DEAD), (VIDEO, DONE)), 1, 0, 1.0, 0.7, 2.0, before=Command.RETRY
    ),
}

Strike = Command | Outside
C = Command

STRIKES: dict[str, tuple[Strike, ...]] = {
    "cancel": (C.CANCEL,),
    "pause": (C.PAUSE,),
    "resume, retry, delete": (C.RESUME, C.RETRY, C.DELETE),
    "cancel twice": (C.CANCEL, C.CANCEL),
    "pause, then cancel": (C.PAUSE, C.CANCEL),
    "cancel, then retry": (C.CANCEL, C.RETRY),
    "shutdown": (Outside.STOP,),
    "outside cancellation": (Outside.CANCEL,),
    "cancel, then shutdown": (C.CANCEL, Outside.STOP),
    "pause, then outside": (C.PAUSE, Outside.CANCEL),
    "shutdown, then cancel": (Outside.STOP, C.CANCEL),
    "caller gone": (Outside.CALLER,),
}
STRIKING: Final = "strike"
"""How the tasks are called that strike."""


class Striker(trio.abc.Instrument):
    """Counts the points at which the first task called like `name` can be struck.

    After each of its steps, and when what it waited for came and it has not run yet.
    Calls `look` at each, and `strike` at point `at`.
    """

    def __init__(
        self, name: str, at: int, *, strike: Callable[[], None], look: Callable[[], None]
    ) -> None:
        self.struck = False
        self._name = name
        self._left = at
        self._strike = strike
        self._look = look
        self._task: trio.lowlevel.Task | None = None

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Find the task; it has not run yet, which is its point 0."""
        if self._task is None and self._name in task.name:
            self._task = task
            self.after_task_step(task)

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Something wakes a task; or it gave way in a step of its own, which is one point."""
        if task is self._task and getattr(trio_run.GLOBAL_RUN_CONTEXT, "task", None) is not task:
            self.after_task_step(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Strike when it is time."""
        if task is self._task:
            self._look()
            self._left -= 1
            if self._left == -1:
                self.struck = True
                self._strike()


class FixedOrder:
    """Instead of Trio's random order: those who strike run before everybody else, or after."""

    def __init__(self, *, first: bool) -> None:
        self._first = first

    def shuffle(self, batch: list[trio.lowlevel.Task]) -> None:
        """Sort what is to run now; Trio takes from the end."""
        batch.sort(key=lambda task: (task.name.startswith(STRIKING) is not self._first, task.name))
        batch.reverse()


class Attempt:
    """One job's life, with a strike at point `at` of its task."""

    def __init__(self, scene: Scene, strikes: Sequence[Strike], at: int) -> None:
        self.scene = scene
        self.strikes = strikes
        self.referee = Referee(scene.retries)
        self.server = WitnessedServer(self.referee, script=self._script(scene))
        self.server.weather(scene.store, scene.disk, scene.engine)
        self.server.engine.brittle = scene.brittle
        name = "_run_new" if scene.before is None else "<Job"
        self.striker = Striker(name, at, strike=self._strike, look=self.server.look)
        self.stopped = False  # the server was, by a strike
        self._now = trio.Event()
        self._outside = trio.CancelScope()
        self._caller = trio.CancelScope()

    def _script(self, scene: Scene) -> Callable[[RunSpec], Sequence[Order]]:
        """Return what gives each run its orders; after the last one all goes well."""

        def order(one: Order | Outside) -> Order:
            return partial(self._act, one) if isinstance(one, Outside) else one

        runs = iter(scene.runs)
        return lambda _: [order(one) for one in next(runs, SUCCESS)]

    async def play(self) -> None:
        """Live through it, with all checks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            await wait_all_tasks_blocked()
            idle = task_names()
            for number, strike in enumerate(self.strikes):
                nursery.start_soon(self._take_part, strike, name=f"{STRIKING} {number}")
            await wait_all_tasks_blocked()
            for _ in range(self.scene.others):
                await self.server.create(1)
            trio.lowlevel.add_instrument(self.striker)
            with self._caller:
                await self._begin()
            await trio.sleep(REST)
            trio.lowlevel.remove_instrument(self.striker)
            self._now.set()
            await trio.sleep(REST)
            self._check(idle)
            self.stopped = not self.server.open
            await self._check_idle()
            self.server.stop()

    async def _serve(self) -> None:
        with self._outside:
            await self.server.live(slots=1, retries=self.scene.retries)

    async def _begin(self) -> None:
        await self.server.create(self.scene.urls)
        if self.scene.before is not None:
            (job,) = self.server.supervisor.jobs()
            await self.server.supervisor.wait_settled(job.job_id)
            await self.server.command(job.job_id, self.scene.before)

    def _strike(self) -> None:
        """Do at once what a synchronous call does; the rest is for tasks."""
        if isinstance(self.strikes[0], Outside):
            self._act(self.strikes[0])
        self._now.set()

    async def _take_part(self, strike: Strike) -> None:
        await self._now.wait()
        if self.striker.struck and isinstance(strike, Command):
            for job_id in [one for one, life in self.referee.lives.items() if life.status]:
                await self.server.command(job_id, strike)
        elif self.striker.struck and strike is not self.strikes[0]:
            self._act(strike)

    def _act(self, strike: Strike) -> None:
        match strike:
            case Outside.CALLER:
                self._caller.cancel()
            case Outside.STOP:
                self.server.stop()
            case _:
                self.server.journal.note("ends")
                self._outside.cancel()

    def _check(self, idle: set[str]) -> None:
        """Nothing is left, and everybody agrees."""
        assert task_names() <= idle
        self.server.check()
        if self.server.open:
            self.server.check_rest()
            lives = self.referee.lives
            assert all(life.status in SETTLED for life in lives.values()), lives
        else:
            self.server.check_end()

    async def _check_idle(self) -> None:
        """Nobody who waits for the job waits for ever."""
        for job in self.server.supervisor.jobs():
            with trio.fail_after(0), suppress(JobNotFound, ShuttingDown):
                await self.server.supervisor.wait_settled(job.job_id)

    async def go_on(self) -> None:
        """Let another server finish what there is."""
        kept = self.server.store.kept()
        self.referee.begins({one.snapshot.job_id: remembered(one.snapshot) for one in kept})
        after = WitnessedServer(self.referee, self.server, kept)
        after.engine.script = lambda _: SUCCESS
        async with trio.open_nursery() as nursery:
            nursery.start_soon(after.live, 1, 0)
            await wait_all_tasks_blocked()
            for job_id, life in list(self.referee.lives.items()):
                resumable = life.status in {"failed", "paused"}
                await after.command(job_id, Command.RESUME if resumable else Command.RETRY)
            await trio.sleep(REST)
            after.check_rest()
            assert {life.status for life in self.referee.lives.values()} <= {"completed"}
            after.stop()


def task_names() -> set[str]:
    """Return the names of all tasks."""
    names, ahead = set(), [trio.lowlevel.current_root_task()]
    while ahead:
        task = ahead.pop()
        assert task is not None
        names.add(task.name)
        ahead += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return names


@pytest.mark.parametrize("strikes", STRIKES.values(), ids=STRIKES)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
async def test_a_strike_at_every_checkpoint(
    scene: Scene,
    strikes: tuple[Strike, ...],
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The job has one legal end, told once, stored, and nothing of it is left."""
    # To spell the tracebacks of thousands of defects would take as long as all the rest.
    caplog.set_level(logging.CRITICAL if scene.breaks else logging.ERROR, "vidra_trio")
    monkeypatch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    # What an instrument does has one order; what a task does may be the second to run.
    for first in (True, False) if strikes in ((C.CANCEL,), (C.PAUSE,)) else (True,):
        monkeypatch.setattr(trio_run, "_r", FixedOrder(first=first))
        for at in range(ENOUGH):
            attempt = Attempt(scene, strikes, at)
            try:
                await attempt.play()
                if attempt.stopped:
                    await attempt.go_on()
            except BaseException as error:
                error.add_note(f"struck at point {at}, {'before' if first else 'after'} others")
                raise
            if not attempt.striker.struck:
                break
        assert 5 < at < ENOUGH - 1
    assert not caplog.records, "a defect nobody asked for"
