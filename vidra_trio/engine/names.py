"""File names that a site had a say in: kept inside, printable, short enough.

A template is filled from what a page says about itself, so a name is input. It
may cost a run its own name, never lead out of the run's private directory.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Final

from vidra_trio.engine.errors import ItemFailed

MAX_BYTES: Final = 255
"""What one path component may have on every common file system."""

RESERVED: Final = 72
"""Kept free for what a run appends: `.f<format id>`, `.temp`, `.part-Frag12345.part`."""

_SUFFIX = re.compile(r"(?:\.info)?\.[A-Za-z0-9_]{1,16}$")
_ID_TAIL = re.compile(r"\s*\[[^\[\]]{1,64}\]$")
# Control characters, and those that make a name read differently from what it is.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def confine(path: str, root: str) -> str:
    """Return `path` with every component below `root` made harmless.

    Raises:
        ItemFailed: the path leads out of `root` (code `path_not_allowed`).
    """
    inside = Path(os.path.relpath(path, root) if Path(path).is_absolute() else path)
    if not inside.parts or inside.is_absolute() or ".." in inside.parts:
        where = repr(path[-200:])
        raise ItemFailed("path_not_allowed", f"the file name leads out of the folder: {where}")
    return str(Path(root, *map(clean, inside.parts)))


def clean(name: str) -> str:
    """Return one component without unseen characters, leading `-` or `.`, and not too long."""
    name = name.encode("utf-8", "replace").decode()
    name = _UNSEEN.sub("", name).strip().lstrip("-.").lstrip()
    suffix = match[0] if (match := _SUFFIX.search(name)) and match.start() else ""
    return _shorten(name.removesuffix(suffix) or "_", MAX_BYTES - RESERVED) + suffix


def _shorten(stem: str, limit: int) -> str:
    """Cut to `limit` bytes, between characters; an id in brackets at the end survives."""
    if len(stem.encode()) <= limit:
        return stem
    tail = match[0] if (match := _ID_TAIL.search(stem)) else ""
    head = stem.removesuffix(tail).encode()[: max(1, limit - len(tail.encode()))]
    return head.decode("utf-8", "ignore").rstrip() + tail
