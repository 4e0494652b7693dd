"""What clients send, parsed once: bodies and queries become values or refusals.

1. The order in which a body is looked at is part of the contract: JSON, then the
   types of its members, then whether there is a URL, then what the URLs and the
   options ask for.
2. Multi-word members are accepted in camelCase and in snake_case.
3. After this module nobody asks what type something has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from vidra_trio.core import options as job_options
from vidra_trio.core.errors import InvalidQuery, InvalidRequest, UrlNotAllowed, UrlsRequired
from vidra_trio.core.job import JobSpec
from vidra_trio.wire import fields
from vidra_trio.wire.fields import NOT_A_STRING
from vidra_trio.wire.metadata import parse_metadata
from vidra_trio.wire.urls import objection
from vidra_trio.wire.words import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vidra_trio.core.paths import PathRules
    from vidra_trio.wire.urls import OwnAddress

MAX_URLS: Final = 1000
MAX_JOB_IDS: Final = 10_000
"""As many as may wait or run. A body full of ids would hold everybody else up for seconds."""

MAX_OPTIONS_BYTES: Final = 64 * 1024
MAX_OWNER: Final = 256
"""Characters; an owner is a device's or a user's name and stands in every list."""

DOWNLOAD_ACTIONS: Final = frozenset({"extraer_informacion", "descargar", "descargar_playlist"})


@dataclass(frozen=True, slots=True)
class Entry:
    """What a path and a query address: a job, perhaps one entry of it."""

    job_id: str
    requested: str  # the path's own words
    entry_id: str | None = None
    index: int | None = None

    @property
    def given(self) -> bool:
        """An entry was addressed, not only the job."""
        return self.entry_id is not None or self.index is not None


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """How options or logs are asked for: since which version, in full, how many lines."""

    since: int | None = None
    detail: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class BulkCancel:
    """Which jobs to cancel: those named, or all (of one owner)."""

    job_ids: tuple[str, ...] = ()
    everything: bool = False
    owner: str | None = None


class BadDownloadRequest(Exception):
    """A message that the downloads socket cannot take; `payload` says why in its own form."""

    def __init__(self, message: str, **more: object) -> None:
        super().__init__(message)
        self.payload = {"message": message, **more}


def parse_json(body: bytes) -> dict[str, Any]:
    """Read a body that must be a JSON object.

    Raises:
        InvalidRequest: it is not.
    """
    try:
        value = loads(body)
    except ValueError:
        raise InvalidRequest({"json": "Invalid JSON payload"}) from None
    if not isinstance(value, dict):
        raise InvalidRequest({"json": "JSON object required"})
    return value


def parse_create(
    body: Mapping[str, Any], rules: PathRules, description: str, *, own: OwnAddress | None = None
) -> JobSpec:
    """Read a create body.

    `description` is this server's own, which clients send back; `own` is the
    address that no job may fetch from.

    Raises:
        InvalidRequest: a member of the wrong type, or too many or too large ones.
        UrlsRequired: no usable URL.
        UrlNotAllowed: a URL that is never fetched.
        OptionNotAllowed: an option that no client may set.
    """
    urls = _urls(body)
    options = _options(body.get("options"))
    metadata = parse_metadata(body.get("metadata"), description)
    _refuse_large("metadata", metadata)
    creator = _owner(body, "owner") or _owner(body, "creator")
    if not urls:
        raise UrlsRequired
    for index, url in enumerate(urls):
        why = objection(url, own)
        if why is not None:
            raise UrlNotAllowed(url, why, index=index)
    job_options.check(options, rules)
    return JobSpec(urls=tuple(urls), options=options, metadata=metadata, creator=creator)


def parse_bulk_cancel(body: Mapping[str, Any]) -> BulkCancel:
    """Read the body of the bulk cancel.

    Raises:
        InvalidRequest: a wrong type, an unknown scope, nothing to cancel or too much.
    """
    scope = fields.optional_text(body, "scope") or ""
    owner = fields.optional_text(body, "owner")
    if scope:
        if scope.lower() != "all":
            raise InvalidRequest(f"unsupported scope: {scope[:80]}")
        return BulkCancel(everything=True, owner=owner)
    key = fields.spelling(body, "jobIds", "job_ids")
    job_ids = tuple(fields.texts(key, body.get(key)))
    if not job_ids:
        raise InvalidRequest("job_ids or scope required")
    if len(job_ids) > MAX_JOB_IDS:
        raise InvalidRequest({key: [f"Longer than maximum length {MAX_JOB_IDS}."]})
    return BulkCancel(job_ids=job_ids)


def parse_entry(path_id: str, query: Mapping[str, str]) -> Entry:
    """Read which job, and which entry of it, a path and its query address.

    Query members win over the fragment after `::`.

    Raises:
        InvalidQuery: `entry_index_invalid`.
    """
    job_id, _, fragment = path_id.partition("::")
    entry_id = query.get("entry_id", "").strip() or None
    index = _index(query.get("entry_index", "").strip())
    if fragment and entry_id is None:
        number = _index_of(fragment)
        if number is None:
            entry_id = fragment
        elif index is None:
            index = number
    return Entry(job_id, path_id, entry_id, index)


def parse_options_query(query: Mapping[str, str]) -> StoredQuery:
    """Read how a job's options are asked for.

    Raises:
        InvalidQuery: `since_must_be_integer`.
    """
    return StoredQuery(since=fields.since(query), detail=fields.detail(query))


def parse_log_query(query: Mapping[str, str]) -> StoredQuery:
    """Read how a job's log is asked for.

    Raises:
        InvalidQuery: `since_must_be_integer`, `limit_must_be_integer` or
            `limit_greater_than_zero`.
    """
    since, limit = fields.since(query), fields.limit(query)
    return StoredQuery(since=since, detail=fields.detail(query), limit=limit)


def parse_download_request(message: str | bytes) -> str:
    """Read a message to the downloads socket and return its action.

    Raises:
        BadDownloadRequest: with the payload of the `error` event to answer with.
    """
    try:
        body = loads(message.encode() if isinstance(message, str) else message)
    except ValueError:
        raise BadDownloadRequest("invalid JSON payload") from None
    if not isinstance(body, dict):
        raise BadDownloadRequest("payload must be an object")
    action, errors = _action(body.get("action", body.get("accion")))
    errors |= _download_errors(body)
    if errors:
        raise BadDownloadRequest("invalid payload", errors=errors)
    return action


def _urls(body: Mapping[str, Any]) -> list[str]:
    """Return every URL of a create body; a string may hold several, one a line."""
    given = body.get("urls")
    lines = given.split("\n") if isinstance(given, str) else fields.texts("urls", given)
    url = body.get("url")
    if url is not None and not isinstance(url, str):
        raise InvalidRequest({"url": NOT_A_STRING})
    lines = [*lines, *(url or "").split("\n")]
    urls = [line.strip() for line in lines if line.strip()]
    if len(urls) > MAX_URLS:
        raise InvalidRequest({"urls": [f"Longer than maximum length {MAX_URLS}."]})
    return urls


def _options(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest({"options": {"_schema": ["Invalid input type."]}})
    _refuse_large("options", given)
    return job_options.clean(given)


def _refuse_large(key: str, value: object) -> None:
    if len(dumps(value)) > MAX_OPTIONS_BYTES:
        raise InvalidRequest({key: {"_schema": [f"Larger than {MAX_OPTIONS_BYTES} bytes."]}})


def _owner(body: Mapping[str, Any], key: str) -> str | None:
    text = fields.optional_text(body, key)
    if text is not None and len(text) > MAX_OWNER:
        raise InvalidRequest({key: [f"Longer than maximum length {MAX_OWNER}."]})
    return text


def _index(text: str) -> int | None:
    """Read `entry_index`; entries count from 1, what is below addresses none."""
    if not text:
        return None
    if not fields.INTEGER.fullmatch(text):
        raise InvalidQuery("entry_index_invalid", "entry_index: an integer is needed")
    return int(text) if int(text) > 0 else None


def _index_of(fragment: str) -> int | None:
    digits = fragment.removeprefix("entry-")
    if not re.fullmatch(r"[0-9]{1,18}", digits) or int(digits) == 0:
        return None
    return int(digits)


def _action(given: object) -> tuple[str, dict[str, list[str]]]:
    if given is None:
        return "", {"action": ["Missing data for required field."]}
    if not isinstance(given, str):
        return "", {"action": NOT_A_STRING}
    action = given.strip().lower()
    if action not in DOWNLOAD_ACTIONS:
        return "", {"action": [f"unknown action '{action[:80]}'"]}
    return action, {}


def _download_errors(body: Mapping[str, Any]) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = {}
    try:
        if not _urls(body):
            errors["urls"] = ["At least one URL is required"]
    except InvalidRequest as error:
        # What `_urls` raises is always a field and its messages.
        errors |= cast("dict[str, list[str]]", error.detail)
    if not isinstance(body.get("options", {}), dict | None):
        errors["options"] = ["Not a valid mapping type."]
    if not isinstance(body.get("download", False), bool):
        errors["download"] = ["Not a valid boolean."]
    return errors
