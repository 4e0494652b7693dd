"""What every view of a job needs of a request: the job that is meant, and the body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import request

from vidra_trio.core.errors import JobNotFound
from vidra_trio.core.job import JOB_ID

if TYPE_CHECKING:
    from vidra_trio.core.job import Snapshot
    from vidra_trio.web.context import WebContext


def find_job(context: WebContext, job_id: str) -> Snapshot:
    """Return the job.

    Raises:
        JobNotFound: there is none, or this is no id at all.
    """
    if not JOB_ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    return context.supervisor.get(job_id)


async def read_body() -> bytes:
    """Return the whole body; the framework bounds its size and its time."""
    body: bytes = await request.get_data(cache=True, as_text=False, parse_form_data=False)
    return body
