"""For tests of programs that embed or speak to the server: the fake engine and a real server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from vidra_trio.engine.scripted import ScriptedEngine, ScriptedRun, download
from vidra_trio.server import Server, serve
from vidra_trio.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

    from vidra_trio.engine.base import Engine

__all__ = ["ScriptedEngine", "ScriptedRun", "download", "open_test_server"]


@asynccontextmanager
async def open_test_server(
    root: Path,
    *,
    engine: Engine | None = None,
    **changes: Any,  # noqa: ANN401 - members of Settings
) -> AsyncIterator[Server]:
    """Run a real server on a free port with everything below `root`.

    `engine` defaults to a `ScriptedEngine` that succeeds at once; `changes` are
    members of `Settings`.
    """
    settings = Settings.private(root, download_dir=root / "downloads", **changes)
    async with serve(settings, engine=engine or ScriptedEngine()) as server:
        yield server
