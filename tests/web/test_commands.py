"""Every command in every state, over HTTP: the answer, what the job becomes, what is told.

The table is the contract's, written by hand: nothing of it is computed from ours. Two
rows of the lifecycle cannot be asked for yet: nothing waits for a playlist selection,
and `retrying` is a word that only clients use for a job.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.web import AUTH, FarEnd, Reply, Web, open_socket, open_web
from vidra_trio.core.report import Failed, Finished, Identified, Line
from vidra_trio.core.states import JobKind, Level
from vidra_trio.engine.scripted import ScriptedEngine, download

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vidra_trio.engine.base import RunSpec

# State, command, status code, the word of the answer; then the reasons of the updates
# that follow, the letting go of the engine marked by a bar. `=` is the state's own word.
TABLE: Final = """
queued     cancel          200 cancelling  cancelling cancelled deleted
queued     pause           200 =
queued     resume          409 =
queued     retry           200 =
queued     delete          409 =
queued     select          200 =
queued     retry_entries   409 not_playlist
queued     delete_entries  200 not_playlist

starting   cancel          200 cancelling  cancelling | cancelled deleted
starting   pause           200 pausing     pausing | paused
starting   resume          409 =
starting   retry           409 =
starting   delete          409 =
starting   select          200 =
starting   retry_entries   409 not_playlist
starting   delete_entries  200 not_playlist

running    cancel          200 cancelling  cancelling | cancelled
running    pause           200 pausing     pausing | paused
running    resume          409 =
running    retry           200 =
running    delete          409 =
running    select          200 =
running    retry_entries   409 not_playlist
running    delete_entries  200 not_playlist

pausing    cancel          200 cancelling  cancelling | cancelled
pausing    pause           200 =           | paused
pausing    resume          409 =           | paused
pausing    retry           409 =           | paused
pausing    delete          409 =           | paused
pausing    select          200 =           | paused
pausing    retry_entries   409 not_playlist  | paused
pausing    delete_entries  200 not_playlist  | paused

paused     cancel          200 cancelled   cancelled
paused     pause           200 =
paused     resume          200 running     resumed started
paused     retry           200 queued      retry started
paused     delete          409 =
paused     select          200 =
paused     retry_entries   409 not_playlist
paused     delete_entries  200 not_playlist

cancelling cancel          200 cancelling  cancelling | cancelled
cancelling pause           200 =           | cancelled
cancelling resume          409 =           | cancelled
cancelling retry           409 =           | cancelled
cancelling delete          409 =           | cancelled
cancelling select          200 =           | cancelled
cancelling retry_entries   409 not_playlist  | cancelled
cancelling delete_entries  200 not_playlist  | cancelled

cancelled  cancel          200 =
cancelled  pause           409 =
cancelled  resume          409 =
cancelled  retry           200 queued      retry started
cancelled  delete          200 deleted     deleted
cancelled  select          409 terminated
cancelled  retry_entries   409 not_playlist
cancelled  delete_entries  200 not_playlist

failed     cancel          200 cancelled   cancelled
failed     pause           409 =
failed     resume          200 running     resumed started
failed     retry           200 queued      retry started
failed     delete          200 deleted     deleted
failed     select          409 terminated
failed     retry_entries   409 not_playlist
failed     delete_entries  200 not_playlist

completed  cancel          200 =
completed  pause           409 =
completed  resume          409 =
completed  retry           200 queued      retry started
completed  delete          200 deleted     deleted
completed  select          409 terminated
completed  retry_entries   409 not_playlist
completed  delete_entries  200 not_playlist

completed_with_errors  cancel          200 =
completed_with_errors  pause           200 =
completed_with_errors  resume          409 =
completed_with_errors  retry           200 queued      retry started
completed_with_errors  delete          200 deleted     deleted
completed_with_errors  select          409 terminated
completed_with_errors  retry_entries   409 not_playlist
completed_with_errors  delete_entries  200 not_playlist
"""

AFTER: Final = {
    "cancelling": "cancelling", "cancelled": "cancelled", "pausing": "pausing", "paused": "paused",
    "resumed": "queued", "retry": "queued", "started": "starting", "deleted": "deleted",
}  # fmt: skip
"""The status that an update carries, by its reason."""

PATHS: Final = {
    "cancel": "POST /cancel", "pause": "POST /pause", "resume": "POST /resume",
    "retry": "POST /retry", "delete": "DELETE ", "select": "POST /playlist/selection",
    "retry_entries": "POST /playlist/retry", "delete_entries": "POST /playlist/delete",
}  # fmt: skip
BODIES: Final = {
    "select": {},
    "retry_entries": {"indices": [1]},
    "delete_entries": {"indices": [1]},
}

LETS_GO: Final = 5.0
"""Seconds that the engine takes to let go; long enough to ask something meanwhile."""


@dataclass(frozen=True)
class Cell:
    """What one command does in one state."""

    state: str
    command: str
    code: int
    word: str
    at_once: tuple[str, ...]
    later: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.state}-{self.command}"

    @property
    def then(self) -> str:
        """The job's status as long as the engine holds on."""
        return AFTER[self.at_once[-1]] if self.at_once else self.state

    @property
    def end(self) -> str:
        """The job's status when all has come to rest."""
        return AFTER[self.later[-1]] if self.later else self.then

    def body(self, job_id: str) -> dict[str, Any]:
        """What is answered, to the last member."""
        word = self.state if self.word == "=" else self.word
        known = {"job_id": job_id, "status": word}
        refusal = {"error": "job_status_conflict"} if self.code == 409 else {}
        if word == "not_playlist":
            return {**refusal, **known, "reason": "job_is_not_playlist"}
        if word == "terminated":
            return {**refusal, **known, "status": self.state, "reason": "job_terminated"}
        if self.command == "select":
            return {**known, "selection": "all", "reason": "playlist_selection_locked"}
        if refusal and self.command == "delete":
            return {"error": "job_delete_conflict_active"}
        if refusal:
            return {**refusal, "detail": self.state}
        return {**known, "reason": "deleted"} if word == "deleted" else known


