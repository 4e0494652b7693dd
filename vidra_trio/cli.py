"""The command line: words and exit codes. What a command does is in the module it loads.

1. A command's own modules are imported when it runs, the only imports inside
   functions that there are: `--help` and usage errors need no web server
   (measured: 0.1 s against 0.7 s).
2. What we foresee is one line on stderr. Exit codes: 0 fine, 1 other, 2 usage or
   configuration, 3 port busy, 75 data directory in use, 130 Ctrl-C.
3. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vidra_trio import __version__
from vidra_trio.core.errors import ConfigurationError, DataDirInUse, PortBusy, VidraError
from vidra_trio.core.redact import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_CODES: Final = {ConfigurationError: 2, PortBusy: 3, DataDirInUse: 75}

INTERRUPTED: Final = 130
"""Ctrl-C, as shells have it."""

HEIGHTS: Final = ("2160", "1440", "1080", "720", "480", "360", "240", "144")

FILE_NAME: Final = "%(title)s [%(id)s].%(ext)s"
"""How `get` names files: yt-dlp's own habit, short enough to find again."""


class _Group(click.Group):
    """Turns what we raise on purpose into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        error: BaseException | None = None
        try:
            return super().invoke(ctx)
        except* KeyboardInterrupt:
            pass
        except* VidraError as group:
            error = _first(group)
            click.echo(f"vidra-trio: {one_line(str(error))}", err=True)
        ctx.exit(INTERRUPTED if error is None else _exit_code(error))


def _exit_code(error: BaseException) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def _first(error: BaseException) -> BaseException:
    """One line is all a user reads: of several errors, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _show_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        engine = importlib.metadata.version("yt-dlp")
        python = platform.python_version()
        click.echo(f"vidra-trio {__version__} (yt-dlp {engine}, Python {python})")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the versions and exit.",
)
def cli() -> None:
    """Download media with yt-dlp: as a local server, or right here."""


@cli.command(short_help="Run the server.")
def serve() -> None:
    """Run the server, configured by VIDRA_SERVER_* in the environment or in .env."""
    import trio

    from vidra_trio.bars import open_console
    from vidra_trio.serving import serve_until_stopped
    from vidra_trio.settings import Settings
    from vidra_trio.surroundings import read_environment

    settings = Settings.from_env(read_environment(Path()))
    trio.run(serve_until_stopped, settings, open_console(stderr=True))


@cli.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Folder for the files; made if need be. Default: here.",
)
@click.option("-a", "--audio", is_flag=True, help="Only the audio.")
@click.option("-q", "--quality", type=click.Choice(HEIGHTS), help="At most this many lines.")
@click.option("-f", "--format", "selector", metavar="SELECTOR", help="A yt-dlp format selector.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.pass_context
def get(
    ctx: click.Context,
    urls: tuple[str, ...],
    folder: Path,
    audio: bool,
    quality: str | None,
    selector: str | None,
    overwrite: bool,
) -> None:
    """Download URLs and print the files.

    Needs no configuration: the server behind it is private and gone afterwards.
    """
    import trio

    from vidra_trio import get as journey
    from vidra_trio.bars import open_console, say

    options = {
        "output": FILE_NAME,
        "extract_audio": audio or None,
        "video_resolution": quality,
        "format": selector,
        "force_overwrites": overwrite,
    }
    console = open_console(stderr=True)
    given = {key: value for key, value in options.items() if value is not None}
    gathering = trio.run(journey.get, urls, folder.absolute(), given, console)
    for outcome in gathering.in_order():
        for file in outcome.files:
            click.echo(file)
        if outcome.error:
            say(console, f"vidra-trio: {outcome.url}: {outcome.error}")
    ctx.exit(gathering.exit_code)


@cli.command(short_help="Watch the whole stack at work, without internet.")
@click.pass_context
def demo(ctx: click.Context) -> None:
    """Watch the whole stack at work, without internet: download, watch, cancel."""
    import trio

    from vidra_trio.bars import open_console
    from vidra_trio.demo import show

    ctx.exit(trio.run(show, open_console(stderr=False)))


def _at_server(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which server is meant."""
    command = click.option(
        "--url",
        metavar="URL",
        help="The server. Default: VIDRA_SERVER_HOST and _PORT, from the environment or .env.",
    )(command)
    return click.option(
        "--token-file",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Holds the server's token. Default: VIDRA_SERVER_TOKEN or _TOKEN_FILE, from the "
        "environment or .env.",
    )(command)


@cli.command()
@_at_server
@click.pass_context
def jobs(ctx: click.Context, url: str | None, token_file: Path | None) -> None:
    """List the jobs of a running server."""
    import trio

    from vidra_trio import remote
    from vidra_trio.surroundings import find_server

    ctx.exit(trio.run(remote.show_jobs, *find_server(url, token_file), click.echo))


@cli.command(short_help="Watch a job, or all.")
@click.argument("job", required=False, metavar="[JOB]")
@_at_server
@click.pass_context
def watch(ctx: click.Context, job: str | None, url: str | None, token_file: Path | None) -> None:
    """Watch one JOB until it ends, or every change of all jobs."""
    import trio

    from vidra_trio import remote
    from vidra_trio.bars import open_console
    from vidra_trio.surroundings import find_server

    server, console = find_server(url, token_file), open_console(stderr=True)
    if job is None:
        ctx.exit(trio.run(remote.watch_all, *server, click.echo, console))
    ctx.exit(trio.run(remote.watch_job, *server, job, console))


@cli.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@_at_server
@click.pass_context
def cancel(
    ctx: click.Context, jobs: tuple[str, ...], url: str | None, token_file: Path | None
) -> None:
    """Cancel jobs of a running server."""
    import trio

    from vidra_trio import remote
    from vidra_trio.surroundings import find_server

    ctx.exit(trio.run(remote.cancel_jobs, *find_server(url, token_file), jobs, click.echo))


@cli.group()
def token() -> None:
    """Make tokens."""


@token.command("new")
def new() -> None:
    """Print a new token, for VIDRA_SERVER_TOKEN in .env."""
    from vidra_trio.settings import new_token

    click.echo(new_token())


def main() -> None:
    """Run the command line; ends the process."""
    cli(prog_name="vidra-trio")
