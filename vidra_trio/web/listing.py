"""The list of jobs, in slices: a long history must not hold everybody else up.

Most of a long list has not changed since it was asked for last, so the JSON of jobs
at their end is kept, for as long as they are as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from vidra_trio.core import lifecycle
from vidra_trio.wire import payloads
from vidra_trio.wire.listing import cursor
from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vidra_trio.core.job import Snapshot
    from vidra_trio.wire.listing import ListQuery

SLICE: Final = 100
"""Jobs looked at, or dumped, between two chances for everybody else: about 4 ms."""


class Listing:
    """The jobs of a list as JSON; remembers those that will hardly change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Snapshot, bytes]] = {}

    async def page(
        self, jobs: Sequence[Snapshot], wanted: ListQuery
    ) -> tuple[list[bytes], str | None]:
        """Return those of `jobs`, oldest first, that are wanted, and where to go on.

        The cursor is None when nothing is left.
        """
        self._forget_others(jobs)
        lines: list[bytes] = []
        last: Snapshot | None = None
        for index in range(wanted.start(jobs), len(jobs)):
            job = jobs[index]
            if wanted.matches(job):
                if last is not None and len(lines) == wanted.limit:
                    return lines, cursor(last)
                last = job
                lines.append(self._line(job))
            if index % SLICE == 0:
                await trio.lowlevel.checkpoint()
        return lines, None

    def _line(self, job: Snapshot) -> bytes:
        known = self._known.get(job.job_id)
        if known is not None and known[0] is job:
            return known[1]
        line = dumps(payloads.job_list(job))
        if job.state in lifecycle.SETTLED:
            self._known[job.job_id] = (job, line)
        return line

    def _forget_others(self, jobs: Sequence[Snapshot]) -> None:
        """Forget jobs that are no more, when there are many of them."""
        if len(self._known) > 2 * len(jobs) + SLICE:
            there = {job.job_id for job in jobs}
            self._known = {i: line for i, line in self._known.items() if i in there}