def _cells() -> Iterator[Cell]:
    for line in filter(None, TABLE.splitlines()):
        state, command, code, word, *story = line.split()
        at_once, _, later = " ".join(story).partition("|")
        yield Cell(state, command, int(code), word, tuple(at_once.split()), tuple(later.split()))


CELLS: Final = {(cell.state, cell.command): cell for cell in _cells()}
STATES: Final = tuple(dict.fromkeys(state for state, _ in CELLS))

VIDEO: Final = Identified(JobKind.VIDEO, {"title": "T"})
SCRIPTS: Final[dict[str, tuple[object, ...]]] = {
    "starting": (),
    "failed": (VIDEO, Failed("not_found", "it is gone")),
    "completed": download(),
    "completed_with_errors": (
        VIDEO,
        Line(Level.ERROR, "the cover could not be had"),
        Finished(("/downloads/clip.mp4",), "/downloads/clip.mp4"),
    ),
}


def engine(state: str) -> ScriptedEngine:
    """Return one whose first run leads to `state`; every later run begins and stays there."""
    never = trio.Event()

    def script(_spec: RunSpec) -> tuple[object, ...]:
        return (*SCRIPTS.get(state, (VIDEO,)), never) if not made.runs else (never,)

    made = ScriptedEngine(script, lets_go_after=LETS_GO)
    return made


@dataclass
class Watcher:
    """One socket, and what was told on it."""

    end: FarEnd
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def catch_up(self) -> None:
        """Read all that was sent so far."""
        while self.end.heard.statistics().current_buffer_used:
            message = await self.end.next()
            self.told.append((message["event"], message["payload"]))

    def of(self, wanted: str) -> list[dict[str, Any]]:
        """Return the payloads of one kind of event."""
        return [payload for event, payload in self.told if event == wanted]

    def story(self, *events: str) -> list[str]:
        """Return what was told of the job: `log`, and the reason of every update."""
        return [
            payload["reason"] if event == "update" else event
            for event, payload in self.told
            if event in events
        ]


@dataclass
class Scene:
    """A server with one job, and somebody who watches everything."""

    web: Web
    job_id: str
    overview: Watcher
    room: Watcher

    async def ask(self, command: str) -> Reply:
        """Give the job a command."""
        method, _, path = PATHS[command].partition(" ")
        return await self.web.ask(method, f"/api/jobs/{self.job_id}{path}", BODIES.get(command))

    async def status(self) -> str:
        """Return where the job stands to the world; `deleted` when there is none."""
        reply = await self.web.ask("GET", f"/api/jobs/{self.job_id}")
        if reply.status == 200:
            return str(reply.json["status"])
        assert (reply.status, reply.error) == (404, "job_not_found")
        return "deleted"

    async def listen(self) -> None:
        """Let everything happen that needs no time to pass, and read what was told."""
        await wait_all_tasks_blocked()
        await self.overview.catch_up()
        await self.room.catch_up()

    async def wait_rest(self) -> None:
        """Let the engine let go, if it has to, and listen."""
        await trio.sleep(2 * LETS_GO)
        await self.listen()

    def forget(self) -> None:
        """Begin the story anew."""
        self.overview.told.clear()
        self.room.told.clear()


