"""What the command line finds around it: the environment, `.env`, a running server.

1. `.env` of the working directory first, the real environment over it. Values in
   `.env` are taken as they stand: a token may well hold a `$`.
2. A token never comes from the command line: other users see that in `ps`.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.settings import Settings

TOKEN: Final = "VIDRA_SERVER_TOKEN"  # noqa: S105 - the variable's name


def read_environment(folder: Path) -> dict[str, str]:
    """Return the environment over the `.env` of `folder`, and take the token out of the former.

    Raises:
        ConfigurationError: `.env` is there but is no readable UTF-8 text.
    """
    try:
        own = dotenv_values(folder / ".env", interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(".env", f"expected a readable UTF-8 file: {error}") from None
    environ = {key: value for key, value in own.items() if value is not None} | dict(os.environ)
    os.environ.pop(TOKEN, None)  # what we start (yt-dlp, ffmpeg) has no need of it
    return environ


def find_server(url: str | None, token_file: Path | None) -> tuple[str, str]:
    """Return address and token of the running server that is meant.

    What the arguments leave open is read as the server itself reads it, from the
    environment and the `.env` of this folder.

    Raises:
        ConfigurationError: something is missing or wrong.
    """
    environ = read_environment(Path())
    # A client needs no folders; the server's may not even be on this machine.
    environ |= {"VIDRA_SERVER_DATA": ".", "VIDRA_SERVER_CACHE": "."}
    if token_file is not None:
        environ |= {TOKEN: "", "VIDRA_SERVER_TOKEN_FILE": str(token_file)}
    settings = Settings.from_env(environ)
    return url or _address(settings.host, settings.port), settings.token


def _address(host: str, port: int) -> str:
    if port == 0:
        raise ConfigurationError("VIDRA_SERVER_PORT", "is 0, any port: say which with --url")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:  # it listens everywhere; from here that is
        return f"http://127.0.0.1:{port}" if address.version == 4 else f"http://[::1]:{port}"
    return f"http://{host}:{port}" if address.version == 4 else f"http://[{host}]:{port}"
