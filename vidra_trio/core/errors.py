"""Everything that can be refused, in one tree.

1. Each class carries the wire's `code` and a `status_hint`; one transport
   (web/errors.py) turns them into a response, nobody else does.
2. The message is for the person who reads it: what was asked, and what was
   true instead. The facts are attributes too.
3. `detail` is what a client may show beside the code; None means nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vidra_trio.core.states import Command, JobEvent, JobState

    Detail = str | Mapping[str, "Detail"] | Sequence["Detail"]


class VidraError(Exception):
    """The root of everything this package raises on purpose."""

    code: ClassVar[str] = "internal_error"
    status_hint: ClassVar[int] = 500

    @property
    def detail(self) -> Detail | None:
        """What the client is told beside `code`."""
        return str(self) or None


class InvalidRequest(VidraError):
    """The body or the query is not what the endpoint takes."""

    code = "invalid_json_payload"
    status_hint = 400

    def __init__(self, detail: Detail) -> None:
        super().__init__(detail if isinstance(detail, str) else repr(detail))
        self._detail = detail

    @property
    def detail(self) -> Detail:
        """The message, or a mapping field -> messages."""
        return self._detail


class InvalidQuery(VidraError):
    """A query parameter is wrong; each endpoint names its own code."""

    status_hint = 400

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code  # type: ignore[misc]  # one class for a family of six codes


class UrlsRequired(VidraError):
    """A create without a single usable URL."""

    code = "urls_required"
    status_hint = 400

    def __init__(self) -> None:
        super().__init__("urls: at least one URL is needed")


class UrlNotAllowed(VidraError):
    """A URL that this server never fetches (not http or https, no host, option-like...)."""

    code = "url_not_allowed"
    status_hint = 400

    def __init__(self, url: str, why: str, *, index: int | None = None) -> None:
        where = "urls" if index is None else f"urls[{index}]"
        super().__init__(f"{where}: {why}: {url[:200]!r}")
        self.url = url
        self.why = why
        self.index = index


class OptionNotAllowed(VidraError):
    """An option that no client may set, or a path outside what is allowed."""

    code = "option_not_allowed"
    status_hint = 400

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"options.{key}: {why}")
        self.key = key


class JobNotFound(VidraError):
    """No job has this id."""

    code = "job_not_found"
    status_hint = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id[:80]!r}")
        self.job_id = job_id


class NoPlaylist(VidraError):
    """The job has no playlist to show; each endpoint names its own code."""

    status_hint = 404

    def __init__(self, code: str, job_id: str) -> None:
        super().__init__(f"job {job_id!r} has no playlist")
        self.code = code  # type: ignore[misc]  # one class for a family of two codes
        self.job_id = job_id


class CommandRefused(VidraError):
    """The job is not in a state where this command means anything."""

    code = "job_status_conflict"
    status_hint = 409

    def __init__(self, state: JobState, command: Command) -> None:
        super().__init__(f"cannot {command} a job that is {state}")
        self.state = state
        self.command = command


class DeleteRefused(CommandRefused):
    """Only a job at its end can be deleted."""

    code = "job_delete_conflict_active"


class IllegalTransition(VidraError):
    """A defect of ours: an event that the job's state does not know."""

    def __init__(self, state: JobState, event: JobEvent) -> None:
        super().__init__(f"{event} means nothing to a job that is {state}")
        self.state = state
        self.event = event


class TooManyJobs(VidraError):
    """The server holds as many unsettled jobs as it may."""

    code = "too_many_jobs"
    status_hint = 429

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} jobs are waiting or running already")
        self.limit = limit


class StorageFailed(VidraError):
    """The change could not be made durable."""

    code = "storage_failed"
    status_hint = 507

    def __init__(self, why: str) -> None:
        super().__init__(f"the change was not stored: {why}")


class ShuttingDown(VidraError):
    """The server no longer takes work."""

    code = "shutting_down"
    status_hint = 503

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class ConfigurationError(VidraError):
    """A setting is missing or wrong; `str()` is the one line a user sees (exit code 2)."""

    code = "configuration_error"

    def __init__(self, variable: str, expected: str) -> None:
        super().__init__(f"{variable}: {expected}")
        self.variable = variable


class DataDirInUse(VidraError):
    """Another server owns the data directory (exit code 75)."""

    code = "data_dir_in_use"

    def __init__(self, path: str) -> None:
        super().__init__(f"another server is using {path}")
        self.path = path


class PortBusy(VidraError):
    """The configured address cannot be bound (exit code 3)."""

    code = "port_busy"

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {why}")
        self.host = host
        self.port = port
