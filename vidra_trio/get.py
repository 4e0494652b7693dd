"""`vidra-trio get`: a private server in this process, and a client that uses it.

The client speaks HTTP and WebSocket to it like any other: what `get` shows is
what every client of a server would see.
"""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from vidra_trio.bars import open_board
from vidra_trio.client import Client, RequestRefused
from vidra_trio.core.states import JobState
from vidra_trio.interrupts import INTERRUPTED, interrupts
from vidra_trio.server import serve
from vidra_trio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from rich.console import Console

    from vidra_trio.bars import Board
    from vidra_trio.client import RemoteJob
    from vidra_trio.server import Server

FOLLOWED: Final = 8
"""Jobs created and watched at once; the server runs fewer, so a slot never waits for us."""

CLEANUP_DEADLINE: Final = 5.0
"""Seconds for cancelling what is left: longer than an engine needs to let go."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one URL: its files, or why there are none."""

    url: str
    files: tuple[str, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class Gathering:
    """The outcomes so far; after Ctrl-C, those that came before it."""

    outcomes: dict[int, Outcome]
    interrupted: bool = False

    def in_order(self) -> list[Outcome]:
        """The outcomes in the order of the URLs."""
        return [outcome for _, outcome in sorted(self.outcomes.items())]

    @property
    def exit_code(self) -> int:
        """0 when every URL became files."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if any(outcome.error for outcome in self.outcomes.values()) else 0


async def get(
    urls: Sequence[str], folder: Path, options: Mapping[str, Any], console: Console
) -> Gathering:
    """Download `urls` into `folder`, showing it on `console`.

    Ctrl-C cancels what is not finished; nothing of it is left behind, and what
    was finished is in the result.
    """
    gathering, scope = Gathering({}), trio.CancelScope()
    with interrupts(partial(scope.cancel, "interrupted")) as received, open_board(console) as board:
        async with open_private_server(folder) as (_, client):
            # Inside the server: its own tasks are needed to cancel what is left.
            with scope:
                await _fetch_all(client, urls, options, board, gathering)
    gathering.interrupted = bool(received)
    return gathering


async def _fetch_all(
    client: Client,
    urls: Sequence[str],
    options: Mapping[str, Any],
    board: Board,
    gathering: Gathering,
) -> None:
    limit = trio.CapacityLimiter(FOLLOWED)
    async with trio.open_nursery() as nursery:
        for number, url in enumerate(urls):
            await limit.acquire_on_behalf_of(number)
            nursery.start_soon(_fetch, client, number, url, options, board, gathering, limit)


@asynccontextmanager
async def open_private_server(folder: Path) -> AsyncIterator[tuple[Server, Client]]:
    """Run a server of our own for the length of the block, and a client of it.

    Its files lie in a temporary directory that is gone afterwards. Leaving the
    block cancels the jobs that have not ended and waits for them; what is to
    interrupt the block belongs inside it, or the server is interrupted too.
    """
    with tempfile.TemporaryDirectory(prefix="vidra-", ignore_cleanup_errors=True) as root:
        settings = Settings.private(Path(root), download_dir=folder)
        async with serve(settings) as server, Client(server.url, server.token) as client:
            try:
                yield server, client
            finally:
                with trio.move_on_after(CLEANUP_DEADLINE, shield=True):
                    await _cancel_all(client)


async def _cancel_all(client: Client) -> None:
    left = [job.job_id for job in await client.jobs() if not job.ended]
    for job_id in left:
        await client.cancel(job_id)
    for job_id in left:
        await client.follow(job_id)


async def _fetch(
    client: Client,
    number: int,
    url: str,
    options: Mapping[str, Any],
    board: Board,
    gathering: Gathering,
    limit: trio.CapacityLimiter,
) -> None:
    try:
        job = await client.create(url, options=options)
        board.begin(job.job_id, url)
        ended = await client.follow(job.job_id, board.take)
        gathering.outcomes[number] = _outcome(url, ended)
    except RequestRefused as refused:
        gathering.outcomes[number] = Outcome(url, error=str(refused))
    finally:
        limit.release_on_behalf_of(number)


def _outcome(url: str, job: RemoteJob | None) -> Outcome:
    if job is None:
        return Outcome(url, error="the job was removed")
    files = tuple(job.generated_files) or ((job.main_file,) if job.main_file else ())
    if job.state is JobState.COMPLETED:
        return Outcome(url, files)
    return Outcome(url, files, error=job.error or job.status)
