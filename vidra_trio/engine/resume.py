"""Partial files that can be continued after a stop at *any* instant, SIGKILL included.

Stock yt-dlp's cannot (measured, kills at random instants of a run: HLS 10 of 16
files broken, with 8 connections 16 of 16, DASH 3 of 8; with this module none):

1. `.ytdl` is rewritten in place. A torn one means "start over", but the `.part`
   stays open for appending: the result is old bytes plus the whole file.
2. A kill between "append the fragment" and "write `.ytdl`" appends it twice.
3. `.ytdl` is advanced in a `finally`, also when the append itself failed.
4. A complete `.part` is answered 416, and the fallback sends the same Range
   again: a direct download fails for good, HLS skips the fragment.
5. With several connections the pool's threads move the index past what was
   appended.
6. A thumbnail, a subtitle or a converter's output that a kill cut in half has
   its final name, and is taken for a finished file.
7. A `.part` does not say what it is a part of: what fragments left is continued by
   a direct download of the same name, and the other way round; and a live stream's
   is appended to without any state, from the stream's beginning.

So: the state is replaced, not rewritten, and says how long the `.part` was; the
index comes from the fragment's own name; and `heal`, before every start, keeps
a `.part` as far as its state vouches for it, keeps finished streams that the
ledger knows unchanged, and removes everything else.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from pathlib import Path
from typing import Any, Final

from vidra_trio.engine.holes import Holes
from vidra_trio.engine.places import out_of, tmp_of
from vidra_trio.engine.removal import remove_tree

LEDGER: Final = "streams"
"""In the work directory: one line per stream that came in whole."""

REWIND: Final = 1 << 16
"""Fetched again when a direct `.part` is continued (of a short one, half): it makes
the Range satisfiable whatever was written (4), and covers a tail torn by a power cut."""

_FRAGMENT = re.compile(r"-Frag(\d+)$")
_FRAGMENT_FILE = re.compile(r"\.part-Frag\d+(?:\.part)?$")


def is_fragment(name: str) -> bool:
    """Return whether a file of this name is a fragment: of no use to a later run."""
    return _FRAGMENT_FILE.search(name) is not None


class Ledger:
    """Remembers which streams are whole, by their names below `work`; any thread may record."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._path = work / LEDGER
        self._lock = threading.Lock()

    def record(self, file: Path) -> None:
        """Vouch for `file` as it is now; a file that is not there is not vouched for."""
        try:
            mark = _mark(file)
        except OSError:
            return
        line = json.dumps([self._name(file), *mark])
        with self._lock, self._path.open("a", encoding="utf-8") as ledger:
            ledger.write(f"\n{line}\n")  # the line before may be torn: not this one with it

    def holds(self, file: Path) -> bool:
        """Return whether `file` is what was recorded, untouched."""
        try:
            mark = _mark(file)
        except OSError:
            return False
        return list(mark) in self._marks().get(self._name(file), [])

    def _name(self, file: Path) -> str:
        inside = file.is_relative_to(self._work)
        return str(file.relative_to(self._work) if inside else file)

    def _marks(self) -> dict[str, list[list[int]]]:
        marks: dict[str, list[list[int]]] = {}
        try:
            lines = self._path.read_text("utf-8", "replace").splitlines()
        except OSError:
            return marks
        for line in lines:
            try:
                name, *mark = json.loads(line)
            except ValueError:  # torn by a kill, or empty
                continue
            marks.setdefault(str(name), []).append(mark)
        return marks


def heal(work: Path) -> None:
    """Make what an earlier run left fit to be continued; nothing to do the first time."""
    remove_tree(out_of(work))
    ledger = Ledger(work)
    for folder, _, names in os.walk(tmp_of(work)):
        for file in (Path(folder, name) for name in names):
            if file.name.endswith(".part") and not file.is_symlink():
                _heal_part(file)
            elif not file.name.endswith(".ytdl") and not ledger.holds(file):
                file.unlink()
    Holes(work).forget(lambda stream: _reached(tmp_of(work) / stream, ledger))


