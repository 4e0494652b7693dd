"""A part is continued only if the site still has the file that it is a part of.

yt-dlp asks for "the rest from byte N" and appends what comes, whatever it is. So:

1. What a site says about a file (ETag, Last-Modified, total size) is kept in the work
   directory from the first byte on, and every answer that continues is held against
   it. Anything that both name and that differs means another file, a weak ETag
   included: starting over costs time, a splice costs the file.
2. Another file, a part that nobody vouches for, an answer that is not the piece that
   was asked for or that is compressed (its offsets count other bytes): the part goes,
   and the download starts over in the same run. First as before; after that in one
   piece, because with `http_chunk_size` each chunk may come from another mirror that
   names the same file differently. Ten times at most.
3. yt-dlp takes an answer without Content-Range for the whole file, and is right,
   unless it is between two chunks: then its file is open, and it would append. And it
   takes a chunk that does not say how long the file is for the last one.
4. `If-Range` is not sent. It would save one request when a file did change; but the
   comparison has to be made anyway (a weak ETag is not allowed in it, many sites do
   not know it), and between two chunks its 200 comes at the wrong moment (3).
5. A stream that came in whole stays, also when the site changes before the next one
   of the same item is fetched (a video, then its audio): each is whole in itself, and
   no answer says that two URLs belong together. Fragments are not compared one by
   one; a playlist of another length starts over (resume.py).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from vidra_trio.engine.errors import ItemFailed

if TYPE_CHECKING:
    from collections.abc import MutableMapping

MEMORY: Final = "validators"
"""In the work directory: what the site said about each file, by its path from there."""

MAX_RESTARTS: Final = 10

_START: Final = re.compile(r"bytes[ =](\d+)-")
_TOTAL: Final = re.compile(r"/(\d+)\s*$")


class Headers(Protocol):
    """An answer's headers; names in any case."""

    def get(self, name: str, /) -> str | None:
        """Return a header's value."""


class StartOver(Exception):  # not an end: a turn
    """What came does not continue what is there; says why."""


class Validators(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a site says about one version of a file; None is "it does not say"."""

    etag: str | None = None
    modified: str | None = None
    size: int | None = None

    def difference(self, now: Validators) -> str | None:
        """Return what tells `now` from this one: the name of the first that differs."""
        for name in self.__struct_fields__:
            before, after = getattr(self, name), getattr(now, name)
            if before is not None and after is not None and before != after:
                return name
        return None


def read(headers: Headers) -> Validators:
    """Return what an answer says about the file that it is (a piece of)."""
    return Validators(
        etag=_word(headers, "ETag").removeprefix("W/") or None,
        modified=_word(headers, "Last-Modified") or None,
        size=_size(headers),
    )


def _word(headers: Headers, name: str) -> str:
    # Bytes that are no ASCII come in disguises that JSON does not know.
    return str(headers.get(name) or "").strip().encode("ascii", "backslashreplace").decode()


def _size(headers: Headers) -> int | None:
    if piece := headers.get("Content-Range"):
        total = _TOTAL.search(piece)
        return int(total[1]) if total else None
    length = _word(headers, "Content-Length")
    return int(length) if length.isdecimal() and not _compressed(headers) else None


def _compressed(headers: Headers) -> bool:
    return _word(headers, "Content-Encoding").lower() not in ("", "identity")


def _start(value: str | None) -> int | None:
    match = _START.search(value or "")
    return int(match[1]) if match else None


class Memory:
    """What sites said about the files of one work directory; replaced, never rewritten."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._path = work / MEMORY

    def recall(self, file: str) -> Validators | None:
        """Return what was said about `file`; None when it is not known, or not any more."""
        return self._all().get(self._name(file))

    def remember(self, file: str, said: Validators | None) -> None:
        """Keep what was said about `file`; None forgets it."""
        known, name = self._all(), self._name(file)
        if known.pop(name, None) != said:
            fresh = self._path.with_name(f"{MEMORY}.new")
            fresh.write_bytes(msgspec.json.encode(known if said is None else {**known, name: said}))
            fresh.replace(self._path)

    def _name(self, file: str) -> str:
        # Below the work directory, which may have another name the next time; and as JSON
        # can spell it: a file's name may have bytes that are no UTF-8.
        path = Path(file)
        name = str(path.relative_to(self._work) if path.is_relative_to(self._work) else path)
        return name.encode("utf-8", "backslashreplace").decode()

    def _all(self) -> dict[str, Validators]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Validators])
        except (OSError, msgspec.MsgspecError):  # not there yet, or torn by a power cut
            return {}


class Transfer:
    """One direct download: sees every request and every answer of its file."""

    def __init__(self, work: Path, file: str, *, own: str | None, chunked: bool) -> None:
        """Follow `file`; `own` is the Range that the format itself has, if any."""
        self._memory = Memory(work)
        self._file = file
        self._own = own
        self._first = _start(own) or 0
        self._chunked = chunked
        self._in_one_piece = False
        self._restarts = 0

    def ask(self, headers: MutableMapping[str, str]) -> None:
        """Look at a request before it is sent: in one piece, when pieces did not fit."""
        if self._in_one_piece and not self._continues(headers):
            self._forget_range(headers)

    def take(
        self, headers: MutableMapping[str, str], answer: Headers, *, partial: bool = True
    ) -> None:
        """Look at the answer to a request with `headers`; `partial` is whether it says 206.

        Raises:
            StartOver: it does not continue what is there.
        """
        piece = answer.get("Content-Range")
        if self._chunked and piece is not None and _size(answer) is None:
            self._in_one_piece = True
            raise StartOver("the site does not say how long the file is")
        if not self._continues(headers):
            self._memory.remember(self._file, read(answer))
        elif piece is None and not partial and not self._chunked:
            # The whole file: yt-dlp begins again by itself, but sends these headers again.
            self._forget_range(headers)
            self._drop()
            self._memory.remember(self._file, read(answer))
        elif _start(piece) != _start(headers.get("Range")) or _compressed(answer):
            raise StartOver("the site did not send what was asked for")
        else:
            self._compare(read(answer))

    def refuse(self, headers: MutableMapping[str, str]) -> None:
        """Look at a request that was answered 416.

        Raises:
            StartOver: the file ends before what is there does.
        """
        if self._continues(headers):
            raise StartOver("the file at the site is shorter now")

    def restart(self) -> None:
        """Make ready to start over.

        Raises:
            ItemFailed: that was often enough.
        """
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise ItemFailed("remote_changed", "the file at the site keeps changing")
        self._in_one_piece = self._in_one_piece or self._restarts > 1
        self._drop()

    def _compare(self, now: Validators) -> None:
        known = self._memory.recall(self._file)
        if known is None:
            raise StartOver("nothing is known about the part that is there")
        if name := known.difference(now):
            raise StartOver(f"the file at the site is another one now ({_NAMES[name]})")

    def _continues(self, headers: MutableMapping[str, str]) -> bool:
        return (_start(headers.get("Range")) or 0) > self._first

    def _forget_range(self, headers: MutableMapping[str, str]) -> None:
        headers.pop("Range", None)
        if self._own is not None:
            headers["Range"] = self._own

    def _drop(self) -> None:
        """Remove the part, and only then what is known about it."""
        Path(f"{self._file}.part").unlink(missing_ok=True)
        self._memory.remember(self._file, None)


_NAMES: Final = {"etag": "ETag", "modified": "Last-Modified", "size": "size"}
