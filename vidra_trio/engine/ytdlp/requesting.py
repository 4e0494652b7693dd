"""Requests: those of a direct download are held against the file that they continue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from yt_dlp.downloader import get_suitable_downloader
from yt_dlp.downloader.http import HttpFD
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError
from yt_dlp.utils.networking import HTTPHeaderDict

from vidra_trio.engine import resume
from vidra_trio.engine.validators import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from vidra_trio.engine.ytdlp.item import Info, Item

    Urlopen = Callable[[object], Any]

PARTIAL_CONTENT: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416


def transfer_of(name: str, info: Info, params: dict[str, Any], work: Path) -> Transfer | None:
    """Return what watches over a direct download; None for any other one."""
    if not info.get("url") or get_suitable_downloader(info, params) is not HttpFD:
        return None
    mine = params.get("http_chunk_size")
    theirs = (info.get("downloader_options") or {}).get("http_chunk_size")
    resume.make_way_for_direct(Path(name))
    return Transfer(
        work,
        name,
        own=HTTPHeaderDict(info.get("http_headers")).get("Range"),
        chunked=bool(mine or theirs),
    )


def open_any(req: object, item: Item, urlopen: Urlopen) -> Any:  # noqa: ANN401
    """Open a URL that no direct download is about."""
    try:
        return urlopen(req)
    except HTTPError as error:
        item.opened(error.response)  # an extractor may read it: closed at the end
        if error.status == RANGE_NOT_SATISFIABLE and isinstance(req, Request):
            _forget_range(req)
        raise


def open_piece(req: Request, transfer: Transfer, item: Item, urlopen: Urlopen) -> Any:  # noqa: ANN401
    """Open the URL of a direct download, or a piece of it, if it is still the same file."""
    transfer.ask(req.headers)
    try:
        response = urlopen(req)
    except HTTPError as error:
        error.close()
        if error.status == RANGE_NOT_SATISFIABLE:
            transfer.refuse(req.headers)
        raise
    try:
        item.control.check()
        partial = response.status == PARTIAL_CONTENT
        transfer.take(req.headers, response.headers, partial=partial)
    except BaseException:
        response.close()
        raise
    return response


def _forget_range(request: Request) -> None:
    """Let the whole file be asked for next, when a Range "from there on" was refused.

    yt-dlp means to do so, but with this very mapping: it would be refused for ever when
    the site's file became shorter. A range with an end is the format's own: without it
    the whole file would pass for a part of it.
    """
    if request.headers.get("Range", "").endswith("-"):
        del request.headers["Range"]
