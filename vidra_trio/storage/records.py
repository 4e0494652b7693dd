"""The file forms: a job as `download_state.json` and its side files hold it.

1. Pure: values in, JSON values out, and back. Time comes in as an argument.
2. What the older reader knows is spelt as it expects; what only we know lies in
   one member, `vidra_trio`; what nobody here knows is kept in `Snapshot.extra`
   and written back where it was.
3. Reading is lenient member by member: a wrong type costs the member. Only an
   entry without a usable id or URL is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import lifecycle
from vidra_trio.core.job import JOB_ID, LOG_LINES, JobSpec, LogEntry, Snapshot
from vidra_trio.core.progress import Progress
from vidra_trio.core.states import JobKind, JobState, Level
from vidra_trio.wire.words import iso, parse_iso, parse_status, status_word

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime


OURS: Final = "vidra_trio"

_TEXTS: Final = ("status", "stage", "stage_name", "message", "filename", "tmpfilename", "state")
_FLOATS: Final = ("percent", "stage_percent", "speed", "elapsed")
_SIZES: Final = ("downloaded_bytes", "total_bytes", "eta")  # integers here, floats in the file
_COUNTS: Final = ("current_item", "total_items")
_DERIVED: Final = ("remaining_bytes",)
_PROGRESS_KNOWN: Final = frozenset((*_TEXTS, *_FLOATS, *_SIZES, *_COUNTS, *_DERIVED))

# What a job object may hold that does not end in `extra`; the last four are read and dropped.
_KNOWN: Final = frozenset(
    {
        *("job_id", "urls", "metadata", "status", "kind", "creator", "error", "has_error_logs"),
        *("created_at", "started_at", "finished_at", "progress", "selection_required"),
        *("generated_files", "partial_files", "main_file", OURS),
        *("options_version", "options_external", "logs_version", "logs_external"),
        *("options", "logs", "resume_requested", "playlist_progress"),
    }
)
_HUGE: Final = 2**63
"""No size, rate or duration reaches it; integers in JSON have no end."""

_OURS_KNOWN: Final = frozenset(
    ("destination", "error_code", "finished_items", "metadata", "crashes")
)
_LEVELS: Final = {level.value: level for level in Level} | {
    "warn": Level.WARNING,
    "stderr": Level.ERROR,
    "critical": Level.ERROR,
}
_KINDS: Final = {kind.value: kind for kind in JobKind}


class RejectedEntry(ValueError):
    """An entry of the state file that cannot be a job; `str()` says why."""


def dump_job(snapshot: Snapshot, *, has_logs: bool) -> dict[str, Any]:
    """Spell a job for the state file."""
    spec, extra = snapshot.spec, snapshot.extra
    metadata = dict(snapshot.metadata)
    if snapshot.preview is not None:
        metadata["preview"] = snapshot.preview
    form: dict[str, Any] = {
        "job_id": snapshot.job_id,
        "urls": list(spec.urls),
        "metadata": {"requires_playlist_selection": False, **metadata},
        "status": status_word(snapshot.state),
        "kind": snapshot.kind.value,
        "creator": spec.creator,
        "created_at": iso(snapshot.created_at),
        "started_at": _iso(snapshot.started_at),
        "finished_at": _iso(snapshot.finished_at),
        "error": snapshot.error,
        "has_error_logs": snapshot.has_error_logs or None,
        "progress": {**_member(extra, "progress"), **_dump_progress(snapshot.progress)},
        "selection_required": snapshot.state is JobState.SELECTING or None,
        "generated_files": sorted(set(snapshot.generated_files)),
        "partial_files": sorted(set(snapshot.partial_files)),
        "main_file": snapshot.main_file,
        OURS: {**_member(extra, OURS), **_dump_ours(snapshot, metadata)},
        **_dump_version("options", snapshot.options_version if spec.options else None),
        **_dump_version("logs", snapshot.logs_version if has_logs else None),
    }
    written = {key: value for key, value in form.items() if value not in (None, [], {}, "")}
    kept = {key: value for key, value in extra.items() if key not in _KNOWN}
    return {**written, **kept}


def parse_job(form: Mapping[str, Any], now: datetime) -> Snapshot:
    """Read a job of the state file; its side files are not part of it.

    `form` is sound JSON; its types may be anything.

    Raises:
        RejectedEntry: it has no usable id or no usable URL.
    """
    job_id = _word(form, "job_id")
    if job_id is None or not JOB_ID.fullmatch(job_id):
        raise RejectedEntry(f"no usable job_id: {ascii(form.get('job_id'))[:80]}")
    urls = tuple(url.strip() for url in _texts(form, "urls"))
    if not urls:
        raise RejectedEntry(f"job {job_id}: no usable urls")
    ours = _member(form, OURS)
    metadata = _parse_metadata(form)
    preview = metadata.pop("preview", None)
    asked = ours.get("metadata")
    state, error = _parse_state(form)
    return Snapshot(
        job_id=job_id,
        spec=JobSpec(
            urls=urls,
            metadata=asked if isinstance(asked, dict) else _parse_metadata(form),
            creator=_text(form, "creator"),
        ),
        state=state,
        created_at=_instant(form, "created_at") or now,
        kind=_parse_kind(form),
        started_at=_instant(form, "started_at"),
        finished_at=_instant(form, "finished_at"),
        error=error,
        error_code=_text(ours, "error_code"),
        has_error_logs=form.get("has_error_logs") is True,
        progress=_parse_progress(_member(form, "progress")),
        metadata=metadata,
        preview=preview if isinstance(preview, dict) else None,
        destination=_text(ours, "destination"),
        finished_items=_indices(ours.get("finished_items")),
        generated_files=tuple(sorted(set(_texts(form, "generated_files")))),
        partial_files=tuple(sorted(set(_texts(form, "partial_files")))),
        main_file=_text(form, "main_file"),
        crashes=max(0, _integer(ours.get("crashes")) or 0),
        options_version=_integer(form.get("options_version")),
        logs_version=_integer(form.get("logs_version")),
        extra=_parse_extra(form, ours),
    )


def dump_log(logs: Sequence[LogEntry]) -> list[dict[str, Any]]:
    """Spell the newest lines of a job's log."""
    return [_dump_line(entry) for entry in logs[-LOG_LINES:]]


