"""How an item ends when it does not end with a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from yt_dlp.utils import ExistingVideoReached, MaxDownloadsReached, RejectedVideoReached

from vidra_trio.core.report import Failed
from vidra_trio.engine.errors import cause_of, chain

if TYPE_CHECKING:
    from vidra_trio.engine.reporting import Reporter

ENOUGH: Final = (ExistingVideoReached, MaxDownloadsReached, RejectedVideoReached)
"""Limits that the user set. Their base, DownloadCancelled, says no more than "stop": a failure."""

_SHAKEN: Final = (MemoryError, RecursionError)  # with SystemExit and its kin: replace the process


class AlreadyThere(Exception):  # a good ending
    """The file is at the destination from before and is to stay."""

    def __init__(self, relative: str) -> None:
        super().__init__(relative)
        self.relative = relative


def failed(error: BaseException, reporter: Reporter) -> Failed:
    """Return what clients are told of `error`."""
    cause = cause_of(error)
    return Failed(cause.code, reporter.last_words(cause.message), cause.retryable)


def shakes(error: BaseException) -> bool:
    """Return whether a process in which `error` was raised is in doubt."""
    odd = any(isinstance(one, _SHAKEN) or not isinstance(one, Exception) for one in chain(error))
    return odd or cause_of(error).code == "out_of_resources"
