"""A local media-download backend on structured concurrency.

    async with vidra_trio.serve(Settings.from_env()) as server: ...
    vidra_trio.run(settings)

The names below are loaded when first used: a worker process imports this
package too, and must not pay for a web server (measured: 0.05 s against 0.6 s).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vidra_trio.client import Client
    from vidra_trio.core.errors import VidraError
    from vidra_trio.core.job import JobSpec, Snapshot
    from vidra_trio.core.states import JobState
    from vidra_trio.engine.base import Engine
    from vidra_trio.server import Server, run, serve
    from vidra_trio.settings import Settings

__version__: Final = "0.1.0"

__all__ = [
    "Client",
    "Engine",
    "JobSpec",
    "JobState",
    "Server",
    "Settings",
    "Snapshot",
    "VidraError",
    "__version__",
    "run",
    "serve",
]

_HOME: Final = {
    "Client": "vidra_trio.client",
    "Engine": "vidra_trio.engine.base",
    "JobSpec": "vidra_trio.core.job",
    "JobState": "vidra_trio.core.states",
    "Server": "vidra_trio.server",
    "Settings": "vidra_trio.settings",
    "Snapshot": "vidra_trio.core.job",
    "VidraError": "vidra_trio.core.errors",
    "run": "vidra_trio.server",
    "serve": "vidra_trio.server",
}


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
