"""The variables, one by one: defaults, what they take, what they refuse."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.stall import StallLimits
from vidra_trio.core.zones import refusal
from vidra_trio.settings import VARIABLES, Settings, new_token

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "t" * 43
MUST = {
    "VIDRA_SERVER_TOKEN": TOKEN,
    "VIDRA_SERVER_DATA": "/srv/vidra/data",
    "VIDRA_SERVER_CACHE": "/srv/vidra/cache",
}
EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, without a Downloads folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


def read(**changes: str) -> Settings:
    """Read settings with what must be set, and `changes` (names without the prefix)."""
    names = {
        key if key.startswith("VIDRA_") else f"VIDRA_SERVER_{key}": value
        for key, value in changes.items()
    }
    return Settings.from_env(MUST | names)


def trouble(environ: Mapping[str, str]) -> str:
    """Return the message with which `environ` is refused."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(environ)
    return str(caught.value)


def test_defaults() -> None:
    """With the least that must be set, everything else is as the contract says."""
    data = Path("/srv/vidra/data")
    assert read() == Settings(
        name="Vidra Download Service",
        description="Local server backend for Vidra",
        scheme="http",
        host="127.0.0.1",
        port=5000,
        base_path="/",
        api_root="/api",
        ws_overview_path="/ws/overview",
        ws_job_path="/ws/jobs",
        health_path="/",
        metadata={},
        timeout_seconds=30,
        token=TOKEN,
        data=data,
        cache=Path("/srv/vidra/cache"),
        log_level="info",
        log_file=data / "release_logs.txt",
        status_file=data / "startup_status.json",
        lock_file=None,
        preview_api=False,
        debug=False,
        verbose=False,
        diagnostics=False,
        download_roots=(),
        download_dir=data / "downloads",
        allow_local=False,
        allowed_hosts=(),
        allowed_origins=(),
        max_body=1024 * 1024,
        max_concurrent=3,
        retries=0,
        stall_limits=StallLimits(extract=120, connect=60, transfer=120, postprocess=600),
        engine="auto",
        embedded=False,
    )


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
@pytest.mark.parametrize("blank", ["", "   ", "\t\n"])
def test_blank_is_unset(variable: tuple[str, str, str], blank: str) -> None:
    """A blank value is the default, or the same complaint as none at all."""
    name = variable[0]
    environ = {key: value for key, value in MUST.items() if key != name}
    blanked = environ | {name: blank}
    if name in MUST:
        assert trouble(blanked) == trouble(environ)
        assert trouble(blanked).startswith(f"{name}: must be set")
    else:
        assert Settings.from_env(blanked) == Settings.from_env(environ)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("NAME", "  My name ñ ", "name", "My name ñ"),
        ("DESCRIPTION", "d", "description", "d"),
        ("SCHEME", "HTTPS", "scheme", "https"),
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("HOST", "[::1]", "host", "::1"),
        ("HOST", "my-Host.local", "host", "my-Host.local"),
        ("PORT", " 59666 ", "port", 59666),
        ("PORT", "0", "port", 0),
        ("PORT", "65535", "port", 65535),
        ("BASE_PATH", "vidra/ /v1/", "base_path", "/vidra/v1"),
        ("BASE_PATH", "//", "base_path", "/"),
        ("API_ROOT", "rest", "api_root", "/rest"),
        ("WS_OVERVIEW_PATH", "/o", "ws_overview_path", "/o"),
        ("WS_JOB_PATH", "/j", "ws_job_path", "/j"),
        ("HEALTH_PATH", "up", "health_path", "/up"),
        ("METADATA", '{"a": {"b": [1]}}', "metadata", {"a": {"b": [1]}}),
        ("TIMEOUT_SECONDS", "5", "timeout_seconds", 5),
        ("LOG_LEVEL", "TRACE", "log_level", "trace"),
        ("LOG_LEVEL", "loud", "log_level", "info"),
        ("LOG_FILE", "/var/log/v", "log_file", Path("/var/log/v")),
        ("STATUS_FILE", "/a/../s", "status_file", Path("/s")),
        ("LOCK_FILE", "/l", "lock_file", Path("/l")),
        ("DATA", "here", "data", Path.cwd() / "here"),
        ("VERBOSE", "Yes", "verbose", True),
        ("DEBUG", "on", "debug", True),
        ("DIAGNOSTICS", "y", "diagnostics", True),
        ("DIAGNOSTICS", "off", "diagnostics", False),
        ("VIDRA_ENABLE_PREVIEW_API", "1", "preview_api", True),
        ("ALLOW_LOCAL", "true", "allow_local", True),
        ("ALLOWED_HOSTS", "A.example, ,[::1],10.0.0.1", "allowed_hosts",
         ("a.example", "::1", "10.0.0.1")),
        ("ALLOWED_ORIGINS", "https://A.example/,http://b:80,http://[::1]:8080", "allowed_origins",
         ("https://a.example", "http://b", "http://[::1]:8080")),
        ("MAX_BODY", "1", "max_body", 1),
        ("MAX_CONCURRENT", "16", "max_concurrent", 16),
        ("RETRIES", "10", "retries", 10),
        ("STALL_SECONDS", "90", "stall_limits", StallLimits(90, 90, 90, 90)),
        ("STALL_SECONDS", " extract=1.5, transfer=0 ", "stall_limits",
         StallLimits(extract=1.5, transfer=0)),
        ("ENGINE", " Process ", "engine", "process"),
        ("ENGINE", "thread", "engine", "thread"),
        ("EMBEDDED", "1", "embedded", True),
    ],
)  # fmt: skip
def test_values(name: str, text: str, field: str, value: object) -> None:
    """Each variable is trimmed and parsed, and changes its own field."""
    settings = read(**{name: text})
    assert getattr(settings, field) == value


