"""The job endpoints: parse, ask the supervisor, dump.

Nothing is decided here. A refusal is an exception on its way to `web.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from quart import request

from vidra_trio.core import lifecycle
from vidra_trio.core.errors import JobNotFound, StorageFailed
from vidra_trio.core.lifecycle import Plain
from vidra_trio.core.states import Command, Reason
from vidra_trio.web.answers import answer, raw_answer
from vidra_trio.web.asked import find_job, read_body
from vidra_trio.web.meta import own_address
from vidra_trio.wire import payloads
from vidra_trio.wire.listing import parse_list_query
from vidra_trio.wire.requests import (
    parse_bulk_cancel,
    parse_create,
    parse_entry,
    parse_json,
    parse_log_query,
    parse_options_query,
)
from vidra_trio.wire.words import dumps, status_word

if TYPE_CHECKING:
    from quart import Response

    from vidra_trio.core.job import LogEntry
    from vidra_trio.supervisor import Answer
    from vidra_trio.web.context import WebContext
    from vidra_trio.wire.requests import BulkCancel

_DELETED: Final = "deleted"
_RUNNING: Final = "running"
_NOT_FOUND: Final = "not_found"


async def create(context: WebContext) -> Response:
    """POST /api/jobs: 201 once the job is durable."""
    settings = context.settings
    spec = parse_create(
        parse_json(await read_body()),
        settings.path_rules,
        settings.description,
        own=own_address(context),
    )
    job = await context.supervisor.create(spec)
    return answer(payloads.created(job, await _logs(context, job.job_id)), 201)


async def list_jobs(context: WebContext) -> Response:
    """GET /api/jobs: every job, oldest first; clients forget those that are missing.

    With `limit` a page of them, and the `cursor` of the next one.
    """
    wanted = parse_list_query(request.args.to_dict())
    lines, more = await context.listing.page(context.supervisor.jobs(), wanted)
    counts = dumps(payloads.summary(context.supervisor.summary()))
    page = b"" if wanted.limit is None else b',"next_cursor":' + dumps(more)
    return raw_answer([b'{"jobs":[', b",".join(lines), b'],"summary":', counts, page, b"}"])


async def detail(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}."""
    job = find_job(context, job_id)
    return answer(payloads.job_detail(job, await _logs(context, job.job_id)))


async def delete(context: WebContext, job_id: str) -> Response:
    """DELETE /api/jobs/{id}."""
    done = await _apply(context, job_id, Command.DELETE)
    return answer(_told(done))


async def cancel(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/cancel."""
    done = await _apply(context, job_id, Command.CANCEL)
    return answer(_told(done))


async def pause(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/pause."""
    done = await _apply(context, job_id, Command.PAUSE)
    return answer(_told(done))


async def resume(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/resume: says `running`, the old backend's literal, though it queues."""
    done = await _apply(context, job_id, Command.RESUME)
    return answer(payloads.command_answer(done.job_id, _RUNNING))


async def retry(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/retry."""
    done = await _apply(context, job_id, Command.RETRY)
    return answer(_told(done))


async def cancel_many(context: WebContext) -> Response:
    """POST /api/jobs/cancel: one result per job, in the order asked.

    A job that is named gets what its own cancel would do to it, a failed one too.
    A scope means what is still going on: jobs at their end are told and left as they
    are, for nobody pointed at a failed one's parts. Every job is asked even if the
    disk fails for one; then the answer is the failure.
    """
    wanted = parse_bulk_cancel(parse_json(await read_body()))
    asked = _asked(context, wanted)
    # Tasks are for those that wait for the disk; most of a long history does not.
    results: list[payloads.Payload | StorageFailed | None] = [
        _unmoved(context, job_id, wanted) for job_id in asked
    ]

    async def ask(index: int, job_id: str) -> None:
        try:
            results[index] = await _cancel_one(context, job_id, wanted)
        except StorageFailed as error:
            results[index] = error

    async with trio.open_nursery() as nursery:
        for index, job_id in enumerate(asked):
            if results[index] is None:
                nursery.start_soon(ask, index, job_id)
    for result in results:
        if isinstance(result, StorageFailed):
            raise result
    return answer({"results": results})


async def options(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}/options. Order of checks: selector, job, query."""
    query = request.args.to_dict()
    entry = parse_entry(job_id, query)
    job = find_job(context, entry.job_id)
    return answer(payloads.options_answer(job, parse_options_query(query), entry))


async def logs(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}/logs. Order of checks: query, selector, job."""
    query = request.args.to_dict()
    wanted = parse_log_query(query)
    entry = parse_entry(job_id, query)
    job = find_job(context, entry.job_id)
    lines = await _logs(context, job.job_id)
    return answer(payloads.logs_answer(job, lines, wanted, entry))


async def _logs(context: WebContext, job_id: str) -> tuple[LogEntry, ...]:
    """Return the log of a job that somebody may have removed a moment ago."""
    try:
        return await context.supervisor.logs(job_id)
    except JobNotFound:
        return ()


async def _apply(context: WebContext, job_id: str, command: Command) -> Answer:
    return await context.supervisor.apply(find_job(context, job_id).job_id, command)


def _told(done: Answer) -> payloads.Payload:
    if done.removed:
        return payloads.command_answer(done.job_id, _DELETED, Reason.DELETED)
    return payloads.command_answer(done.job_id, status_word(done.state))


def _asked(context: WebContext, wanted: BulkCancel) -> tuple[str, ...]:
    if not wanted.everything:
        return wanted.job_ids
    return tuple(
        job.job_id
        for job in context.supervisor.jobs()
        if wanted.owner is None or job.spec.creator == wanted.owner
    )


def _unmoved(context: WebContext, job_id: str, wanted: BulkCancel) -> payloads.Payload | None:
    """Answer for a job that `wanted` does not move, and for none; else None."""
    try:
        state = find_job(context, job_id).state
    except JobNotFound:
        return payloads.command_answer(job_id, _NOT_FOUND)
    at_its_end = wanted.everything and state in lifecycle.TERMINAL
    if at_its_end or lifecycle.decide(state, Command.CANCEL) is Plain.NOOP:
        return payloads.command_answer(job_id, status_word(state))
    return None


async def _cancel_one(context: WebContext, job_id: str, wanted: BulkCancel) -> payloads.Payload:
    """Cancel one of many; it may have ended, or be gone, since it was looked at."""
    answered = _unmoved(context, job_id, wanted)
    if answered is not None:
        return answered
    try:
        return _told(await context.supervisor.apply(job_id, Command.CANCEL))
    except JobNotFound:
        return payloads.command_answer(job_id, _NOT_FOUND)