def parse_log(lines: object) -> tuple[LogEntry, ...]:
    """Read a job's log; a line that lacks what every line has costs itself."""
    if not isinstance(lines, list):
        return ()
    return tuple(entry for line in lines[-LOG_LINES:] if (entry := _parse_line(line)) is not None)


def parse_version(value: object) -> int | None:
    """Read the version of a side file: an integer, or text that looks like one."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    return _integer(value)


# -- writing


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)


def _dump_version(side: str, version: int | None) -> dict[str, Any]:
    return {} if version is None else {f"{side}_version": version, f"{side}_external": True}


def _dump_ours(snapshot: Snapshot, metadata: Mapping[str, Any]) -> dict[str, Any]:
    asked = snapshot.spec.metadata
    form = {
        "destination": snapshot.destination,
        "error_code": snapshot.error_code,
        "finished_items": list(snapshot.finished_items) or None,
        "crashes": snapshot.crashes or None,
        "metadata": None if asked == metadata else dict(asked),
    }
    return {key: value for key, value in form.items() if value is not None}


def _dump_progress(progress: Progress) -> dict[str, Any]:
    numbers = {key: getattr(progress, key) for key in (*_FLOATS, *_SIZES, *_DERIVED)}
    form = {
        **{key: getattr(progress, key) for key in (*_TEXTS, *_COUNTS)},
        **{key: None if value is None else float(value) for key, value in numbers.items()},
    }
    return {key: value for key, value in form.items() if value is not None}


def _dump_line(entry: LogEntry) -> dict[str, Any]:
    form = {
        "timestamp": iso(entry.timestamp),
        "level": entry.level.value,
        "message": entry.message,
        "playlist_index": entry.playlist_index,
        "playlist_entry_id": entry.playlist_entry_id,
    }
    return {key: value for key, value in form.items() if value is not None}


# -- reading


def _member(form: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = form.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _text(form: Mapping[str, Any], key: str) -> str | None:
    value = form.get(key)
    return value if isinstance(value, str) and value.strip() else None


def _word(form: Mapping[str, Any], key: str) -> str | None:
    text = _text(form, key)
    return None if text is None else text.strip()


def _texts(form: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = form.get(key)
    items = value if isinstance(value, list) else []
    return tuple(item for item in items if isinstance(item, str) and item.strip())


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _indices(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, list) else []
    return tuple(item for item in items if _integer(item) is not None and item >= 0)


def _instant(form: Mapping[str, Any], key: str) -> datetime | None:
    text = _word(form, key)
    return None if text is None else parse_iso(text)


def _parse_metadata(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known; that no selection is asked for goes without saying in memory."""
    metadata = _member(form, "metadata")
    if metadata.get("requires_playlist_selection") is False:
        del metadata["requires_playlist_selection"]
    return metadata


def _parse_kind(form: Mapping[str, Any]) -> JobKind:
    return _KINDS.get(_word(form, "kind") or "", JobKind.UNKNOWN)


def _parse_state(form: Mapping[str, Any]) -> tuple[JobState, str | None]:
    """Return the state and the error; a cancel that was asked for outranks a selection."""
    error = _text(form, "error")
    word = _word(form, "status")
    state = JobState.QUEUED if word is None else parse_status(word)
    if state is None:
        return JobState.FAILED, error or f"stored with an unknown status: {ascii(word)[:80]}"
    waiting = form.get("selection_required") is True
    if waiting and state not in lifecycle.TERMINAL and state is not JobState.CANCELLING:
        return JobState.SELECTING, error
    return state, error


def _parse_progress(form: Mapping[str, Any]) -> Progress:
    members: dict[str, Any] = {key: _raw_text(form.get(key)) for key in _TEXTS}
    members.update((key, _number(form.get(key))) for key in _FLOATS)
    members.update((key, _rounded(form.get(key))) for key in _SIZES)
    members.update((key, _integer(form.get(key))) for key in _COUNTS)
    return Progress(**members)


def _raw_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < _HUGE else None


def _rounded(value: object) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def _parse_extra(form: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what we do not know, at the three levels that we take apart."""
    progress = _member(form, "progress")
    unknown = {
        "progress": {k: v for k, v in progress.items() if k not in _PROGRESS_KNOWN},
        OURS: {k: v for k, v in ours.items() if k not in _OURS_KNOWN},
    }
    extra = {key: value for key, value in form.items() if key not in _KNOWN}
    return extra | {key: value for key, value in unknown.items() if value}


def _parse_line(line: object) -> LogEntry | None:
    if not isinstance(line, dict):
        return None
    moment, word, message = (
        _instant(line, "timestamp"),
        _word(line, "level"),
        _text(line, "message"),
    )
    if moment is None or word is None or message is None:
        return None
    return LogEntry(
        moment,
        _parse_level(word.lower()),
        message,
        playlist_index=_integer(line.get("playlist_index")),
        playlist_entry_id=_text(line, "playlist_entry_id"),
    )


def _parse_level(word: str) -> Level:
    return _LEVELS.get(word, Level.INFO)