WRONG = [
    ("NAME", "two\nlines", "one line"),
    ("DESCRIPTION", "half \ud800", "one line"),
    ("SCHEME", "ftp", "http or https"),
    ("HOST", "a b", "a host name or an IP address"),
    ("HOST", "http://a", "a host name or an IP address"),
    ("PORT", "http", "an integer from 0 to 65535"),
    ("PORT", "65536", "an integer from 0 to 65535"),
    ("PORT", "-1", "an integer from 0 to 65535"),
    ("PORT", "5_000", "an integer from 0 to 65535"),
    ("PORT", "5000.0", "an integer from 0 to 65535"),
    ("PORT", "9" * 5000, "an integer from 0 to 65535"),
    ("BASE_PATH", "/a?b", "a URL path"),
    ("API_ROOT", "/a/../b", "a URL path"),
    ("WS_JOB_PATH", "/<id>", "a URL path"),
    ("METADATA", "[]", "a JSON object"),
    ("METADATA", "{", "a JSON object"),
    ("METADATA", '{"a": NaN}', "a JSON object"),
    ("METADATA", '{"a": "\\ud800"}', "a JSON object"),
    ("METADATA", "[" * 100_000, "a JSON object"),
    ("TIMEOUT_SECONDS", "soon", "an integer from 0"),
    ("VERBOSE", "maybe", "1, true, yes, on, or 0"),
    ("VIDRA_ENABLE_PREVIEW_API", "2", "1, true, yes, on, or 0"),
    ("DOWNLOAD_ROOTS", f"/a{os.pathsep}b", "absolute folders"),
    ("ALLOWED_HOSTS", "a.example:80", "host names or IP addresses, by comma, without port"),
    ("ALLOWED_HOSTS", "*", "host names"),
    ("ALLOWED_ORIGINS", "a.example", "origins such as"),
    ("ALLOWED_ORIGINS", "null", "origins such as"),
    ("ALLOWED_ORIGINS", "https://a.example/path", "origins such as"),
    ("MAX_BODY", "1 MiB", "an integer from 1"),
    ("MAX_CONCURRENT", "0", "an integer from 1"),
    ("RETRIES", "11", "an integer from 0 to 10"),
    ("RETRIES", "-1", "an integer from 0 to 10"),
    ("STALL_SECONDS", "soon", "seconds for all phases, or extract="),
    ("STALL_SECONDS", "-1", "seconds for all phases"),
    ("STALL_SECONDS", "nan", "seconds for all phases"),
    ("STALL_SECONDS", "lunch=5", "seconds for all phases"),
    ("STALL_SECONDS", "extract=1,", "seconds for all phases"),
    ("STALL_SECONDS", "9" * 5000, "seconds for all phases"),
    ("ENGINE", "fork", "auto, process or thread"),
    ("ENGINE", "auto,thread", "auto, process or thread"),
    ("EMBEDDED", "perhaps", "1, true, yes, on, or 0"),
]


