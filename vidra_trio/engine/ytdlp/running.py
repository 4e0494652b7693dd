"""An order, run to its end: the way through extraction and download, and what came of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from yt_dlp.networking.impersonate import ImpersonateTarget
from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor
from yt_dlp.utils import ReExtractInfo

from vidra_trio.core.report import Stopped
from vidra_trio.core.states import Level
from vidra_trio.engine import resume
from vidra_trio.engine.control import CURRENT, Control, Interrupted
from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.params import build, secrets_of
from vidra_trio.engine.pipe import Ended, Produced
from vidra_trio.engine.reporting import Reporter
from vidra_trio.engine.ytdlp.driver import ItemYDL
from vidra_trio.engine.ytdlp.endings import ENOUGH, AlreadyThere, failed, shakes
from vidra_trio.engine.ytdlp.item import Item
from vidra_trio.engine.ytdlp.resolving import resolve

if TYPE_CHECKING:
    from vidra_trio.engine.pipe import Start
    from vidra_trio.engine.reporting import Emit
    from vidra_trio.engine.ytdlp.item import Info

MAX_EXTRACTIONS: Final = 3


def run_item(order: Start, emit: Emit, control: Control) -> Ended:
    """Run one item to its end; blocks, raises nothing.

    Reports go to `emit` from this and other threads until this returns, none
    after. A stop asked through `control` ends as `Stopped`, whatever it provoked.
    """
    reporter = Reporter(emit, Path(order.work), secrets_of(order.params))
    control.on_wait = reporter.waiting
    working_for = CURRENT.set(control)
    item = Item(order, reporter, control)
    try:
        return Ended(_run(item), reusable=not item.shaken)
    except Interrupted:
        return Ended(Stopped(), reusable=not item.shaken)
    except BaseException as error:  # noqa: BLE001  # the adapter's boundary
        sound = not (item.shaken or shakes(error))
        if control.asked:
            return Ended(Stopped(), reusable=sound)
        return Ended(failed(item.broken or error, reporter), reusable=sound)
    finally:
        item.broken = None  # it knows frames that know the item
        reporter.close()
        CURRENT.reset(working_for)


def _run(item: Item) -> Produced:
    """Do it; every way out but success is an exception."""
    resume.heal(Path(item.order.work))
    for folder in (item.out, item.tmp):
        folder.mkdir(parents=True, exist_ok=True)
    params = build(item.order, item, item.out, item.tmp)
    if isinstance(target := params.get("impersonate"), str):
        params["impersonate"] = ImpersonateTarget.from_str(target)
    location = FFmpegPostProcessor._ffmpeg_location.set(params["ffmpeg_location"])
    try:
        with ItemYDL(params, item) as ydl:
            info = _download(item, ydl)
    except AlreadyThere as found:
        item.reporter.line(Level.INFO, f"{found.relative} is there already")
        return Produced(already=(found.relative,))
    except ENOUGH as reason:
        item.skipped, info = str(reason), None
    finally:
        FFmpegPostProcessor._ffmpeg_location.reset(location)
        item.close_all()
    return _produced(item, info)


def _download(item: Item, ydl: ItemYDL) -> Info | None:
    for _ in range(MAX_EXTRACTIONS):
        with contextlib.suppress(ReExtractInfo):
            found = resolve(ydl)
            if found is None:
                return None
            result: Info | None = ydl.process_ie_result(found, download=True)
            return result
    raise ItemFailed("engine_error", "the site asks to be read again and again")


def _produced(item: Item, info: Info | None) -> Produced:
    if item.broken is not None:
        raise item.broken
    downloads = (info or {}).get("requested_downloads") or []
    paths = [Path(one["filepath"]) for one in downloads if one.get("filepath")]
    media = [path for path in paths if path.is_file() and path.is_relative_to(item.out)]
    if media:
        if holes := len(item.holes):  # perhaps it was asked for, but never silently
            item.reporter.line(Level.ERROR, f"the file has holes: {holes} fragments")
        return Produced(main=str(media[0].relative_to(item.out)))
    if item.skipped is None:
        raise ItemFailed("nothing_downloaded", "yt-dlp ended without a file")
    item.reporter.line(Level.INFO, item.skipped)
    return Produced(skipped=item.reporter.clean(item.skipped))
