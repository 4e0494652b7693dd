"""How others run yt-dlp: `python -m bench.peer naive|cold JSON`.

`cold` is a process per download: yt-dlp in its main thread, nothing around it.
Whoever wants it to end sends SIGTERM, as `Popen.terminate` does.

`naive` is what one writes first: yt-dlp in a thread of the host, and a hook that
raises once a flag is set. The flag is set by the end of standard input; when the
thread has ended its moment is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import yt_dlp

from bench.extractors import registered


class Order(msgspec.Struct, frozen=True):
    """What to fetch, whereto, how."""

    url: str
    folder: str
    params: dict[str, Any]
    backoff: float = 0.0  # seconds before each retry


class Quiet:
    """A logger."""

    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug


def download(order: Order, **params: Any) -> None:  # noqa: ANN401
    """Fetch it, as the library's documentation shows."""
    Path(order.folder).mkdir(parents=True, exist_ok=True)
    params |= {
        "logger": Quiet(),
        "noprogress": True,
        "retries": 10,
        "fragment_retries": 10,
        "paths": {"home": order.folder},
        "cachedir": False,
        **order.params,
    }
    if order.backoff:
        params["retry_sleep_functions"] = {"http": lambda n: order.backoff}
    with yt_dlp.YoutubeDL(params) as ydl:
        ydl.download([order.url])


def naive(order: Order) -> None:
    """Fetch it in a thread, until the end of standard input makes a hook raise."""
    stopped = threading.Event()

    def hook(_: object) -> None:
        if stopped.is_set():
            raise yt_dlp.utils.DownloadCancelled("the user does not want it any more")

    def work() -> None:
        with contextlib.suppress(Exception):
            download(order, progress_hooks=[hook], postprocessor_hooks=[hook])

    thread = threading.Thread(target=work)
    thread.start()
    sys.stdin.buffer.read()
    stopped.set()
    thread.join()
    print(time.monotonic(), flush=True)


def main() -> None:
    """Run a peer."""
    parser = argparse.ArgumentParser(prog="python -m bench.peer")
    parser.add_argument("way", choices=["naive", "cold"])
    parser.add_argument("order")
    chosen = parser.parse_args()
    order = msgspec.json.decode(chosen.order, type=Order)
    with registered():
        {"naive": naive, "cold": download}[chosen.way](order)


if __name__ == "__main__":
    main()