@asynccontextmanager
async def scene(state: str) -> AsyncIterator[Scene]:
    """Serve with a job that is in `state`, watched from now on."""
    slots = 0 if state == "queued" else 1
    async with AsyncExitStack() as stack:
        web = await stack.enter_async_context(open_web(engine=engine(state), slots=slots))
        job_id = await web.create()
        await wait_all_tasks_blocked()
        if state in {"pausing", "paused"}:
            await web.ask("POST", f"/api/jobs/{job_id}/pause")
        if state in {"cancelling", "cancelled"}:
            await web.ask("POST", f"/api/jobs/{job_id}/cancel")
        if state in {"paused", "cancelled"}:
            await web.supervisor.wait_settled(job_id)
        watchers = []
        for path in ("/ws/overview", f"/ws/jobs/{job_id}"):
            socket = open_socket(web.app, path, headers=AUTH.items())
            watchers.append(Watcher(await stack.enter_async_context(socket)))
        made = Scene(web, job_id, *watchers)
        await made.listen()
        assert await made.status() == state
        made.forget()
        yield made


def test_the_table_is_whole() -> None:
    """Each state has a line for each command."""
    assert len(STATES) == 10
    assert set(CELLS) == set(product(STATES, PATHS))


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
async def test_a_cell(autojump_clock: MockClock, cell: Cell) -> None:
    """The answer, the status while the engine holds on and after, and the story of both sockets."""
    async with scene(cell.state) as here:
        reply = await here.ask(cell.command)
        assert (reply.status, reply.json) == (cell.code, cell.body(here.job_id))
        await here.listen()
        assert await here.status() == cell.then
        assert here.overview.story("update") == [*cell.at_once]
        await here.wait_rest()
        assert await here.status() == cell.end
        reasons = [*cell.at_once, *cell.later]
        assert here.overview.story("update") == reasons
        # Before its update every change is in the log; a removal has none to be in.
        lines = " ".join(reason if reason == "deleted" else f"log {reason}" for reason in reasons)
        assert " ".join(here.room.story("log", "update")) == lines
        check_updates(here, cell)
        if reasons:
            event, counts = here.overview.told[-1]
            assert event == "overview"
            listed = (await here.web.ask("GET", "/api/jobs")).json
            assert counts["summary"] == listed["summary"]


def check_updates(here: Scene, cell: Cell) -> None:
    """Both sockets agree, a status fits its reason, and a new start begins at nothing."""
    updates = here.overview.of("update")
    assert updates == here.room.of("update")
    for payload in updates:
        assert payload["job_id"] == here.job_id
        assert payload["status"] == AFTER[payload["reason"]]
        assert not {"options", "logs"} & set(payload)
    if updates and cell.end == "deleted":
        before = updates[-2]["status"] if len(updates) > 1 else cell.state
        assert updates[-1]["previous_status"] == before
    if updates and cell.end == "starting":
        told = [(it["percent"], it["stage_percent"]) for it in here.room.of("progress")]
        assert set(told) == {(0.0, 0.0)}


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
async def test_a_command_twice(autojump_clock: MockClock, cell: Cell) -> None:
    """The second one is answered as in the state that the first one led to, and does no more."""
    async with scene(cell.state) as here:
        await here.ask(cell.command)
        await here.listen()
        again = await here.ask(cell.command)
        if cell.then == "deleted":
            assert (again.status, again.error) == (404, "job_not_found")
            return
        second = CELLS[cell.then, cell.command]
        assert (again.status, again.json) == (second.code, second.body(here.job_id))
        await here.wait_rest()
        assert await here.status() == cell.end
        assert here.overview.story("update") == [*cell.at_once, *second.at_once, *cell.later]


ACTING: Final = [cell for cell in CELLS.values() if cell.at_once]


@pytest.mark.parametrize("cell", ACTING, ids=str)
async def test_a_command_twice_at_once(autojump_clock: MockClock, cell: Cell) -> None:
    """Two clients, one moment: the job moves once, and comes to the same end."""
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await here.ask(cell.command))

    async with scene(cell.state) as here:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        statuses = {reply.status for reply in replies}
        assert cell.code in statuses
        assert statuses <= {200, 404, 409}
        await here.wait_rest()
        assert await here.status() == cell.end
        # That a job is being cancelled may be told twice, nothing else.
        told = [reason for reason in here.overview.story("update") if reason != "cancelling"]
        assert told == [it for it in (*cell.at_once, *cell.later) if it != "cancelling"]


@pytest.mark.parametrize("cell", ACTING, ids=str)
async def test_a_command_that_is_not_stored(autojump_clock: MockClock, cell: Cell) -> None:
    """507, and it acted all the same."""
    async with scene(cell.state) as here:
        here.web.store.broken = True
        reply = await here.ask(cell.command)
        assert (reply.status, reply.error) == (507, "storage_failed")
        await here.wait_rest()
        assert await here.status() == cell.end
        assert here.overview.story("update") == [*cell.at_once, *cell.later]
        here.web.store.broken = False


@pytest.mark.parametrize("command", PATHS)
async def test_a_command_for_nobody(command: str) -> None:
    """404, and nothing is told."""
    async with open_web() as web:
        method, _, path = PATHS[command].partition(" ")
        reply = await web.ask(method, f"/api/jobs/nope{path}", BODIES.get(command))
        assert (reply.status, reply.error) == (404, "job_not_found")
        assert web.context.hub.statistics().published == 0
