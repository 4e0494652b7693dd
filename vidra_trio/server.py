"""One running server: a stack of `async with`, and its reverse is the shutdown.

Start: data directory locked > store read > engine > jobs restored > hub > port.
Stop: sockets told 1001 > HTTP ended > jobs stopped and settled > engine gone >
last write > lock released.
"""

from __future__ import annotations

import datetime
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from vidra_trio import __version__
from vidra_trio.engine.choice import open_engine
from vidra_trio.engine.diagnosis import GIVEN, Diagnosis
from vidra_trio.engine.tools import assert_engine_version
from vidra_trio.hub import Hub
from vidra_trio.net.listen import listen
from vidra_trio.net.serve import open_server
from vidra_trio.storage.files import Locations, hold_data_dir
from vidra_trio.storage.jobs import open_store
from vidra_trio.supervisor import Supervisor, open_supervisor
from vidra_trio.web.app import WebContext, build_app, drain
from vidra_trio.wire.payloads import dump_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from vidra_trio.core.diagnostics import Diagnostics
    from vidra_trio.engine.base import Engine
    from vidra_trio.engine.diagnosis import Choice
    from vidra_trio.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is listening. `url` has the real port and no trailing slash."""

    url: str
    settings: Settings
    supervisor: Supervisor
    _diagnosis: Diagnosis = field(repr=False)

    async def diagnostics(self) -> Diagnostics:
        """Return which engine there is and why, its numbers, and the versions it stands on.

        The first call looks for ffmpeg, some 50 ms. It does not wait for the choice
        of an engine, which takes about a second after the start.
        """
        return await self._diagnosis.look()

    @property
    def token(self) -> str:
        """What every request but the health check must carry."""
        return self.settings.token


@asynccontextmanager
async def serve(settings: Settings, *, engine: Engine | None = None) -> AsyncIterator[Server]:
    """Serve for the length of the block; inside it, requests are being answered.

    Leaving it stops everything within five seconds, a disk that hangs excepted.
    An error of the block's own comes out as it is, not in a group. `engine`
    replaces the yt-dlp workers.

    A scope of yours *around* the block, when cancelled, cancels the server's own
    tasks with it: all is stopped and saved, but nobody is asked first. To stop in
    order, end the block.

    Raises:
        ConfigurationError: a directory of `settings` cannot be used, or yt-dlp is too old.
        DataDirInUse: another server owns the data directory.
        PortBusy: the address is taken.
    """
    trouble: Exception | None = None
    try:
        async with _open(settings, engine) as server:
            try:
                yield server
            except Exception as error:  # noqa: BLE001 - kept out of our nurseries, raised below
                trouble = error
    except BaseExceptionGroup as group:
        raise _alone(group) from None
    if trouble is not None:
        raise trouble


def run(settings: Settings, *, stop: Callable[[trio.Event], None] | None = None) -> None:
    """Serve until stopped; blocks. Works in any thread, installs no signal handler.

    `stop` is called once with the event that ends the server; set it from
    another thread through `trio.lowlevel.current_trio_token()`'s `run_sync_soon`.
    """
    trio.run(partial(_run, settings, stop))


async def _run(settings: Settings, stop: Callable[[trio.Event], None] | None) -> None:
    stopping = trio.Event()
    async with serve(settings):
        if stop is not None:
            stop(stopping)
        await stopping.wait()


@asynccontextmanager
async def _open(settings: Settings, engine: Engine | None) -> AsyncIterator[Server]:
    locations = Locations(settings.data, settings.cache)
    async with AsyncExitStack() as stack:
        owner = stack.enter_context(hold_data_dir(locations))
        store = await stack.enter_async_context(open_store(locations))
        chosen, choice = await stack.enter_async_context(_open_engine(settings, owner, engine))
        diagnosis = Diagnosis(__version__, chosen, choice)
        hub = Hub(dump_event)
        tasks = await stack.enter_async_context(trio.open_nursery())
        stack.callback(tasks.cancel_scope.cancel)
        supervisor = await stack.enter_async_context(
            open_supervisor(
                engine=chosen,
                store=store,
                publish=hub.publish,
                rules=settings.path_rules,
                now=_now,
                max_concurrent=settings.max_concurrent,
                retries=settings.retries,
                policy=settings.restore,
            )
        )
        await tasks.start(hub.run)
        sockets = listen(settings.host, settings.port)
        context = WebContext(settings, supervisor, hub, trio.Event(), _now, diagnosis.look)
        addresses = await stack.enter_async_context(
            open_server(build_app(context), sockets, drain=partial(drain, context))
        )
        yield Server(_url(addresses[0]), settings, supervisor, diagnosis)


@asynccontextmanager
async def _open_engine(
    settings: Settings, owner: str, given: Engine | None
) -> AsyncIterator[tuple[Engine, Choice]]:
    """Open what runs the downloads, unless the caller brought it."""
    if given is not None:
        _log.info("engine: %s (%s)", GIVEN.kind, GIVEN.reason)
        yield given, GIVEN
        return
    assert_engine_version()
    async with open_engine(
        settings.engine,
        embedded=settings.embedded,
        cache=settings.cache,
        size=settings.max_concurrent,
        limits=settings.stall_limits,
        owner=owner,
    ) as chosen:
        yield chosen, chosen


def _alone(error: BaseException) -> BaseException:
    """Return the one error that nurseries wrapped; a group of several stays a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _url(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
