"""A client of one server: HTTP through httpx, sockets through `vidra_trio.watch`.

1. The token goes to the server's own address and nowhere else: no proxy of the
   environment is asked, no redirect followed, and it is never part of a URL.
2. Every request has one deadline, from the first byte sent to the last received.
3. Answers become values here, once; members that we do not know are ignored, so
   a newer server is no trouble.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec
import trio

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.watch import (
    ClientError,
    Message,
    RemoteJob,
    RemoteProgress,
    RequestRefused,
    ServerUnreachable,
    UnexpectedAnswer,
    Watch,
    WatchEnded,
    open_watch,
    parse_refusal,
)
from vidra_trio.wire import routes
from vidra_trio.wire.words import dumps, status_word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from vidra_trio.core.states import JobState

__all__ = [
    "Client",
    "ClientError",
    "LogLine",
    "Message",
    "RemoteJob",
    "RemoteProgress",
    "RequestRefused",
    "ServerUnreachable",
    "UnexpectedAnswer",
    "Watch",
    "WatchEnded",
]

ANSWER_DEADLINE: Final = 30.0
"""Seconds for one request; what the server advertises by default. No answer waits for a site."""

TOO_SLOW: Final = 1013
"""The close code for a subscriber that was too far behind."""

Answer = TypeVar("Answer")


class LogLine(msgspec.Struct, frozen=True):
    """One line of a job's log."""

    timestamp: str
    level: str
    message: str


class _Jobs(msgspec.Struct):
    jobs: list[RemoteJob]


class _Logs(msgspec.Struct):
    logs: list[LogLine] = []


