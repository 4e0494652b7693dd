"""The public names as a type checker sees them. Never run: `mypy` reads it with the rest."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, assert_type

import vidra_trio
from vidra_trio import Client, Engine, JobSpec, JobState, Server, Settings, Snapshot, VidraError
from vidra_trio.client import LogLine, Message, RemoteJob, Watch
from vidra_trio.testing import ScriptedEngine, open_test_server


async def embedding(root: Path) -> None:
    """A program that runs a server of its own."""
    settings = assert_type(Settings.private(root, download_dir=root), Settings)
    assert_type(Settings.from_env(), Settings)
    opened: AbstractAsyncContextManager[Server] = vidra_trio.serve(settings)
    async with opened as server:
        assert_type(server.url, str)
        assert_type(server.token, str)
        snapshot = await server.supervisor.create(JobSpec(("https://example.org/",)))
        assert_type(snapshot, Snapshot)
        assert_type(snapshot.state, JobState)
        assert_type(snapshot.main_file, str | None)
        assert_type((await server.diagnostics()).engine.kind, str)
    version: str = vidra_trio.__version__
    assert version


def blocking(settings: Settings) -> None:
    """A program without Trio."""
    vidra_trio.run(settings)


async def speaking(client: Client) -> None:
    """A program that uses a server."""
    async with client as entered:
        assert_type(entered, Client)
    assert_type(await client.create("https://example.org/"), RemoteJob)
    assert_type(await client.create(["a", "b"], options={"format": "best"}), RemoteJob)
    assert_type(await client.jobs(state=JobState.RUNNING), list[RemoteJob])
    assert_type(await client.follow("id", print), RemoteJob | None)
    assert_type(await client.logs("id"), list[LogLine])
    assert_type(await client.diagnostics(), dict[str, Any])
    async with client.watch_job("id") as watch:
        assert_type(watch, Watch)
        async for message in watch:
            assert_type(message, Message)
            event, payload = message
            assert_type(event, str)
            assert_type(payload, dict[str, Any])


async def tested(root: Path) -> None:
    """A test of such a program."""
    engine: Engine = ScriptedEngine()
    async with open_test_server(root, engine=engine, max_concurrent=1) as server:
        assert_type(server, Server)


def caught(error: VidraError) -> None:
    """Every error of ours says what the wire calls it."""
    assert_type(error.code, str)
    assert_type(error.status_hint, int)
