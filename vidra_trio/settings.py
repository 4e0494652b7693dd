"""VIDRA_SERVER_* -> Settings: parsed once, checked completely, then frozen.

1. Blank means unset. What is wrong is an error of one line that names the
   variable and what was expected; a token is never part of it.
2. Nothing is read at import, and nothing is changed: who starts a server decides
   whether a variable leaves the environment.
3. There are no TLS settings: the server speaks plain HTTP. `https` as SCHEME
   only changes the URLs it reports, for a proxy in front that does TLS.
4. TOKEN wins over TOKEN_FILE when both are set, as what is said directly does.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.paths import PathRules
from vidra_trio.core.restore import Policy
from vidra_trio.core.stall import StallLimits

T = TypeVar("T")
D = TypeVar("D")

EngineChoice = Literal["auto", "process", "thread"]

MIB: Final = 1024 * 1024
TOKEN_BYTES: Final = 48
SHORT_TOKEN: Final = 16
"""Fewer characters than this can be guessed over loopback in a lifetime."""

_TOKEN_FILE_LIMIT: Final = 16 * 1024
"""A token is 64 characters; whoever points at a device or a video should hear so at once."""

_PLACEHOLDERS: Final = frozenset(("changeme", "change-me", "put-your-token-here"))
_YES: Final = frozenset(("1", "true", "yes", "y", "on"))
_NO: Final = frozenset(("0", "false", "no", "n", "off"))
_LOG_LEVELS: Final = frozenset(("critical", "error", "warning", "info", "debug", "trace"))
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+")
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?/?"
)
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_log = logging.getLogger(__name__)


class Variable(NamedTuple):
    """One line of the settings table."""

    name: str
    default: str
    meaning: str


VARIABLES: Final = (
    Variable("VIDRA_SERVER_TOKEN", "must be set", "what every request carries, health excepted"),
    Variable("VIDRA_SERVER_TOKEN_FILE", "unset", "a file that holds the token; TOKEN wins over it"),
    Variable("VIDRA_SERVER_DATA", "must be set", "folder for jobs, their options and logs; 0700"),
    Variable("VIDRA_SERVER_CACHE", "must be set", "folder for what may be deleted at any time"),
    Variable("VIDRA_SERVER_NAME", "Vidra Download Service", "`service` of the health answer"),
    Variable(
        "VIDRA_SERVER_DESCRIPTION", "Local server backend for Vidra", "`description` beside it"
    ),
    Variable("VIDRA_SERVER_METADATA", "{}", "JSON object, `metadata` of the health answer"),
    Variable(
        "VIDRA_SERVER_SCHEME",
        "http",
        "http or https: only in reported URLs, for a TLS proxy in front; the server speaks http",
    ),
    Variable("VIDRA_SERVER_HOST", "127.0.0.1", "address to listen on"),
    Variable("VIDRA_SERVER_PORT", "5000", "port to listen on, 0 for any free one"),
    Variable("VIDRA_SERVER_BASE_PATH", "/", "prefix of all paths"),
    Variable("VIDRA_SERVER_API_ROOT", "/api", "prefix of the REST paths"),
    Variable("VIDRA_SERVER_WS_OVERVIEW_PATH", "/ws/overview", "socket with all jobs"),
    Variable("VIDRA_SERVER_WS_JOB_PATH", "/ws/jobs", "prefix of the sockets with one job"),
    Variable("VIDRA_SERVER_HEALTH_PATH", "/", "a launcher's; checked only"),
    Variable(
        "VIDRA_SERVER_TIMEOUT_SECONDS", "30", "how long a client should wait; only reported to it"
    ),
    Variable("VIDRA_SERVER_LOG_LEVEL", "info", "critical, error, warning, info, debug or trace"),
    Variable("VIDRA_SERVER_LOG_FILE", "DATA/release_logs.txt", "log of this start"),
    Variable("VIDRA_SERVER_STATUS_FILE", "DATA/startup_status.json", "a launcher's; checked only"),
    Variable("VIDRA_SERVER_LOCK_FILE", "unset", "the launcher's lock; never opened by the server"),
    Variable("VIDRA_SERVER_VERBOSE", "0", "log at least what `info` does"),
    Variable("VIDRA_SERVER_DEBUG", "0", "log at least what `debug` does"),
    Variable("VIDRA_SERVER_DIAGNOSTICS", "0", "checked, without effect yet"),
    Variable("VIDRA_ENABLE_PREVIEW_API", "0", "checked, without effect yet"),
    Variable(
        "VIDRA_SERVER_DOWNLOAD_ROOTS", "unset", "folders that downloads must stay in, as in PATH"
    ),
    Variable(
        "VIDRA_SERVER_DOWNLOAD_DIR",
        "first root, else Downloads, else DATA/downloads",
        "where relative destinations begin",
    ),
    Variable("VIDRA_SERVER_ALLOW_LOCAL", "0", "clients may name any cookie file and ffmpeg"),
    Variable("VIDRA_SERVER_ALLOWED_HOSTS", "empty", "more names for the Host header, by comma"),
    Variable("VIDRA_SERVER_ALLOWED_ORIGINS", "empty", "web pages that may connect, by comma"),
    Variable("VIDRA_SERVER_MAX_BODY", str(MIB), "bytes in a request body"),
    Variable("VIDRA_SERVER_MAX_CONCURRENT", "3", "downloads at a time, the others wait"),
    Variable(
        "VIDRA_SERVER_RETRIES", "0", "times that a download broken by the network is tried again"
    ),
    Variable(
        "VIDRA_SERVER_STALL_SECONDS",
        "extract=120,connect=60,transfer=120,postprocess=600",
        "silence after which a download fails, in all or in some phases; 0: never",
    ),
    Variable(
        "VIDRA_SERVER_ENGINE",
        "auto",
        "downloads run in worker processes (process), in threads (thread), or what fits (auto)",
    ),
    Variable(
        "VIDRA_SERVER_RESTORE",
        "resume",
        "downloads that a stop interrupted go on (resume), are paused (hold) or have failed (fail)",
    ),
    Variable("VIDRA_SERVER_EMBEDDED", "0", "this Python cannot start others: auto takes threads"),
)
"""Every variable that is read here; `.env.example` and the README document each."""


def new_token() -> str:
    """Return a token nobody can guess: 64 characters of base64url."""
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a server is told before it starts."""

    token: str = field(repr=False)
    data: Path
    cache: Path
    log_file: Path
    status_file: Path
    download_dir: Path
    name: str = "Vidra Download Service"
    description: str = "Local server backend for Vidra"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 5000
    base_path: str = "/"
    api_root: str = "/api"
    ws_overview_path: str = "/ws/overview"
    ws_job_path: str = "/ws/jobs"
    health_path: str = "/"
    timeout_seconds: int = 30
    log_level: str = "info"
    lock_file: Path | None = None
    preview_api: bool = False
    debug: bool = False
    verbose: bool = False
    diagnostics: bool = False
    download_roots: tuple[Path, ...] = ()
    allow_local: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body: int = MIB
    max_concurrent: int = 3
    retries: int = 0
    stall_limits: StallLimits = field(default_factory=StallLimits)
    engine: EngineChoice = "auto"
    embedded: bool = False
    restore: Policy = Policy.RESUME

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `environ` (None: the process's own) and change nothing in it.

        Relative paths count from the current directory, `~` is the user's home.

        Raises:
            ConfigurationError: something is missing or wrong; the first one found.
        """
        env = _Environment(os.environ if environ is None else environ)
        token = _token(env)
        data, cache = env.must("DATA", _path), env.must("CACHE", _path)
        roots = env.read("DOWNLOAD_ROOTS", _roots, None) or ()
        return cls(
            token=token,
            data=data,
            cache=cache,
            log_file=env.read("LOG_FILE", _path, data / "release_logs.txt"),
            status_file=env.read("STATUS_FILE", _path, data / "startup_status.json"),
            lock_file=env.read("LOCK_FILE", _path, None),
            download_roots=roots,
            download_dir=_download_dir(env, roots, data),
            stall_limits=env.read("STALL_SECONDS", StallLimits.parse, StallLimits()),
            **_plain(env),
        )

    @classmethod
    def private(cls, root: Path, *, download_dir: Path, **changes: Any) -> Settings:  # noqa: ANN401
        """Return settings for a server of one's own: below `root`, any port, a fresh token.

        `changes` are fields of this class.
        """
        data = root / "data"
        private: dict[str, Any] = {
            "token": new_token(),
            "port": 0,
            "data": data,
            "cache": root / "cache",
            "log_file": data / "release_logs.txt",
            "status_file": data / "startup_status.json",
            "download_dir": download_dir,
        }
        return cls(**private | changes)

    @property
    def path_rules(self) -> PathRules:
        """Where a client may have files put; a link counts as itself and as what it leads to."""
        roots = (*self.download_roots, self.download_dir) if self.download_roots else ()
        return PathRules(
            download_dir=str(self.download_dir),
            roots=_both_names(roots),
            home=_home(),
            forbidden=_both_names((self.data, self.cache)),
            windows=os.name == "nt",
            allow_local=self.allow_local,
        )


class _Environment:
    """The variables, trimmed; blank ones are not there."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, key: str) -> str | None:
        return self._environ.get(_name(key), "").strip() or None

    def read(self, key: str, parse: Callable[[str], T], default: D) -> T | D:
        """Parse a variable; `parse` raises ValueError with what was expected."""
        text = self.text(key)
        return default if text is None else self._parse(key, parse, text)

    def must(self, key: str, parse: Callable[[str], T]) -> T:
        """Parse a variable that has no default."""
        text = self.text(key)
        if text is None:
            raise ConfigurationError(_name(key), "must be set to a folder")
        return self._parse(key, parse, text)

    def _parse(self, key: str, parse: Callable[[str], T], text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise ConfigurationError(_name(key), f"expected {error}, got {_shown(text)}") from None


def _name(key: str) -> str:
    return "VIDRA_ENABLE_PREVIEW_API" if key == "PREVIEW_API" else f"VIDRA_SERVER_{key}"


def _shown(text: str) -> str:
    """Show a wrong value on one line and not at length."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def _plain(env: _Environment) -> dict[str, Any]:
    """Read what depends on nothing else. A default is said once, in `Settings`."""
    parsers: dict[str, Callable[[str], Any]] = {
        "name": _line,
        "description": _line,
        "metadata": _object,
        "scheme": _scheme,
        "host": _host,
        "port": _between(0, 65535),
        "base_path": _url_path,
        "api_root": _url_path,
        "ws_overview_path": _url_path,
        "ws_job_path": _url_path,
        "health_path": _url_path,
        "timeout_seconds": _between(0, 86_400),
        "log_level": _log_level,
        "preview_api": _flag,
        "debug": _flag,
        "verbose": _flag,
        "diagnostics": _flag,
        "allow_local": _flag,
        "allowed_hosts": _listed(_host_name),
        "allowed_origins": _listed(_origin),
        "max_body": _between(1, 1024 * MIB),
        "max_concurrent": _between(1, 1000),
        "retries": _between(0, 10),
        "engine": _engine,
        "embedded": _flag,
        "restore": _policy,
    }
    values = {key: env.read(key.upper(), parse, None) for key, parse in parsers.items()}
    return {key: value for key, value in values.items() if value is not None}


# -- the token


def _token(env: _Environment) -> str:
    text, path = env.text("TOKEN"), env.read("TOKEN_FILE", _path, None)
    if text is not None:
        return _checked_token("TOKEN", text)
    if path is None:
        raise ConfigurationError(
            "VIDRA_SERVER_TOKEN", "must be set; `vidra-trio token new` prints one"
        )
    return _checked_token("TOKEN_FILE", _read_token(path))


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_TOKEN_FILE_LIMIT + 1)
        if len(data) > _TOKEN_FILE_LIMIT:
            raise ConfigurationError("VIDRA_SERVER_TOKEN_FILE", "expected a file with one token")
        text = data.decode("utf-8-sig").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(
            "VIDRA_SERVER_TOKEN_FILE", f"expected a readable file, got {_shown(str(path))}: {why}"
        ) from None
    if not text:
        raise ConfigurationError("VIDRA_SERVER_TOKEN_FILE", "expected a token, the file is empty")
    return text


def _checked_token(key: str, token: str) -> str:
    """Return the token if a client can send it. No message of ours shows any of it."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in token):
        raise ConfigurationError(_name(key), "expected one line of text without control characters")
    if token.lower() in _PLACEHOLDERS:
        raise ConfigurationError(
            _name(key),
            "expected a token of your own, not the example's; see `vidra-trio token new`",
        )
    if len(token) < SHORT_TOKEN:
        _log.warning("%s: shorter than %d characters, easy to guess", _name(key), SHORT_TOKEN)
    return token


# -- one value each: text in, value out; a ValueError says what was expected


def _line(text: str) -> str:
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
        raise ValueError("one line of text without control characters")
    return text


def _between(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return int(text)

    return parse


def _flag(text: str) -> bool:
    word = text.lower()
    if word not in _YES | _NO:
        raise ValueError("1, true, yes, on, or 0, false, no, off")
    return word in _YES


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_line(text), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("a JSON object")  # noqa: TRY004 - what every parser here raises
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _scheme(text: str) -> str:
    scheme = text.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("http or https (a proxy's, for reported URLs; the server speaks http)")
    return scheme


def _host(text: str) -> str:
    """Read an address to listen on; brackets round an IPv6 one are fine."""
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not _is_address(host) and not _HOST_NAME.fullmatch(host.lower()):
        raise ValueError("a host name or an IP address")
    return host


def _host_name(text: str) -> str:
    try:
        return _host(text).lower()
    except ValueError:
        raise ValueError("host names or IP addresses, by comma, without port") from None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _origin(text: str) -> str:
    """Read an origin as browsers send it: lower case, no path, no default port."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError("origins such as https://example.org, by comma")
    scheme, host, port = match.groups()
    return (
        f"{scheme}://{host}"
        if port in (None, _DEFAULT_PORTS.get(scheme))
        else f"{scheme}://{host}:{port}"
    )


def _listed(parse: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse_all(text: str) -> tuple[str, ...]:
        items = (item.strip() for item in text.split(","))
        return tuple(dict.fromkeys(parse(item) for item in items if item))

    return parse_all


def _url_path(text: str) -> str:
    segments = [segment.strip() for segment in text.split("/") if segment.strip()]
    if not all(_SEGMENT.fullmatch(segment) for segment in segments) or {".", ".."} & set(segments):
        raise ValueError("a URL path of letters, digits, '.', '_', '~', '-' and '/'")
    return "/" + "/".join(segments)


def _log_level(text: str) -> str:
    """Read a level; an unknown word is no reason not to start."""
    return text.lower() if text.lower() in _LOG_LEVELS else "info"


def _engine(text: str) -> str:
    word = text.lower()
    if word not in get_args(EngineChoice):
        raise ValueError("auto, process or thread")
    return word


def _policy(text: str) -> Policy:
    try:
        return Policy(text.lower())
    except ValueError:
        raise ValueError("resume, hold or fail") from None


# -- paths


def _path(text: str) -> Path:
    try:
        return Path(os.path.normpath(Path(text).expanduser().absolute()))
    except RuntimeError:
        raise ValueError("a path; there is no home directory for '~'") from None


def _roots(text: str) -> tuple[Path, ...]:
    items = [item.strip() for item in text.split(os.pathsep) if item.strip()]
    if not all(Path(item).expanduser().is_absolute() for item in items):
        raise ValueError(f"absolute folders, by {os.pathsep!r}")
    return tuple(dict.fromkeys(_path(item) for item in items))


def _download_dir(env: _Environment, roots: tuple[Path, ...], data: Path) -> Path:
    chosen: Path | None = env.read("DOWNLOAD_DIR", _path, None)
    if chosen is None:
        return roots[0] if roots else _downloads() or data / "downloads"
    if roots and not any(chosen.is_relative_to(root) for root in roots):
        raise ConfigurationError(
            "VIDRA_SERVER_DOWNLOAD_DIR", "expected a folder inside VIDRA_SERVER_DOWNLOAD_ROOTS"
        )
    return chosen


def _downloads() -> Path | None:
    folder = Path(_home()) / "Downloads"
    return folder if folder.is_absolute() and folder.is_dir() else None


def _both_names(folders: Iterable[Path]) -> tuple[str, ...]:
    names = (str(name) for folder in folders for name in (folder, os.path.realpath(folder)))
    return tuple(dict.fromkeys(names))


def _home() -> str:
    """Return the user's home, or nothing: a service account may have none."""
    try:
        return str(Path.home())
    except RuntimeError:
        return ""
