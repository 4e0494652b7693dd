"""A Trio loop that several tests share, because what runs in it is slow to start."""

from __future__ import annotations

import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Loop(Generic[T]):
    """A loop in a thread of its own, and what was opened in it."""

    opened: T
    token: trio.lowlevel.TrioToken

    def run(self, function: Callable[..., Awaitable[R]], *arguments: object) -> R:
        """Run an async function in the loop; blocks until it returns or raises."""
        return trio.from_thread.run(function, *arguments, trio_token=self.token)


@contextlib.contextmanager
def open_loop(open_it: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[Loop[T]]:
    """Keep `async with open_it()` open in a loop of its own for the length of the block."""
    opened: queue.SimpleQueue[tuple[T, trio.lowlevel.TrioToken, trio.Event] | BaseException]
    opened = queue.SimpleQueue()

    async def main() -> None:
        closing = trio.Event()
        async with open_it() as found:
            opened.put((found, trio.lowlevel.current_trio_token(), closing))
            await closing.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:  # noqa: BLE001 - it is the opener's to raise
            opened.put(error)

    thread = threading.Thread(target=run, name="shared loop")
    thread.start()
    first = opened.get()
    if isinstance(first, BaseException):
        thread.join()
        raise first
    found, token, closing = first
    try:
        yield Loop(found, token)
    finally:
        token.run_sync_soon(closing.set)
        thread.join()
        with contextlib.suppress(queue.Empty):
            failure = opened.get_nowait()
            assert isinstance(failure, BaseException)
            raise failure