class Client:
    """One server, spoken to with one token. Use it as `async with Client(url, token)`.

    Requests may run side by side. Every method raises a `ClientError` when it
    did not get what it asked for: `RequestRefused` when the server said no,
    `ServerUnreachable` without an answer, `UnexpectedAnswer` with one that makes
    no sense. A request that is cancelled may or may not have been carried out.

    Raises:
        ConfigurationError: `url` is no http(s) address, or `token` cannot be sent.
    """

    def __init__(self, url: str, token: str, *, deadline: float = ANSWER_DEADLINE) -> None:
        self.url = _checked_url(url)
        self._token = _checked_token(token)
        self._deadline = deadline
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=[
                (b"Authorization", b"Bearer " + self._token.encode()),
                (b"Accept", b"application/json"),
            ],
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - one deadline around the whole request instead
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    async def health(self) -> dict[str, Any]:
        """Return what the server says of itself; needs no token."""
        return await self._ask("GET", routes.HEALTH, dict[str, Any])

    async def diagnostics(self) -> dict[str, Any]:
        """Return what runs there: engine and reason, versions, ffmpeg, slots, sockets."""
        return await self._ask("GET", routes.DIAGNOSTICS, dict[str, Any])

    async def create(
        self,
        urls: str | Sequence[str],
        *,
        options: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        owner: str | None = None,
    ) -> RemoteJob:
        """Start one job for `urls`. It is stored when this returns."""
        body = {
            "urls": [urls] if isinstance(urls, str) else list(urls),
            "options": options,
            "metadata": metadata,
            "owner": owner,
        }
        given = {key: value for key, value in body.items() if value is not None}
        return await self._ask("POST", routes.JOBS, RemoteJob, body=given)

    async def jobs(
        self, *, state: JobState | None = None, owner: str | None = None
    ) -> list[RemoteJob]:
        """Return all jobs, the oldest first, or those in one state or of one owner."""
        query = {} if state is None else {"status": status_word(state)}
        query |= {} if owner is None else {"owner": owner}
        return (await self._ask("GET", routes.JOBS, _Jobs, query=query)).jobs

    async def job(self, job_id: str) -> RemoteJob:
        """Return one job in full."""
        return await self._ask("GET", _path(routes.JOB, job_id), RemoteJob)

    async def cancel(self, job_id: str) -> RemoteJob:
        """Cancel a job. The answer says `cancelling` while the engine lets go.

        Harmless when it has ended. A job of which nothing was found yet is
        removed (`gone`).
        """
        return await self._ask("POST", _path(routes.CANCEL, job_id), RemoteJob)

    async def pause(self, job_id: str) -> RemoteJob:
        """Pause a job; the parts it has are kept. Refused (409) where there is nothing to pause."""
        return await self._ask("POST", _path(routes.PAUSE, job_id), RemoteJob)

    async def resume(self, job_id: str) -> RemoteJob:
        """Let a paused or failed job go on; refused (409) for others."""
        return await self._ask("POST", _path(routes.RESUME, job_id), RemoteJob)

    async def retry(self, job_id: str) -> RemoteJob:
        """Start a job over; refused (409) while it is on its way."""
        return await self._ask("POST", _path(routes.RETRY, job_id), RemoteJob)

    async def delete(self, job_id: str) -> RemoteJob:
        """Forget a job that has ended; refused (409) while it has not."""
        return await self._ask("DELETE", _path(routes.JOB, job_id), RemoteJob)

    async def logs(self, job_id: str, *, limit: int | None = None) -> list[LogLine]:
        """Return the last lines of a job's log, the oldest first."""
        query = {"detail": "true"} | ({} if limit is None else {"limit": str(limit)})
        return (await self._ask("GET", _path(routes.LOGS, job_id), _Logs, query=query)).logs

    def watch_job(self, job_id: str) -> AbstractAsyncContextManager[Watch]:
        """Open a job's socket. Its first message is how the job stands now.

        For an unknown job there is one `error` message, and the iteration ends.
        """
        return open_watch(self.url, _path(routes.WS_JOB, job_id), self._token)

    def watch_overview(self) -> AbstractAsyncContextManager[Watch]:
        """Open the overview's socket: every job's changes, without their progress.

        Its first message is an `update` without a job: now is the time for `jobs()`.
        """
        return open_watch(self.url, routes.WS_OVERVIEW, self._token)

    async def follow(
        self, job_id: str, take: Callable[[Message], object] = lambda _message: None
    ) -> RemoteJob | None:
        """Watch a job to its end and return it in full; None when it no longer exists.

        `take` gets every message of its socket, the first one being how it stands
        now. A reader too slow for the socket starts over with the present.
        """
        while True:
            try:
                return await self._follow(job_id, take)
            except WatchEnded as ended:
                if ended.close_code != TOO_SLOW:
                    raise

    async def _follow(self, job_id: str, take: Callable[[Message], object]) -> RemoteJob | None:
        async with self.watch_job(job_id) as watch:
            async for message in watch:
                take(message)
                if (job := message.job) is not None and job.ended:
                    return None if job.gone else await self.job(job_id)
        return None

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[Answer],
        *,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        response = await self._answer(method, path, body, query)
        if not response.is_success:
            raise parse_refusal(response.status_code, response.content)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.MsgspecError as error:
            raise UnexpectedAnswer(f"{method} {path}", str(error)) from None

    async def _answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        query: Mapping[str, str] | None,
    ) -> httpx.Response:
        try:
            with trio.fail_after(self._deadline):
                return await self._http.request(
                    method,
                    path,
                    params=query,
                    content=None if body is None else dumps(body),
                    headers={} if body is None else {"Content-Type": "application/json"},
                )
        except trio.TooSlowError:
            raise ServerUnreachable(self.url, f"nothing in {self._deadline:g} s") from None
        except httpx.TransportError as error:
            raise ServerUnreachable(self.url, str(error) or type(error).__name__) from None


def _path(template: str, job_id: str) -> str:
    if job_id in {"", ".", ".."}:  # these would be another path
        raise RequestRefused(404, "job_not_found", f"no job {job_id!r}")
    return template.format(job_id=quote(job_id, safe=""))


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None:
        raise ConfigurationError("url", f"expected http://host:port of a server, got {url!r}")
    return url.rstrip("/")


def _checked_token(token: str) -> str:
    if not token or not token.isprintable():
        raise ConfigurationError("token", "expected one line of printable characters")
    return token