def _reached(stream: Path, ledger: Ledger) -> float:
    """Return up to which fragment nothing of `stream` will be fetched again."""
    try:
        if ledger.holds(stream):
            return math.inf
        state = json.loads(stream.with_name(stream.name + ".ytdl").read_bytes())
        return float(state["downloader"]["current_fragment"]["index"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _heal_part(part: Path) -> None:
    if is_fragment(part.name):
        part.unlink()
        return
    state = part.with_name(part.name.removesuffix(".part") + ".ytdl")
    size = part.stat().st_size
    if not state.exists():
        os.truncate(part, size - min(REWIND, (size + 1) // 2))
        return
    vouched = _vouched(state)
    if vouched is None or vouched > size:
        part.unlink()
        state.unlink()
    else:
        os.truncate(part, vouched)


def _vouched(state: Path) -> int | None:
    try:
        size = json.loads(state.read_bytes())["downloader"]["vidra_part_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None


def _mark(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def make_way_for_direct(file: Path) -> None:
    """Remove what fragments of the same name left: a direct download would continue it (7)."""
    state = file.with_name(f"{file.name}.ytdl")
    if state.exists():
        file.with_name(f"{file.name}.part").unlink(missing_ok=True)
        state.unlink()


# What is below stands in for methods of yt-dlp's FragmentFD, or goes before them;
# ytdlp/repairs.py installs it. `fd` is the downloader, `ctx` its open dictionary.


def make_way_for_fragments(fd: Any, ctx: dict[str, Any]) -> bool:  # noqa: ANN401
    """Remove a `.part` that no state belongs to (7); return whether they begin with nothing."""
    if ctx.get("live") is not True and Path(fd.ytdl_filename(ctx["filename"])).exists():
        return False
    Path(fd.temp_name(ctx["filename"])).unlink(missing_ok=True)
    return True


def write_state(fd: Any, ctx: dict[str, Any], index: int | None = None) -> None:  # noqa: ANN401
    """Replace the `.ytdl` of a fragmented download.

    Before the `.part` is open, index 0 means that the download starts over: then
    what is there has to go, because it would be appended to (1).
    """
    stream = ctx.get("dest_stream")
    if stream is None and not ctx["fragment_index"]:
        Path(ctx["tmpfilename"]).unlink(missing_ok=True)
    state: dict[str, Any] = {
        "current_fragment": {"index": ctx["fragment_index"] if index is None else index},
        "vidra_part_size": 0 if stream is None else os.fstat(stream.fileno()).st_size,
    }
    if "extra_state" in ctx:
        state["extra_state"] = ctx["extra_state"]
    if ctx.get("fragment_count") is not None:
        state["fragment_count"] = ctx["fragment_count"]
    if ctx.get("total_frags") is not None:
        state["vidra_fragments"] = ctx["total_frags"]
    path = Path(fd.ytdl_filename(ctx["filename"]))
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps({"downloader": state}), encoding="utf-8")
    fresh.replace(path)


def of_another_length(fd: Any, ctx: dict[str, Any]) -> bool:  # noqa: ANN401
    """Return whether the `.ytdl` is about a playlist of another number of fragments."""
    try:
        state = json.loads(Path(fd.ytdl_filename(ctx["filename"])).read_bytes())
        known = state["downloader"].get("vidra_fragments")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # yt-dlp has noticed
    return known is not None and known != ctx.get("total_frags")


def append_fragment(fd: Any, ctx: dict[str, Any], content: bytes) -> None:  # noqa: ANN401
    """Append one fragment, then vouch for it; an error leaves the state where it was."""
    ctx["dest_stream"].write(content)
    ctx["dest_stream"].flush()
    fragment = ctx["fragment_filename_sanitized"]
    match = _FRAGMENT.search(fragment)
    resumable = ctx["live"] is not True and ctx["tmpfilename"] != "-"
    if resumable and not fd.params.get("_no_ytdl_file"):
        write_state(fd, ctx, int(match[1]) if match else None)
    if not fd.params.get("keep_fragments", False):
        fd.try_remove(fragment)
    del ctx["fragment_filename_sanitized"]