@pytest.mark.parametrize(("name", "text", "expected"), WRONG)
def test_what_is_wrong_is_said_in_one_line(name: str, text: str, expected: str) -> None:
    """The message names the variable and what was expected, shows the value, and is one line."""
    full = name if name.startswith("VIDRA_") else f"VIDRA_SERVER_{name}"
    message = trouble(MUST | {full: text})
    assert message.startswith(f"{full}: expected ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 300


@pytest.mark.parametrize("name", ["VIDRA_SERVER_DATA", "VIDRA_SERVER_CACHE"])
def test_folders_must_be_set(name: str) -> None:
    """There is no default for what holds somebody's history."""
    environ = {key: value for key, value in MUST.items() if key != name}
    assert trouble(environ) == f"{name}: must be set to a folder"


def test_home_is_expanded(home: Path) -> None:
    """`.env` files know no `~`, their readers do."""
    assert read(DATA="~/vidra").data == home / "vidra"


def test_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home `~` is an error, and nothing else needs one."""

    def nobody(path: object) -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setattr(Path, "home", lambda: nobody(None))
    assert "no home directory" in trouble(MUST)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "home", lambda: nobody(None))
    assert read().download_dir == Path("/srv/vidra/data/downloads")
    assert read().path_rules.home == ""


def test_the_process_environment_is_read_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is os.environ, and it stays as it is."""
    for name, value in MUST.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert Settings.from_env().token == TOKEN
    assert dict(os.environ) == before


# -- token


@pytest.mark.parametrize("token", [TOKEN, "with spaces and ñ ✓ in it", "x" * 4000])
def test_any_line_of_text_is_a_token(token: str) -> None:
    """The contract says: any text that is not blank, trimmed."""
    assert read(TOKEN=f"  {token}\n").token == token


@pytest.mark.parametrize("token", ["secret\nhalf", "secret\x00", "secret\ud800", "secret\u2028s"])
def test_a_token_that_nobody_can_send_is_refused(token: str) -> None:
    """Control characters and half surrogates fit no header; the message shows nothing of it."""
    message = trouble(MUST | {"VIDRA_SERVER_TOKEN": token})
    assert message.startswith("VIDRA_SERVER_TOKEN: expected one line")
    assert "secret" not in message


@pytest.mark.parametrize("token", ["changeme", "CHANGE-ME", "put-your-token-here"])
def test_a_token_that_everybody_knows_is_refused(token: str) -> None:
    """What stands in examples keeps nobody out."""
    message = trouble(MUST | {"VIDRA_SERVER_TOKEN": token})
    assert "vidra-trio token new" in message
    assert token not in message


def test_a_short_token_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It works, it is said, and it is not shown."""
    with caplog.at_level(logging.WARNING):
        assert read(TOKEN="fifteen letters").token == "fifteen letters"
        assert len(caplog.messages) == 1
        assert "fifteen letters" not in caplog.text
        read(TOKEN="sixteen  letters")
    assert len(caplog.messages) == 1


def test_a_token_file(tmp_path: Path) -> None:
    """Its content, trimmed, is the token; a byte order mark is no part of it."""
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbf " + TOKEN.encode() + b"\r\n")
    environ = MUST | {"VIDRA_SERVER_TOKEN": " ", "VIDRA_SERVER_TOKEN_FILE": str(file)}
    assert Settings.from_env(environ).token == TOKEN


def test_the_token_itself_wins_over_its_file() -> None:
    """What is said directly counts; the file is not even opened."""
    assert read(TOKEN_FILE="/no/such/file").token == TOKEN


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"t" * 20_000, "a file with one token"),
        (b"one\ntwo", "one line"),
    ],
)
def test_a_token_file_without_a_token(tmp_path: Path, content: bytes | None, why: str) -> None:
    """Missing, empty, binary, endless: each is said in one line about the right variable."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    environ = {**MUST, "VIDRA_SERVER_TOKEN": "", "VIDRA_SERVER_TOKEN_FILE": str(file)}
    message = trouble(environ)
    assert message.startswith("VIDRA_SERVER_TOKEN_FILE: expected ")
    assert why in message
    assert message.isprintable()


def test_new_tokens_are_long_and_different() -> None:
    """64 characters of base64url, never twice."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{64}", token) for token in tokens)


def test_the_token_is_not_in_the_repr() -> None:
    """Settings may be logged."""
    assert TOKEN not in repr(read())


# -- downloads


def test_the_download_folder(home: Path, tmp_path: Path) -> None:
    """What is set, else the first root, else the user's Downloads, else below DATA."""
    roots = f"{tmp_path}/a{os.pathsep}{tmp_path}/b"
    assert read().download_dir == Path("/srv/vidra/data/downloads")
    (home / "Downloads").mkdir()
    assert read().download_dir == home / "Downloads"
    assert read(DOWNLOAD_ROOTS=roots).download_dir == tmp_path / "a"
    chosen = read(DOWNLOAD_ROOTS=roots, DOWNLOAD_DIR=f"{tmp_path}/b/c")
    assert chosen.download_dir == tmp_path / "b/c"
    assert chosen.download_roots == (tmp_path / "a", tmp_path / "b")


def test_the_download_folder_lies_in_a_root() -> None:
    """Two settings that contradict each other are an error, not a surprise later."""
    environ = {"VIDRA_SERVER_DOWNLOAD_ROOTS": "/a", "VIDRA_SERVER_DOWNLOAD_DIR": "/ab"}
    assert trouble(MUST | environ).startswith("VIDRA_SERVER_DOWNLOAD_DIR: expected a folder inside")


def test_path_rules(home: Path) -> None:
    """Data and cache are closed, the default folder inside DATA is open."""
    rules = read(ALLOW_LOCAL="1").path_rules
    assert rules.allow_local
    assert rules.home == str(home)
    assert refusal("/srv/vidra/data/job_options", rules)
    assert refusal("/srv/vidra/cache", rules)
    assert refusal("/srv/vidra/data/downloads/a", rules) is None
    assert refusal("/somewhere/else", rules) is None


def test_path_rules_know_links(tmp_path: Path) -> None:
    """A root or a data folder behind a link is the same place under both names."""
    for name in ("data", "files"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.link").symlink_to(tmp_path / name)
    rules = read(DATA=f"{tmp_path}/data.link", DOWNLOAD_ROOTS=f"{tmp_path}/files.link").path_rules
    assert refusal(f"{tmp_path}/files/a", rules) is None
    assert refusal(f"{tmp_path}/files.link/a", rules) is None
    assert refusal(f"{tmp_path}/other", rules)
    open_rules = read(DATA=f"{tmp_path}/data.link").path_rules
    assert refusal(f"{tmp_path}/data/a", open_rules)
    assert refusal(f"{tmp_path}/data.link/a", open_rules)


def test_private_settings(tmp_path: Path) -> None:
    """A server of one's own: loopback, any port, a fresh token, files below one folder."""
    settings = Settings.private(tmp_path, download_dir=Path("/dl"), max_concurrent=1)
    other = Settings.private(tmp_path, download_dir=Path("/dl"))
    assert (settings.host, settings.port, settings.max_concurrent) == ("127.0.0.1", 0, 1)
    assert settings.token != other.token
    assert settings.download_dir == Path("/dl")
    for path in (settings.data, settings.cache, settings.log_file, settings.status_file):
        assert path.is_relative_to(tmp_path)


def test_settings_are_frozen() -> None:
    """Nobody changes them after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().port = 1  # type: ignore[misc]


# -- the example


def example() -> dict[str, str]:
    """Return the variables of `.env.example`, commented out ones too."""
    lines = re.findall(r"^(?:# )?(VIDRA_[A-Z_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    return dict(lines)


def test_the_example_documents_every_variable() -> None:
    """Every variable that is read is in `.env.example`, and no other."""
    assert sorted(example()) == sorted(variable.name for variable in VARIABLES)


class Spy(Mapping[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def test_the_table_names_every_variable_that_is_read() -> None:
    """Reading asks for exactly the variables of the table."""
    spy = Spy(MUST)
    Settings.from_env(spy)
    assert spy.asked == {variable.name for variable in VARIABLES}


def test_the_example_works_once_it_has_a_token(home: Path) -> None:
    """As it is it has no token; with one, it says the defaults."""
    given = example()
    assert trouble(given).startswith("VIDRA_SERVER_TOKEN: must be set")
    settings = Settings.from_env(given | {"VIDRA_SERVER_TOKEN": TOKEN})
    bare = {key: given[key] for key in ("VIDRA_SERVER_DATA", "VIDRA_SERVER_CACHE")}
    assert settings == Settings.from_env(bare | {"VIDRA_SERVER_TOKEN": TOKEN})
    assert settings.data.is_relative_to(home)


def test_the_table_says_the_defaults() -> None:
    """A default that the table spells as a value is the one that counts."""
    texts = {v.name: v.default for v in VARIABLES if v.default not in ("must be set", "unset")}
    words = {name for name, text in texts.items() if text == "empty" or "DATA" in text}
    values = {name: text for name, text in texts.items() if name not in words}
    assert Settings.from_env(MUST | values) == read()
