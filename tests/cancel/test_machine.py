"""Jobs, commands, engines, disks and servers in any order, judged by the contract's rules.

Hypothesis decides what happens next; one Trio run lives through it; the referee of
`model.py` judges every single thing that is told, stored and answered. After each step all
that needs no time has happened; only a step of its own lets time pass.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import hypothesis.strategies as st
import pytest
import trio._core._run as trio_run
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cancel.model import Referee
from tests.cancel.witnesses import WitnessedServer, remembered
from tests.support.hosted import HostedTrio
from vidra_trio.core.report import Failed, Finished, Identified, Line, Tick
from vidra_trio.core.states import Command, JobKind, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.fakes import Stored

What = tuple[str, int, object]

COMMANDS = [Command.CANCEL, Command.PAUSE, Command.RESUME, Command.RETRY, Command.DELETE]
REPORTS = {
    "identify": (Identified(JobKind.VIDEO, {"title": "T"}),),
    "tick": (Identified(JobKind.VIDEO, {"title": "T"}), Tick("a", 1, 2)),
    "complain": (Line(Level.ERROR, "thumbnail lost"),),
    "finish": (Finished(("/downloads/a",), "/downloads/a"),),
    "break": (Failed("network_error", "the line went dead", retryable=True),),
    "die": (Failed("engine_died", "signal 9", retryable=True),),
    "fail": (Failed("http_404", "gone"),),
    "crash": (RuntimeError("a defect"),),
}
LIKELY = ["identify"] * 5 + ["tick", "complain", "break", "break", "finish", "finish"]
# Those at work come first, the newest next, the ones that are gone last.
JOB = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 5])
COMMAND = st.tuples(st.just("command"), JOB, st.sampled_from(COMMANDS))
REPORT = st.tuples(st.just("report"), JOB, st.sampled_from([*LIKELY, *REPORTS]))
CREATE = st.tuples(st.just("create"), st.integers(1, 2), st.booleans())
REST = 60.0
DELAY = st.sampled_from([0.0, 0.0, 1.0])


class Machine(RuleBasedStateMachine):
    """What can happen. Every rule ends when all has happened that needs no time."""

    def __init__(self) -> None:
        super().__init__()
        self.host = HostedTrio()
        self.house: WitnessedServer
        self.ids: list[str] = []  # of every job ever told of, oldest first; some are gone
        self.slow = False  # something may still be under way that time would end
        self.age = 0  # steps of this server's life

    @initialize(
        slots=st.integers(1, 2),
        retries=st.sampled_from([0, 0, 2]),
        seed=st.integers(0, 2**16),
    )
    def begin(self, slots: int, retries: int, seed: int) -> None:
        """Start the first server; `seed` is the order in which Trio runs what can run."""
        trio_run._r.seed(seed)
        self.slots, self.retries = slots, retries
        self.referee = Referee(retries)
        self.start(None, ())

    # -- what clients and engines do

    @rule(what=CREATE)
    def create(self, what: What) -> None:
        """A client creates a job."""
        self.do(what)

    @rule(what=COMMAND)
    def command(self, what: What) -> None:
        """A client gives a command."""
        self.do(what)

    @rule(what=REPORT)
    def report(self, what: What) -> None:
        """An engine says something, or breaks."""
        self.do(what)

    @rule(what=REPORT)
    def report_more(self, what: What) -> None:
        """The same: as likely as all commands together."""
        self.do(what)

    @rule(many=st.lists(st.one_of(COMMAND, COMMAND, REPORT, CREATE), min_size=2, max_size=5))
    def many_at_once(self, many: list[What]) -> None:
        """Several of these happen before anybody gets an answer."""
        self.do(*many)

    @rule(command=st.sampled_from(COMMANDS))
    def everywhere(self, command: Command) -> None:
        """One command for all jobs, as a bulk cancel gives it."""
        everybody = range(len(self.referee.lives))
        self.do(*(("command", number, command) for number in everybody))

    # -- what is slow, and what fails

    @rule(store=DELAY, disk=DELAY, engine=DELAY)
    def weather(self, store: float, disk: float, engine: float) -> None:
        """From now on writing, tidying up and stopping take their time."""
        self.house.weather(store, disk, engine)
        self.slow = self.slow or any(self.house.delays)

    @rule(full=st.sampled_from([False, False, True]))
    def disk(self, full: bool) -> None:
        """Nothing can be stored any more; or what could not be, is."""
        if full:
            self.house.store.broken = True
        else:
            self.house.store.mend()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, REST]))
    def wait(self, seconds: float) -> None:
        """Some time passes; after a long one nothing is left to wait for but engines."""
        self.host.pass_time(seconds)
        if seconds == REST:
            self.house.check_rest()
            self.slow = any(self.house.delays)

    # -- servers

    @precondition(lambda self: self.age > 8)
    @rule(last=st.lists(st.one_of(COMMAND, REPORT, CREATE), max_size=3))
    def restart(self, last: list[What]) -> None:
        """The server stops while clients and engines go on; another one starts."""
        self.house.stop()
        self.do(*last)
        self.finish(self.house)
        self.start(self.house, self.house.store.kept())

    @precondition(lambda self: self.age > 8)
    @rule()
    def kill(self) -> None:
        """The server is gone from one moment to the next; another one starts."""
        killed = self.house
        killed.journal.blind = True
        self.referee.dies()
        self.start(killed, killed.store.kept())
        killed.stop()
        self.finish(killed)

    # -- how

    def start(self, before: WitnessedServer | None, kept: Sequence[Stored]) -> None:
        """Start a server with what the store kept."""
        self.referee.begins({one.snapshot.job_id: remembered(one.snapshot) for one in kept})
        self.house = WitnessedServer(self.referee, before, kept)
        self.host.nursery.start_soon(self.house.live, self.slots, self.retries)
        self.host.settle()
        self.slow, self.age = any(self.house.delays), 0

    def finish(self, house: WitnessedServer) -> None:
        """Let a server that was told to stop do so."""
        self.host.pass_time(REST)
        house.check_end()

    def do(self, *everything: What) -> None:
        """Let all of it happen at once, then everything that comes of it without time."""
        for what in everything:
            match what:
                case ("create", int(urls), bool(impatient)):
                    patience = 0.5 if impatient else 1000.0
                    create = partial(self.house.create, urls, patience=patience)
                    self.host.nursery.start_soon(create)
                case ("command", int(number), Command() as command):
                    # Every other job belongs to somebody who does not like to wait.
                    patience = 0.5 if number % 2 else 1000.0
                    for job_id in (*self.targets(), "nobody")[number:][:1]:
                        give = partial(self.house.command, job_id, command, patience=patience)
                        self.host.nursery.start_soon(give)
                case ("report", int(number), str(word)):
                    puppets = self.house.engine.open_puppets()
                    for puppet in puppets[number % len(puppets) :][:1] if puppets else ():
                        puppet.say(*REPORTS[word])
        self.host.settle()

    def targets(self) -> list[str]:
        """Return every job that a client may name, in the order of `JOB`."""
        at_work = [puppet.spec.job_id for puppet in self.house.engine.open_puppets()]
        there = [job_id for job_id in reversed(self.ids) if job_id in self.referee.lives]
        return list(dict.fromkeys([*at_work, *there, *reversed(self.ids)]))

    @invariant()
    def check(self) -> None:
        """Nothing was said or done that is against the rules, and the counts are right."""
        if not hasattr(self, "house"):
            return
        self.house.check()
        self.age += 1
        told = (job_id for job_id, life in self.referee.lives.items() if life.status)
        self.ids += [job_id for job_id in told if job_id not in self.ids]
        if not self.slow:
            self.house.check_rest()

    def teardown(self) -> None:
        """Stop the server, and see that nothing of it is left."""
        try:
            if hasattr(self, "house"):
                self.check()
                self.house.stop()
                self.finish(self.house)
                assert not self.host.nursery.child_tasks
        finally:
            self.host.close()


def play(games: int, steps: int, *, anew: bool = False) -> None:
    """Play so many games of so many steps: the same ones every time, or `anew`."""
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=games,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not anew,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_whatever_happens_in_whatever_order(caplog: pytest.LogCaptureFixture) -> None:
    """Every job keeps to the contract, whoever asks, breaks, fills up or restarts what."""
    caplog.set_level(logging.CRITICAL, "vidra_trio")
    play(games=200, steps=40)


@pytest.mark.soak
def test_whatever_happens_for_a_long_time(caplog: pytest.LogCaptureFixture) -> None:
    """The same, for minutes."""
    caplog.set_level(logging.CRITICAL, "vidra_trio")
    play(games=5_000, steps=60, anew=True)
