"""The life of a job as the contract tells it, and a referee who holds a journal against it.

Written from the contract's words alone: nothing of the lifecycle under test is imported,
and every word here is one that a client may read.

The journal is the order in which things really happened: what was asked and answered, what
was told, what the engine reported, what reached the store, what went from the disk. Each
entry is judged when it comes, whatever runs beside it; at rest the referee also knows what
must have happened by now.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SAME: Final = "same"  # 200, and nothing happens
NO: Final = "409"
GONE: Final = "deleted"
UNKNOWN: Final = "404"
CLOSING: Final = "503"
UNSTORED: Final = "507"

# What a command comes to, by the job's status.
COMMANDS: Final = {
    "queued": {
        "cancel": "cancelling", "pause": SAME, "resume": NO, "retry": SAME, "delete": NO,
    },
    "starting": {
        "cancel": "cancelling", "pause": "pausing", "resume": NO, "retry": NO, "delete": NO,
    },
    "running": {
        "cancel": "cancelling", "pause": "pausing", "resume": NO, "retry": SAME, "delete": NO,
    },
    "pausing": {
        "cancel": "cancelling", "pause": SAME, "resume": NO, "retry": NO, "delete": NO,
    },
    "paused": {
        "cancel": "cancelled", "pause": SAME, "resume": "queued", "retry": "queued", "delete": NO,
    },
    "cancelling": {
        "cancel": "cancelling", "pause": SAME, "resume": NO, "retry": NO, "delete": NO,
    },
    "cancelled": {
        "cancel": SAME, "pause": NO, "resume": NO, "retry": "queued", "delete": GONE,
    },
    "failed": {
        "cancel": "cancelled", "pause": NO, "resume": "queued", "retry": "queued", "delete": GONE,
    },
    "completed": {
        "cancel": SAME, "pause": NO, "resume": NO, "retry": "queued", "delete": GONE,
    },
    "completed_with_errors": {
        "cancel": SAME, "pause": SAME, "resume": NO, "retry": "queued", "delete": GONE,
    },
}  # fmt: skip

TERMINAL: Final = frozenset(s for s, row in COMMANDS.items() if row["delete"] == GONE)
SETTLED: Final = TERMINAL | {"paused"}
COMPLETE: Final = frozenset({"completed", "completed_with_errors"})

CAUSED_BY: Final = {
    "pausing": "pause", "cancelling": "cancel", "resumed": "resume", "retry": "retry",
    "deleted": "delete",
}  # fmt: skip
"""Reasons that only a command brings about."""

RESTORED: Final = {
    "queued": "failed", "starting": "failed", "running": "failed",
    "pausing": "paused", "cancelling": "cancelled",
}  # fmt: skip
"""What a stored status becomes at the next start; the others stay what they are."""

PASSING: Final = "passing"  # a failure that is tried again when tries are left
MENDABLE: Final = "mendable"  # one that is not, but that a resume may mend
FINAL: Final = "final"


@dataclass(frozen=True)
class Remembered:
    """What the store kept of a job."""

    status: str
    urls: int
    finished: frozenset[int]
    known: bool
    made: bool


@dataclass(eq=False)
class Asked:
    """A command that somebody waits for."""

    job_id: str
    command: str
    seen: set[str]  # every status that the job has had since


@dataclass(eq=False)
class Effect:
    """What a command did, and nobody has been answered yet."""

    job_id: str
    command: str
    status: str
    stored: bool = False  # it has reached the store


@dataclass
class Life:
    """What the referee knows of one job."""

    urls: int
    status: str = ""
    finished: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)  # for good, in this run
    tries: Counter[int] = field(default_factory=Counter)
    errors: bool = False  # an error line in this run
    errors_before: bool = False  # ... before the try that is under way
    known: bool = False  # the site said what it is
    made: bool = False  # ... or a file was made: from then on a cancel leaves the job listed
    leaving: bool = False  # cancelled with nothing found: it goes by itself
    decided: str = ""  # every URL is finished: the end, whatever is asked from now on
    broke: bool = False
    opened: int | None = None  # the URL whose run is open
    last: str = ""  # its terminal report
    stopping: bool = False  # it was asked to stop
    resting: bool = False
    parts: bool = False
    directory: bool = False
    afresh: bool = False  # the next run starts from nothing
    keeps: bool = False  # the next run continues in the directory that is there
    parked: bool = False  # waits for a slot again, because the server stops
    returning: bool = False  # restored, and not told yet
    stored: str | None = None  # the newest status that reached the store
    unstored: bool = False  # a write failed since

    def begin(self) -> None:
        """A run of the job is under way."""
        self.failed, self.tries = set(), Counter()
        self.errors = self.broke = self.resting = False
        self.decided = self.last = ""

    @property
    def over(self) -> bool:
        """Nothing is left to run."""
        return self.finished | self.failed == set(range(self.urls))


class Referee:
    """Judges one journal. A false entry is an AssertionError that says what was wrong."""

    def __init__(self, retries: int = 0) -> None:
        self.retries = retries
        self.lives: dict[str, Life] = {}
        self.gone: set[str] = set()
        self.asked: list[Asked] = []
        self.effects: list[Effect] = []
        self.ending = False
        self.unremoved: set[str] = set()  # removals that failed

    # -- commands

    def ask(self, job_id: str, command: str) -> Asked:
        """A command is given."""
        life = self.lives.get(job_id)
        asked = Asked(job_id, command, {life.status if life else UNKNOWN})
        self.asked.append(asked)
        return asked

    def created(self, job_id: str) -> None:
        """A client was told that it has a job: whatever happens now, it is stored."""
        assert job_id in self.gone or self.lives[job_id].stored is not None, job_id

    def answer(self, asked: Asked, word: str, refused: str = "") -> None:
        """The command is answered with `word`: a status, or one of the refusals above.

        `refused` is the status that a refusal names.
        """
        self.asked.remove(asked)
        if self.ending:
            asked.seen.add("queued")  # a stopped job waits again before that is stored and told
        said = f"{asked.command} while {sorted(asked.seen)} was answered {word}"
        if word == UNKNOWN:
            assert UNKNOWN in asked.seen, said
        elif word == CLOSING:
            assert self.ending, said
            assert any(COMMANDS[s][asked.command] == "queued" for s in asked.seen), said
        elif word == NO:
            assert refused in asked.seen, said
            assert COMMANDS[refused][asked.command] == NO, said
        elif effect := self._effect(asked, word):
            self.effects.remove(effect)
        elif word != UNSTORED:  # which may hit what did nothing, too
            assert word in asked.seen, f"{said}, and is not stored"
            assert COMMANDS[word][asked.command] == SAME, f"{said}, and is not stored"
        self._no_more_effects(asked.job_id, asked.command)

    def unheard(self, asked: Asked) -> None:
        """Whoever gave the command went away before it acted; later, it is heard to its end."""
        self.asked.remove(asked)
        self._no_more_effects(asked.job_id, asked.command)

    def _acts(self, job_id: str, command: str, status: str) -> None:
        """A command took effect; somebody must have given it, and will be told so."""
        self.effects.append(Effect(job_id, command, status))
        self._no_more_effects(job_id, command)

    def _effect(self, asked: Asked, word: str) -> Effect | None:
        """Return what the command did, for somebody who was answered `word`."""
        for effect in self.effects:
            if (effect.job_id, effect.command) == (asked.job_id, asked.command):
                durable = effect.stored and effect.status == word
                if durable or (word == UNSTORED and not effect.stored):
                    return effect
        return None

    def _no_more_effects(self, job_id: str, command: str) -> None:
        """Nothing is done that nobody asked for, and nobody is told less than was done."""
        effects = [one for one in self.effects if (one.job_id, one.command) == (job_id, command)]
        asked = [one for one in self.asked if (one.job_id, one.command) == (job_id, command)]
        assert len(effects) <= len(asked), f"{effects}, asked: {asked}"

    # -- what is told

    def told(self, job_id: str, status: str, reason: str) -> None:
        """An update was published."""
        assert job_id not in self.gone, f"{status}/{reason} of a job that is gone"
        life = self.lives[job_id]
        was = life.status
        said = f"{was} -> {status}/{reason}: {life}"
        match reason:
            case "created":
                assert (was, status) == ("", "queued"), said
                assert life.stored == "queued", f"not stored: {said}"
            case "started":
                assert (was, status) == ("queued", "starting"), said
            case "preview_ready":
                assert was == status, said
                assert life.known, said
            case "updated":
                self._updated(life, status, said)
            case "pausing" | "cancelling":
                assert status == reason == COMMANDS[was][CAUSED_BY[reason]], said
                assert not life.decided, f"after the success: {said}"
                self._acts(job_id, CAUSED_BY[reason], status)
            case "resumed" | "retry":
                assert status == "queued" == COMMANDS[was][CAUSED_BY[reason]], said
                self._acts(job_id, CAUSED_BY[reason], status)
                life.begin()
                if reason == "retry":
                    life.finished, life.made = set(), False
                    life.afresh, life.keeps = True, False
            case "restored":
                assert was == status, said
                assert life.returning, said
                life.returning = False
            case _:
                assert status == reason, said
                self._ends(job_id, life, status, said)
        self._becomes(job_id, status)

    def _updated(self, life: Life, status: str, said: str) -> None:
        if (life.status, status) == ("starting", "running"):
            assert life.known, said
        elif status == "queued":
            assert self.ending, said
            assert status in self._ends_possible(life), said
            self._kept(life, said)
            life.parked = True
        else:
            assert life.status == status, said

    def _ends(self, job_id: str, life: Life, status: str, said: str) -> None:
        """A run ended; or a cancel hit a job without one."""
        if life.status in SETTLED:
            assert status == "cancelled" == COMMANDS[life.status]["cancel"], said
            self._acts(job_id, "cancel", status)
        else:
            assert status in self._ends_possible(life), f"{self._ends_possible(life)}: {said}"
            assert life.stored == status or life.unstored, f"told before it is stored: {said}"
            life.leaving = status == "cancelled" and not (life.known or life.made)
        self._kept(life, said) if status == "paused" else self._tidied(life, status, said)
        life.resting = False

    def _kept(self, life: Life, said: str) -> None:
        assert life.opened is None, f"its engine has not let go: {said}"
        assert life.directory or not life.tries, f"its parts are gone: {said}"

    def _tidied(self, life: Life, status: str, said: str) -> None:
        assert life.opened is None, f"its engine has not let go: {said}"
        wanted = life.parts if status == "failed" else False
        assert life.directory is wanted, f"its directory should be {wanted}: {said}"
        life.keeps = wanted

    def _ends_possible(self, life: Life) -> set[str]:
        """Return what the run may end as, as things stand."""
        if life.decided:
            return {life.decided}
        if life.status == "cancelling":
            return {"cancelled"}
        if life.broke:
            return {"failed"}
        stopped = {"paused" if life.status == "pausing" else "queued"} if self.ending else set()
        if life.over and life.opened is None:
            return {"completed_with_errors" if life.finished else "failed"} | stopped
        return {"paused"} if life.status == "pausing" else stopped

    def deleted(self, job_id: str) -> None:
        """The removal was published."""
        life = self.lives.pop(job_id)
        self.gone.add(job_id)
        self.unremoved.add(job_id)
        assert life.status in TERMINAL, f"deleted while {life}"
        if not life.leaving:
            self._acts(job_id, "delete", GONE)
        assert not life.directory, f"its directory is there: {life}"
        self._seen(job_id, UNKNOWN)

    def said(self, job_id: str, kind: str) -> None:
        """A line of the log, progress or a preview was published."""
        assert job_id not in self.gone, f"{kind} of a job that is gone"
        life = self.lives.get(job_id)
        if life is None:
            assert kind == "log", f"{kind} of a job that nobody was told of"
        elif kind == "error line" and life.status == "cancelling":
            assert life.errors, f"an error that is none: {life}"
        elif life.status in SETTLED:
            waited = life.returning or any(asked.job_id == job_id for asked in self.asked)
            assert kind == "log", f"{kind} after the end: {life}"
            assert waited, f"a line after the end: {life}"

    def _becomes(self, job_id: str, status: str) -> None:
        self.lives[job_id].status = status
        self._seen(job_id, status)

    def _seen(self, job_id: str, status: str) -> None:
        for asked in self.asked:
            if asked.job_id == job_id:
                asked.seen.add(status)

    # -- what the engine does, and is asked to

    def stopping(self, job_id: str) -> None:
        """The open run is asked to stop."""
        life = self.lives[job_id]
        assert life.status == "pausing", f"{life}"
        life.stopping = True

    def listened(self, job_id: str) -> None:
        """Somebody waits for the open run's next report: who pauses has said so before."""
        life = self.lives[job_id]
        assert life.stopping is (life.status == "pausing") or life.status == "cancelling", f"{life}"

    def opened(self, job_id: str, index: int) -> None:
        """A run of one URL began."""
        life = self.lives[job_id]
        assert life.status in {"starting", "running"}, f"a run while {life}"
        assert life.opened is None, f"two runs at a time: {life}"
        assert index not in life.finished | life.failed, f"once more: {life}"
        assert index == min(set(range(life.urls)) - life.finished - life.failed), f"order: {life}"
        if life.afresh:
            assert not life.directory, f"a retry that continues: {life}"
        if life.keeps:
            assert life.directory, f"it had parts: {life}"
        life.afresh, life.keeps = False, True
        life.tries[index] += 1
        assert life.tries[index] <= 1 + self.retries, f"too often: {life}"
        life.opened, life.last, life.directory = index, "", True
        life.stopping = False
        life.errors_before, life.resting = life.errors, False

    def identified(self, job_id: str) -> None:
        """The site answered."""
        life = self.lives[job_id]
        life.known = life.parts = True

    def error_line(self, job_id: str) -> None:
        """The engine logged an error."""
        self.lives[job_id].errors = True

    def finishes(self, job_id: str) -> None:
        """The engine reported a success: decided now, unless a cancel came first."""
        life = self.lives[job_id]
        assert life.opened is not None, f"{life}"
        life.finished.add(life.opened)
        life.last, life.made, life.parts = "finished", True, False
        if len(life.finished) == life.urls and life.status != "cancelling":
            life.decided = "completed_with_errors" if life.errors else "completed"

    def fails(self, job_id: str, how: str) -> None:
        """The engine reported a failure, of one of the three kinds above."""
        self.lives[job_id].last = how

    def stops(self, job_id: str) -> None:
        """The engine reported that it stopped; it was asked to."""
        life = self.lives[job_id]
        assert life.status in {"pausing", "cancelling"}, f"stopped for nothing: {life}"
        life.last = "stopped"

    def breaks(self, job_id: str) -> None:
        """The engine raised what it never should."""
        self.lives[job_id].broke = True

    def left(self, job_id: str) -> None:
        """The engine has let go of a run."""
        life = self.lives[job_id]
        assert life.opened is not None, f"{life}"
        index, life.opened = life.opened, None
        again = life.last == PASSING and life.tries[index] <= self.retries
        excused = life.status == "cancelling" or (life.status == "pausing" and life.last != FINAL)
        if life.last in {PASSING, MENDABLE, FINAL} and not excused and not life.broke:
            if again:
                life.errors, life.resting = life.errors_before, True
            else:
                life.failed.add(index)

    # -- what the disk does

    def discarded(self, job_id: str) -> None:
        """The work directory went."""
        if life := self.lives.get(job_id):
            assert life.opened is None, f"under a run: {life}"
            life.directory = life.parts = False

    def stored(self, job_id: str, status: str, urls: int) -> None:
        """A status reached the store."""
        life = self.lives.setdefault(job_id, Life(urls))
        life.stored, life.unstored = status, False
        self._durable(job_id)

    def unstored(self, job_id: str) -> None:
        """A write failed."""
        if life := self.lives.get(job_id):
            life.unstored = True

    def forgotten(self, job_id: str) -> None:
        """A job that nobody was told of left the store."""
        life = self.lives.pop(job_id, None)
        assert life is None or not life.status, f"{life}"
        self.gone.add(job_id)

    def removed(self, job_id: str) -> None:
        """The job left the store."""
        assert job_id in self.gone, job_id
        self.unremoved.discard(job_id)
        self._durable(job_id)

    def _durable(self, job_id: str) -> None:
        for effect in self.effects:
            effect.stored |= effect.job_id == job_id

    # -- servers come and go

    def ends(self) -> None:
        """The server begins to stop."""
        self.ending = True

    def ended(self) -> None:
        """The server has stopped: every job was brought to rest, and that was told."""
        assert not self.asked, f"never answered: {self.asked}"
        for life in self.lives.values():
            assert life.opened is None, f"{life}"
            assert not life.leaving, f"it should be gone: {life}"
            # What was told to wait may still be cancelled; the next server ends it.
            late = life.status == "cancelling" and life.parked
            assert late or life.status in SETTLED | {"queued"}, f"{life}"

    def dies(self) -> None:
        """The server was killed: nobody gets an answer any more."""
        self.asked.clear()
        self.effects.clear()

    def begins(self, restored: Mapping[str, Remembered]) -> None:
        """Another server begins, with what the store gave it."""
        assert not self.asked, f"never answered: {self.asked}"
        self.ending = False
        lost = self.lives.keys() - restored.keys()
        assert not lost, [self.lives[job_id] for job_id in lost]
        before, self.lives = self.lives, {}
        for job_id, stored in restored.items():
            life = before.get(job_id)
            if life is None:
                assert job_id in self.unremoved, f"back again: {job_id} {stored}"
                life = Life(stored.urls, stored=stored.status)
                self.gone.discard(job_id)
                self.unremoved.discard(job_id)
            assert stored.status == life.stored, f"{stored}: {life}"
            status = RESTORED.get(stored.status, stored.status)
            self.lives[job_id] = Life(
                stored.urls,
                status=status,
                finished=set(stored.finished),
                known=stored.known,
                made=stored.made,
                directory=life.directory,
                parts=life.parts,
                keeps=status in {"failed", "paused"} and life.directory,
                returning=True,
                stored=life.stored,
            )

    # -- at rest

    def at_rest(self, slots: int) -> None:
        """Time has passed, and nobody did anything: what must have happened, has."""
        assert not self.asked, f"never answered: {self.asked}"
        for life in self.lives.values():
            assert life.status not in {"", "pausing", "cancelling"}, f"{life}"
            assert not life.leaving, f"it should be gone: {life}"
            assert not life.returning, f"nobody was told: {life}"
            if life.status in {"starting", "running"}:
                assert life.opened is not None or life.resting, f"nothing happens: {life}"
                assert not life.last or life.resting, f"never told: {life}"
            else:
                assert life.opened is None, f"{life}"
        busy = sum(life.status in {"starting", "running"} for life in self.lives.values())
        waiting = sum(life.status == "queued" for life in self.lives.values())
        assert busy <= slots, f"{busy} jobs at work"
        assert busy == slots or not waiting, f"{waiting} jobs wait, {busy} work"
