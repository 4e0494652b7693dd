"""A kill at every instant: before, and right after, each call that changes the disk."""

from __future__ import annotations

import builtins
import io
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

CALLS = (
    *("mkdir", "open", "rename", "replace", "link", "unlink", "remove", "rmdir"),
    *("chmod", "truncate", "utime", "copy_file_range"),
)
"""Of `os`; `open` of files counts besides."""


class Killed(BaseException):
    """What a kill -9 looks like from inside: nothing runs any more, no cleanup either."""


@dataclass
class Instants:
    """Counts the calls, and from the `at`-th on lets none through."""

    at: int | None = None
    after: bool = False  # let that one through, and be killed before the next line
    names: list[str] = field(default_factory=list)

    def wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        """Return `real`, counted."""

        @wraps(real)
        def call(*args: object, **kwargs: object) -> object:
            self.names.append(name)
            if self.at is None or len(self.names) < self.at:
                return real(*args, **kwargs)
            if self.after and len(self.names) == self.at:
                made = real(*args, **kwargs)
                if isinstance(made, io.IOBase):
                    made.close()
                elif isinstance(made, int):
                    os.close(made)
            raise Killed(name)

        return call


@contextmanager
def instants(at: int | None = None, *, after: bool = False) -> Iterator[Instants]:
    """Count the calls in the block, and be killed at the `at`-th; the block ends quietly then."""
    found = Instants(at, after)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            if hasattr(os, name):
                patch.setattr(os, name, found.wrap(name, getattr(os, name)))
        opening = found.wrap("open", io.open)
        patch.setattr(io, "open", opening)
        patch.setattr(builtins, "open", opening)
        with suppress(Killed):
            yield found


def every_instant(make: Callable[[int], T], life: Callable[[T], object]) -> Iterator[tuple[T, str]]:
    """Live `life(make(n))` for n = 0, 1, …, killed an instant later each time; yield what was made.

    Yields the call, too. Ends with the first life that nothing cut short, which is not yielded.
    """
    numbers = count()
    for at in count(1):
        for after in (False, True):
            made = make(next(numbers))
            with instants(at, after=after) as seen:
                life(made)
            if len(seen.names) < at:
                return
            yield made, f"{'after' if after else 'before'} call {at}, {seen.names[at - 1]}"
