"""`vidra-trio jobs`, `watch`, `cancel`: a running server, from outside.

Results go to `echo` as tab-separated lines, one per job, for people and `cut`
alike; live bars and errors go to the console.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from vidra_trio.bars import open_board, say
from vidra_trio.client import Client, RequestRefused
from vidra_trio.core.redact import one_line
from vidra_trio.core.states import JobState
from vidra_trio.interrupts import INTERRUPTED, interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from vidra_trio.client import RemoteJob

    Echo = Callable[[str], None]


async def show_jobs(url: str, token: str, echo: Echo) -> int:
    """Print all jobs, the oldest first."""
    async with Client(url, token) as client:
        for job in await client.jobs():
            echo(_row(job))
    return 0


async def cancel_jobs(url: str, token: str, job_ids: Sequence[str], echo: Echo) -> int:
    """Cancel jobs and print what each became; 1 when one of them was refused."""
    refused = 0
    async with Client(url, token) as client:
        for job_id in job_ids:
            try:
                said = (await client.cancel(job_id)).status
            except RequestRefused as error:
                said, refused = error.code, 1
            echo(f"{one_line(job_id)}\t{said}")
    return refused


async def watch_job(url: str, token: str, job_id: str, console: Console) -> int:
    """Show one job until it ends; 0 when it completed."""
    with trio.CancelScope() as scope, interrupts(partial(scope.cancel, "interrupted")):
        async with Client(url, token) as client:
            known = await client.job(job_id)
            with open_board(console) as board:
                board.begin(known.job_id, known.title or ", ".join(known.urls))
                job = await client.follow(known.job_id, board.take)
        if job is None:
            say(console, "the job was removed")
            return 1
        if job.error:
            say(console, f"error: {job.error}")
        return 0 if job.state is JobState.COMPLETED else 1
    return INTERRUPTED


async def watch_all(url: str, token: str, echo: Echo, console: Console) -> int:
    """Print every change of every job until interrupted; `console` is told when it begins."""
    with trio.CancelScope() as scope, interrupts(partial(scope.cancel, "interrupted")):
        async with Client(url, token) as client, client.watch_overview() as watch:
            say(console, f"watching {url}")
            async for message in watch:
                if (job := message.job) is not None:
                    echo(_row(job))
        return 0
    return INTERRUPTED


def _row(job: RemoteJob) -> str:
    percent = "-" if job.progress.percent is None else f"{job.progress.percent:.0f} %"
    title = job.title or job.error or (job.urls[0] if job.urls else "-")
    return "\t".join((job.job_id, job.status, percent, one_line(title)))
