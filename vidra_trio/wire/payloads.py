"""What leaves the server: jobs, events, answers. Values in, JSON objects out.

1. A member that is null is not sent; clients take absence as "keep what you have".
2. The list form is the form of lists and of every `update`; the detail form adds
   what is bulky: URLs, options, log, files.
3. Options leave masked, whatever the way.
4. A version is announced only for what exists: clients fetch again for each one
   they do not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import options as job_options
from vidra_trio.core.errors import CommandRefused
from vidra_trio.core.events import (
    JobChanged,
    JobDeleted,
    Logged,
    OverviewChanged,
    ProgressChanged,
)
from vidra_trio.core.states import JobKind, JobState, Reason
from vidra_trio.wire.words import dumps, iso, status_word

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from vidra_trio.core.diagnostics import Diagnostics
    from vidra_trio.core.errors import Detail
    from vidra_trio.core.events import Event, InfoChanged
    from vidra_trio.core.job import LogEntry, Snapshot, Summary
    from vidra_trio.core.progress import Progress
    from vidra_trio.wire.requests import Entry, StoredQuery

Payload = dict[str, Any]

_PROGRESS: Final = (
    "status", "state", "downloaded_bytes", "total_bytes", "remaining_bytes", "speed", "eta",
    "elapsed", "filename", "tmpfilename", "percent", "stage", "stage_name", "stage_percent",
    "current_item", "total_items", "message",
)  # fmt: skip

_SITE_KNOWS: Final = ("title", "description", "thumbnail_url", "webpage_url", "original_url")
"""Members of `metadata` where the site's word beats the client's, once it is known."""

_PLAYLIST_FLAGS: Final = ("is_collecting_entries", "collection_complete", "has_indefinite_length")
_PLAYLIST_BULK: Final = ("thumbnails", "tags", "preview")


# -- jobs


def job_list(job: Snapshot) -> Payload:
    """Dump a job as lists and updates show it."""
    return _given(
        {
            "job_id": job.job_id,
            "status": status_word(job.state),
            "kind": job.kind.value,
            "creator": job.spec.creator,
            **_times(job),
            "error": job.error,
            "error_code": job.error_code,
            "progress": progress(job.progress) or None,
            "metadata": _metadata(job),
            "preview": _preview(job),
            "status_hint": _status_hint(job),
            "options_external": bool(job.spec.options),
            "logs_external": True,
            "options_version": options_version(job),
            "logs_version": job.logs_version,
            "main_file": job.main_file,
        }
    )


def job_detail(job: Snapshot, logs: Iterable[LogEntry]) -> Payload:
    """Dump a job with all that belongs to it."""
    return {
        **job_list(job),
        "options_external": options_version(job) is not None,
        "logs_external": job.logs_version is not None,
        "urls": list(job.spec.urls),
        "options": job_options.mask(job.spec.options),
        "logs": [log_entry(entry) for entry in logs],
        **_given(
            {
                "generated_files": sorted(job.generated_files) or None,
                "partial_files": sorted(job.partial_files) or None,
            }
        ),
    }


def created(job: Snapshot, logs: Iterable[LogEntry]) -> Payload:
    """Dump the answer to a create: the detail, and how it stands on top."""
    top = ("stage", "stage_name", "stage_percent", "percent", "message")
    shown = progress(job.progress)
    return job_detail(job, logs) | {key: shown[key] for key in top if key in shown}


def progress(values: Progress) -> Payload:
    """Dump what is known of a progress; numbers are finite."""
    known = {key: getattr(values, key) for key in _PROGRESS}
    return {
        key: value
        for key, value in known.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def log_entry(entry: LogEntry) -> Payload:
    """Dump one line of a log."""
    return _given(
        {
            "timestamp": iso(entry.timestamp),
            "level": entry.level.value,
            "message": entry.message,
            "playlist_index": entry.playlist_index,
            "playlist_entry_id": entry.playlist_entry_id,
        }
    )


def options_version(job: Snapshot) -> int | None:
    """Return the version to announce; a job without options has none to fetch."""
    return job.options_version if job.spec.options else None


def summary(counts: Summary) -> Payload:
    """Dump the counts; two states that share a word are counted together."""
    by_word: dict[str, int] = {}
    for state, number in counts.counts.items():
        if number:
            word = status_word(state)
            by_word[word] = by_word.get(word, 0) + number
    return {
        "total": counts.total,
        "active": counts.active,
        "queued": counts.queued,
        "status_counts": by_word,
    }


# -- events


def dump_event(event: Event) -> bytes:
    """Dump one event as the text of one socket message."""
    match event:
        case JobChanged(job, reason, at):
            return _message("update", {**job_list(job), **_why(reason, at)})
        case JobDeleted(job_id, previous, at):
            word = status_word(previous)
            gone = {"job_id": job_id, "status": "deleted", "previous_status": word}
            return _message("update", {**gone, **_why(Reason.DELETED, at)})
        case OverviewChanged(counts, at):
            return _message("overview", {"summary": summary(counts), "timestamp": iso(at)})
        case ProgressChanged(job):
            return _message("progress", _progress_event(job))
        case Logged(job_id, entry):
            return _message("log", {"job_id": job_id, **log_entry(entry)})
        case _:  # InfoChanged, or mypy would object here
            return _message("global_info", _info_event(event))


def initial_overview(now: datetime) -> bytes:
    """Dump the first message of the overview socket: the client asks for the list then."""
    return _message("update", {"job_id": None, **_why(Reason.INITIAL_SYNC, now)})


def initial_job(job: Snapshot, now: datetime) -> list[bytes]:
    """Dump the first messages of a job socket: how it stands, and how far it is."""
    why = _why(Reason.INITIAL_SYNC, now)
    stands = {
        "job_id": job.job_id,
        "status": status_word(job.state),
        "is_terminal": job.terminal,
        **_given({"error": job.error}),
    }
    messages = [_message("update", {**stands, **why})]
    if progress(job.progress):
        messages.append(_message("progress", {**_progress_event(job), **why}))
    return messages


def error_event(payload: Mapping[str, object]) -> bytes:
    """Dump an `error` message."""
    return _message("error", payload)


# -- answers


def health(
    *,
    service: str,
    description: str,
    metadata: Mapping[str, object],
    addresses: Mapping[str, str],
    timeout_seconds: int,
    counts: Summary,
    now: datetime,
) -> Payload:
    """Dump the health document; `service` is what a launcher compares."""
    return {
        "service": service,
        "time": iso(now),
        "overview": summary(counts),
        "description": description,
        "metadata": dict(metadata),
        **addresses,
        "timeout_seconds": timeout_seconds,
    }


def diagnostics(
    found: Diagnostics,
    *,
    slots: int,
    slots_used: int,
    counts: Summary,
    subscribers: int,
    sockets: int,
    now: datetime,
) -> Payload:
    """Dump what a server says of itself to whoever has its token."""
    engine, ffmpeg = found.engine, found.ffmpeg
    return {
        "time": iso(now),
        "version": found.version,
        "yt_dlp": found.yt_dlp,
        "python": found.python,
        "platform": found.platform,
        "engine": {
            "kind": engine.kind,
            "reason": engine.reason,
            "running": engine.running,
            "workers": engine.workers,
            "idle": engine.idle,
            "abandoned": engine.abandoned,
        },
        "ffmpeg": {
            "source": ffmpeg.source,
            "version": ffmpeg.version,
            "has_ffprobe": ffmpeg.has_ffprobe,
        },
        "slots": {"total": slots, "used": slots_used},
        "jobs": summary(counts),
        "sockets": {"open": sockets, "subscribed": subscribers},
    }


def addresses(
    *, scheme: str, host: str, port: int, base: str, api: str, overview: str, job: str
) -> dict[str, str]:
    """Return the addresses that the health document advertises, from their configured parts."""
    secure = scheme == "https"
    name = f"[{host}]" if ":" in host else host
    place = name if port == (443 if secure else 80) else f"{name}:{port}"
    http, ws = f"{scheme}://{place}", f"{'wss' if secure else 'ws'}://{place}"
    return {
        "base_url": http + (_joined(base) or "/"),
        "api_url": f"{http}{_joined(base, api)}/",
        "overview_socket_url": ws + _joined(base, overview),
        "job_socket_base_url": f"{ws}{_joined(base, job)}/",
    }


def options_answer(job: Snapshot, query: StoredQuery, entry: Entry) -> Payload:
    """Dump a job's options, or that they have not changed since the client's version."""
    version = options_version(job)
    unchanged = version is not None and query.since == version
    answer = _stored(job, version, query, entry, unchanged=unchanged)
    if query.detail or not unchanged:
        answer["options"] = job_options.mask(job.spec.options)
    return answer


def logs_answer(
    job: Snapshot, logs: Sequence[LogEntry], query: StoredQuery, entry: Entry
) -> Payload:
    """Dump a job's log, or that it has not changed since the client's version.

    With lines in it the answer is always `full`: to any other kind a client
    appends, and would show every line twice.
    """
    lines = [line for line in logs if not entry.given or _is_of(line, entry)]
    if query.limit is not None:
        lines = lines[-query.limit :]
    version = job.logs_version
    unchanged = version is not None and query.since == version and not query.detail
    answer = _stored(job, version, query, entry, unchanged=unchanged)
    answer["count"] = len(lines)
    if not unchanged:
        answer["logs"] = [log_entry(line) for line in lines]
    return answer


def command_answer(job_id: str, word: str, reason: Reason | None = None) -> Payload:
    """Dump what a command came to."""
    return _given({"job_id": job_id, "status": word, "reason": reason and reason.value})


def selection_locked(job: Snapshot) -> Payload:
    """Dump that there is nothing to select, and which entries the job takes instead."""
    given = job.spec.options.get("playlist_items")
    return {
        "job_id": job.job_id,
        "status": status_word(job.state),
        "selection": given if isinstance(given, str) else "all",
        "reason": "playlist_selection_locked",
    }


def selection_refused(job: Snapshot) -> Payload:
    """Dump that a job at its end takes no selection."""
    refused = {"job_id": job.job_id, "status": status_word(job.state), "reason": "job_terminated"}
    return {**error(CommandRefused.code), **refused}


def not_a_playlist(job_id: str) -> Payload:
    """Dump that a command for entries met a job without any."""
    return {"job_id": job_id, "status": "not_playlist", "reason": "job_is_not_playlist"}


def error(code: str, detail: Detail | None = None) -> Payload:
    """Dump a refusal: a stable code, and what may be shown beside it."""
    return _given({"error": code, "detail": detail})


def _stored(
    job: Snapshot, version: int | None, query: StoredQuery, entry: Entry, *, unchanged: bool
) -> Payload:
    kind = "noop" if unchanged else "full"
    answer: Payload = {
        "job_id": job.job_id,
        "version": version,
        "delta": {"type": kind, "version": version, "since": query.since},
    }
    if version is not None:
        answer["external"] = True
    if entry.given:
        answer["entry"] = _given(
            {
                "playlist_entry_id": entry.entry_id,
                "playlist_index": entry.index,
                "requested_job_id": entry.requested,
            }
        )
    return answer


def _is_of(line: LogEntry, entry: Entry) -> bool:
    same_id = entry.entry_id is not None and line.playlist_entry_id == entry.entry_id
    return same_id or (entry.index is not None and line.playlist_index == entry.index)


def _message(event: str, payload: Mapping[str, object]) -> bytes:
    return dumps({"event": event, "payload": payload})


def _why(reason: Reason, at: datetime) -> Payload:
    return {"reason": reason.value, "timestamp": iso(at)}


def _progress_event(job: Snapshot) -> Payload:
    known = progress(job.progress)
    known.pop("state", None)
    return {"job_id": job.job_id, **known}


def _info_event(event: InfoChanged) -> Payload:
    job = event.job
    return _given(
        {
            "job_id": job.job_id,
            "status": status_word(job.state),
            "kind": job.kind.value,
            "is_playlist": job.kind is JobKind.PLAYLIST,
            "selection_required": _needs_selection(job),
            "preview": _preview(job),
            "playlist": _metadata(job).get("playlist"),
            "timestamp": iso(event.at),
        }
    )


def _times(job: Snapshot) -> dict[str, str | None]:
    return {
        "created_at": iso(job.created_at),
        "started_at": None if job.started_at is None else iso(job.started_at),
        "finished_at": None if job.finished_at is None else iso(job.finished_at),
    }


def _status_hint(job: Snapshot) -> str | None:
    if job.state is JobState.SELECTING:
        return "waiting_user_confirmation"
    return "running_with_errors" if job.has_error_logs and not job.terminal else None


def _needs_selection(job: Snapshot) -> bool:
    asked = job.metadata.get("requires_playlist_selection") is True
    return job.state is JobState.SELECTING or (asked and not job.terminal)


def _metadata(job: Snapshot) -> Payload:
    """Return the public view: always with the flag that opens the selection dialog, or not."""
    metadata = _given(job.metadata)
    metadata.pop("preview", None)
    preview = _preview(job)
    if preview:
        metadata |= {key: preview[key] for key in _SITE_KNOWS if key in preview}
        metadata["preview"] = preview
    playlist = _object(metadata.pop("playlist", None))
    if playlist:
        metadata["playlist"] = _metadata_playlist(playlist, job)
    metadata["requires_playlist_selection"] = _needs_selection(job)
    return metadata


def _preview(job: Snapshot) -> Payload | None:
    """Return the preview without its playlist: thousands of entries that no client reads there."""
    known = _object(job.preview) or _object(job.metadata.get("preview"))
    return {key: value for key, value in known.items() if key != "playlist"} or None


def _metadata_playlist(playlist: Mapping[str, Any], job: Snapshot) -> Payload:
    shown = {key: value for key, value in playlist.items() if key not in _PLAYLIST_BULK}
    if not _needs_selection(job):
        shown.pop("entries", None)
        shown["entries_external"] = True
    return dict.fromkeys(_PLAYLIST_FLAGS, False) | shown


def _object(value: object) -> Mapping[str, Any]:
    """Take an object as such; an older state file may hold anything in its place."""
    return value if isinstance(value, Mapping) else {}


def _joined(*paths: str) -> str:
    words = [word.strip() for path in paths for word in path.split("/")]
    return "".join(f"/{word}" for word in words if word)


def _given(members: Mapping[str, Any]) -> Payload:
    return {key: value for key, value in members.items() if value is not None}
