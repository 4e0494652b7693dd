"""Which jobs a list shows: what the query says, and whether a job is meant by it.

A page is what is older than a cursor is not: a cursor names the last job of the page
before, and when that one was made. So a page misses nobody when jobs come or go
meanwhile; the named one may itself be gone by then.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from vidra_trio.core.errors import InvalidQuery
from vidra_trio.core.job import JOB_ID
from vidra_trio.wire import fields
from vidra_trio.wire.words import status_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from vidra_trio.core.job import Snapshot

_CURSOR: Final = re.compile(f"(-?[0-9]{{1,18}})-({JOB_ID.pattern})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What is asked for; an empty member asks for nothing in particular."""

    statuses: frozenset[str] = frozenset()
    kind: str = ""
    owner: str = ""
    text: str = ""
    limit: int | None = None
    after: tuple[datetime, str] | None = None

    def matches(self, job: Snapshot) -> bool:
        """Return whether `job` is one of those that are meant."""
        return (
            (not self.statuses or status_word(job.state) in self.statuses)
            and (not self.kind or job.kind.value == self.kind)
            and (not self.owner or job.spec.creator == self.owner)
            and (not self.text or any(self.text in one.lower() for one in _texts(job)))
        )

    def start(self, jobs: Sequence[Snapshot]) -> int:
        """Return where in `jobs`, oldest first, the page begins."""
        if self.after is None:
            return 0
        moment, job_id = self.after
        first = bisect_left(jobs, moment, key=lambda job: job.created_at)
        for index in range(first, len(jobs)):
            if jobs[index].created_at != moment:
                break
            if jobs[index].job_id == job_id:
                return index + 1
        return first


def parse_list_query(query: Mapping[str, str]) -> ListQuery:
    """Read which jobs are asked for.

    `status` may be several by comma; words that no job has find no job. `q` is looked
    for in titles, URLs and file names, in any case.

    Raises:
        InvalidQuery: `limit_must_be_integer`, `limit_greater_than_zero` or
            `cursor_not_usable`.
    """
    words = (word.strip().lower() for word in query.get("status", "").split(","))
    return ListQuery(
        statuses=frozenset(word for word in words if word),
        kind=query.get("kind", "").strip().lower(),
        owner=query.get("owner", ""),
        text=query.get("q", "").strip().lower(),
        limit=fields.limit(query),
        after=_after(query.get("cursor", "").strip()),
    )


def cursor(last: Snapshot) -> str:
    """Return what asks for the page after the one that ends with `last`."""
    return f"{(last.created_at - _EPOCH) // timedelta(microseconds=1)}-{last.job_id}"


def _after(text: str) -> tuple[datetime, str] | None:
    if not text:
        return None
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidQuery("cursor_not_usable", "cursor: a `next_cursor` of this server is needed")
    try:
        return _EPOCH + timedelta(microseconds=int(match[1])), match[2]
    except OverflowError:
        raise InvalidQuery("cursor_not_usable", "cursor: there is no such time") from None


def _texts(job: Snapshot) -> Iterator[str]:
    yield from job.spec.urls
    for known in (job.preview or {}, job.metadata):
        title = known.get("title")
        if isinstance(title, str):
            yield title
    yield from job.generated_files
    if job.main_file is not None:
        yield job.main_file
