"""What one slow reader is owed, in the order in which it happened.

1. A *fact* (no key) stays until it is taken. A *state* (a key) is replaced by a
   newer one of its key, and the newer one goes to the end.
2. So what is taken is always a subsequence of what was put: a state can lose its
   place only to a newer state, never move past a fact by itself. No progress is
   taken after the end of its job unless it was put after it.
3. States are bounded by the number of keys, facts by the budget: at most the
   budget and the one fact that passed it. A single fact larger than the whole
   budget is therefore kept; a reader that waits a moment may get it.
4. What was taken is owed until it is settled: it still lies in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T")


class Outbox(Generic[T]):
    """The messages one reader has not got yet; true while any waits to be taken."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        # Not a dict: taking from the front of one costs more with each entry taken before.
        self._waiting: OrderedDict[Hashable, tuple[T, int, bool]] = OrderedDict()
        self._waiting_bytes = 0
        self._fact_bytes = 0  # waiting and taken
        self._taken_bytes = 0
        self._taken_fact_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def owed(self) -> int:
        """Bytes that wait, or were taken and are not settled."""
        return self._waiting_bytes + self._taken_bytes

    @property
    def overdrawn(self) -> bool:
        """The facts alone have passed the budget: not one more may be put."""
        return self._fact_bytes > self._budget

    def put(self, message: T, size: int, key: Hashable | None = None) -> bool:
        """Add a message at the end; return whether it replaced an older state.

        Takes whatever it is given: the caller asks `overdrawn` before it puts a fact.
        """
        fact = key is None
        slot = object() if fact else key
        replaced = self._waiting.pop(slot, None)
        if replaced is not None:
            self._waiting_bytes -= replaced[1]
        self._waiting[slot] = (message, size, fact)
        self._waiting_bytes += size
        if fact:
            self._fact_bytes += size
        return replaced is not None

    def take(self, limit: int) -> list[T]:
        """Take messages from the front, `limit` bytes of them or a single larger one."""
        taken: list[T] = []
        while self._waiting:
            slot = next(iter(self._waiting))
            message, size, fact = self._waiting[slot]
            if taken and self._taken_bytes + size > limit:
                break
            del self._waiting[slot]
            taken.append(message)
            self._waiting_bytes -= size
            self._taken_bytes += size
            if fact:
                self._taken_fact_bytes += size
        return taken

    def settle(self) -> None:
        """Forget what was taken: the reader has it. Twice, or with nothing taken, is fine."""
        self._fact_bytes -= self._taken_fact_bytes
        self._taken_bytes = self._taken_fact_bytes = 0

    def clear(self) -> int:
        """Drop everything; return how many messages nobody will get."""
        dropped = len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = self._fact_bytes = 0
        self._taken_bytes = self._taken_fact_bytes = 0
        return dropped
