"""The playlist endpoints, for jobs that are no playlist: as yet, no job is one.

What is asked is parsed in full all the same, and in the contract's order: a
wrong request is told before an unknown job, an unknown job before what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import request

from vidra_trio.core.errors import CommandRefused, NoPlaylist
from vidra_trio.web.answers import answer
from vidra_trio.web.asked import find_job, read_body
from vidra_trio.wire import fields, payloads
from vidra_trio.wire.playlists import (
    parse_entry_targets,
    parse_items_query,
    parse_playlist_query,
    parse_selection,
)
from vidra_trio.wire.requests import parse_json

if TYPE_CHECKING:
    from quart import Response

    from vidra_trio.web.context import WebContext


async def playlist(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}/playlist."""
    parse_playlist_query(request.args.to_dict())
    raise NoPlaylist("playlist_entries_unavailable", find_job(context, job_id).job_id)


async def items(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}/playlist/items."""
    parse_items_query(request.args.to_dict())
    raise NoPlaylist("playlist_metadata_unavailable", find_job(context, job_id).job_id)


async def delta(context: WebContext, job_id: str) -> Response:
    """GET /api/jobs/{id}/playlist/items/delta."""
    fields.since(request.args.to_dict())
    raise NoPlaylist("playlist_metadata_unavailable", find_job(context, job_id).job_id)


async def selection(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/playlist/selection: 200 where none is needed, and nothing changes."""
    parse_selection(await read_body())
    job = find_job(context, job_id)
    if job.terminal:
        return answer(payloads.selection_refused(job), CommandRefused.status_hint)
    return answer(payloads.selection_locked(job))


async def retry_entries(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/playlist/retry: refused with the result as the body."""
    parse_entry_targets(parse_json(await read_body()))
    job = find_job(context, job_id)
    refused = payloads.error(CommandRefused.code) | payloads.not_a_playlist(job.job_id)
    return answer(refused, CommandRefused.status_hint)


async def delete_entries(context: WebContext, job_id: str) -> Response:
    """POST /api/jobs/{id}/playlist/delete: 200 whatever comes of it, as it always was."""
    parse_entry_targets(parse_json(await read_body()))
    return answer(payloads.not_a_playlist(find_job(context, job_id).job_id))
