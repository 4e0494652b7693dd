"""What yt-dlp is made with: the client's wishes, then what is ours to say. Pure."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vidra_trio.engine.pipe import Start

    Params = dict[str, Any]

SMALLEST_BLOCK: Final = 1 << 10
"""What is read first of a file; from there blocks grow with the line (`best_block_size`)."""

LONGEST_PAUSE: Final = 30.0

_DEFAULTS: Final[Params] = {  # the command line's; the library's own are 0
    "retries": 10,
    "fragment_retries": 10,
    "file_access_retries": 3,
    "extractor_retries": 3,
    "socket_timeout": 15,
}
_RETRIES: Final = ("retries", "fragment_retries", "file_access_retries", "extractor_retries")
_SECRETS: Final = ("password", "videopassword", "twofactor", "ap_password")


class Listener(Protocol):
    """What yt-dlp calls while it works; also its logger."""

    def on_progress(self, hook: Params, /) -> None:
        """A file moves or is whole."""

    def on_postprocessing(self, hook: Params, /) -> None:
        """A post-processor begins or ends."""


def build(order: Start, listener: Listener, out: Path, tmp: Path) -> Params:
    """Return the parameters of one run."""
    params = {**_DEFAULTS, **order.params}
    for key in _RETRIES:
        if isinstance(params[key], str):  # JSON has no infinity
            params[key] = float("inf")
    if params.get("fixup") in (None, "detect_or_warn"):
        # "detect" spares files that were there before; here they are an earlier run's.
        params["fixup"] = "force"
    return {
        **params,
        "quiet": True,
        "verbose": False,
        "noprogress": True,
        "color": "no_color",
        "consoletitle": False,
        "logger": listener,
        "progress_hooks": [listener.on_progress],
        "postprocessor_hooks": [listener.on_postprocessing],
        "paths": {"home": str(out), "temp": str(tmp)},
        "outtmpl": {"default": order.template},
        "cachedir": os.path.join(order.cache, "yt-dlp"),  # noqa: PTH118  # a string for yt-dlp
        "ffmpeg_location": params.get("ffmpeg_location") or order.ffmpeg,
        "enable_file_urls": False,
        "simulate": False,
        "ignoreerrors": False,  # one run is one item: its error is the run's
        "overwrites": None,  # the directory is the run's own: what is there is its own work
        "continuedl": True,
        "nopart": False,
        "noresizebuffer": False,
        "buffersize": SMALLEST_BLOCK,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "file_access"), pause),
    }


def pause(n: int) -> float:
    """Return how long to wait before try `n` + 1."""
    return min(2.0**n, LONGEST_PAUSE)


def secrets_of(params: Mapping[str, Any]) -> list[str]:
    """Return the values that no line may show."""
    return [value for key in _SECRETS if isinstance(value := params.get(key), str) and value]
