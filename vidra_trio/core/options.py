"""What a client may ask, what is stored of it, and what yt-dlp gets.

`clean` gives what is stored and echoed, `check` refuses what a job must not begin
with, `ytdlp_params` forwards; the table they share is in option_table.py. One run
is one item: whether an error stops the others is the server's affair, so
`ignore_errors` and `abort_on_error` change nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import formats, network, paths, postprocessors, readers
from vidra_trio.core.errors import InvalidRequest, OptionNotAllowed
from vidra_trio.core.option_table import (
    ANY_INDEX,
    LOWERS_A_GUARD,
    NEVER,
    OPTIONS,
    UNSAFE_EXTENSIONS,
    anything,
)
from vidra_trio.core.readers import BadValue, flag
from vidra_trio.core.redact import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidra_trio.core.errors import Detail
    from vidra_trio.core.paths import PathRules
    from vidra_trio.core.readers import Reader

CAMEL_CASE: Final[Mapping[str, str]] = {
    "playlistItems": "playlist_items",
    "playlistStart": "playlist_start",
    "playlistEnd": "playlist_end",
    "forceOverwrites": "force_overwrites",
    "downloadArchive": "download_archive",
    "outputDir": "output_dir",
    "cliArgs": "cli_args",
    "deferComplete": "defer_complete",
}

SECRET_KEYS: Final = frozenset(
    {"username", "password", "twofactor", "video_password", "cookies_from_browser"}
)
_SECRET_HEADERS: Final = ("auth", "cookie", "token", "key", "secret", "password", "session")


# --------------------------------------------------------------- what is stored


def clean(options: Mapping[str, object]) -> dict[str, Any]:
    """Return `options` as they are stored and echoed.

    Nulls go, the camelCase spellings become snake_case (which wins when both are
    there), and the few keys that always were normalised are; the rest stays as it
    came. What is known is checked for its type.

    Raises:
        InvalidRequest: all that is wrong at once, by key.
    """
    given = {key: value for key, value in options.items() if value is not None}
    spelled = {CAMEL_CASE[key]: value for key, value in given.items() if key in CAMEL_CASE}
    spelled.update((key, value) for key, value in given.items() if key not in CAMEL_CASE)
    kept: dict[str, Any] = {}
    wrong: dict[str, Detail] = {}
    for key, value in spelled.items():
        try:
            _check_text_and_numbers(value)
            stored = _NORMAL.get(key, anything)(value)
            if key in OPTIONS:
                OPTIONS[key].read(stored)
        except BadValue as bad:
            wrong[key] = bad.detail
        else:
            if stored is not None:
                kept[key] = stored
    if wrong:
        raise InvalidRequest({"options": wrong})
    return kept


def _trimmed(value: object) -> object:
    """Return text trimmed, or None when it is blank; anything else as it is."""
    return (value.strip() or None) if isinstance(value, str) else value


def _arguments(value: object) -> list[str] | None:
    """Return `cli_args` as a list without blanks."""
    items = value if isinstance(value, (list, tuple)) else [value]
    arguments: list[str] = []
    for item in items:
        if isinstance(item, str):
            arguments.append(item.strip())
        elif item is not None and item is not False:
            raise BadValue(readers.NOT_STRING)
    return [argument for argument in arguments if argument] or None


_NORMAL: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(("format", "output", "playlist_items", "download_archive"), _trimmed),
    "output_dir": _trimmed,
    "paths": paths.read_paths,
    "cli_args": _arguments,
    **dict.fromkeys(("playlist", "force_overwrites", "defer_complete"), flag),
    **dict.fromkeys(("playlist_start", "playlist_end"), ANY_INDEX),
}


def _check_text_and_numbers(value: object) -> None:
    """Refuse what JSON, strictly taken, cannot say: NaN, infinities, lone surrogates."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise BadValue(readers.NOT_FINITE)
        if isinstance(item, str) and any("\ud800" <= char <= "\udfff" for char in item):
            raise BadValue(readers.NOT_UTF8)
        if isinstance(item, Mapping):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            todo += item


# ------------------------------------------------------------ what may be asked


def check(options: Mapping[str, Any], rules: PathRules) -> None:
    """Refuse all that can be refused before a job exists.

    Raises:
        OptionNotAllowed: a key that no client may use, or a path outside what is allowed.
        InvalidRequest: a value that cannot be meant.
    """
    for key, why in NEVER.items():
        if switched_on(options.get(key)):
            raise OptionNotAllowed(key, why)
    for key in ("compat_opts", "compat_options"):
        given = options.get(key)
        words = given if isinstance(given, (list, tuple)) else [given]
        if any(isinstance(word, str) and UNSAFE_EXTENSIONS in word for word in words):
            raise OptionNotAllowed(key, LOWERS_A_GUARD)
    paths.place(options, rules)
    ytdlp_params(options, rules)


def switched_on(value: object) -> bool:
    """Say whether `value` of a refused key asks for something."""
    try:
        return flag(value) or False
    except BadValue:
        return True


def parse(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every key of the table with its parsed value, its `blank` or its `default`.

    Raises:
        InvalidRequest: all that is wrong at once, by key.
    """
    values: dict[str, Any] = {}
    wrong: dict[str, Detail] = {}
    for key, option in OPTIONS.items():
        given = options.get(key)
        try:
            read = option.read(given)
        except BadValue as bad:
            wrong[key] = bad.detail
        else:
            values[key] = (
                read if read is not None else option.default if given is None else option.blank
            )
    if wrong:
        raise InvalidRequest({"options": wrong})
    return values


# --------------------------------------------------------------- what is forwarded


def ytdlp_params(options: Mapping[str, Any], rules: PathRules | None = None) -> dict[str, Any]:
    """Return what `YoutubeDL(params)` gets: JSON values only.

    `rules` place the files that options name (`cookies`, `download_archive`,
    `ffmpeg_location`); without them these options have no effect.

    Raises:
        InvalidRequest: options that `clean` would not have let through.
        OptionNotAllowed: with `rules`, a path outside what is allowed.
    """
    values = parse(options)
    params = {
        option.param: _json(values[key])
        for key, option in OPTIONS.items()
        if option.param is not None and values[key] is not None
    }
    params.update(
        ignoreerrors=False,
        noplaylist=not values["playlist"],
        skip_unavailable_fragments=not values["abort_on_unavailable_fragments"],
        format=formats.selector(values),
    )
    if values["flat_playlist"]:
        params["extract_flat"] = "in_playlist"
    params |= formats.subtitle_params(values)
    params |= postprocessors.params(values)
    params |= network.params(values)
    if rules is not None:
        params |= _files(options, values, rules)
    return params


def _json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _files(
    options: Mapping[str, Any], values: Mapping[str, Any], rules: PathRules
) -> dict[str, str]:
    directory = paths.place(options, rules).directory
    found: dict[str, str] = {}
    if values["cookies"]:
        found["cookiefile"] = paths.locate_file("cookies", values["cookies"], rules)
    if values["download_archive"]:
        archive = paths.locate("download_archive", values["download_archive"], rules)
        found["download_archive"] = archive
    if values["ffmpeg_location"]:
        found["ffmpeg_location"] = paths.locate_program(
            "ffmpeg_location", values["ffmpeg_location"], directory, rules
        )
    return found


def overwrites(options: Mapping[str, Any]) -> bool:
    """Say whether a file that is there already is replaced. Never raises."""
    try:
        chosen = flag(options.get("force_overwrites"))
    except BadValue:
        chosen = None
    return chosen is not False


# ------------------------------------------------------------------- what is shown


def mask(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `options` with `***` in place of each secret that is set."""
    return {key: _masked(key, value) for key, value in options.items()}


def secret_values(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts among `options` that must never be shown, for `redact`."""
    found = {
        str(options[key]) for key in SECRET_KEYS - {"cookies_from_browser"} if options.get(key)
    }
    found.update(value for name, value in _headers_of(options) if _is_secret(name))
    return tuple(sorted(found))


def _masked(key: str, value: object) -> object:
    if key in SECRET_KEYS:
        return MASK if value else value
    if key == "add_headers" and isinstance(value, Mapping):
        return {name: MASK if _is_secret(str(name)) else item for name, item in value.items()}
    if key == "add_headers":  # lines: rather too much than too little
        return MASK if _is_secret(str(value)) else value
    if key in ("proxy", "geo_verification_proxy") and isinstance(value, str) and "@" in value:
        return _without_userinfo(value)
    return value


def _without_userinfo(url: str) -> str:
    start = url.find("://") + 3 if "://" in url else 0
    return f"{url[:start]}{MASK}{url[url.rfind('@') :]}"


def _headers_of(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        yield from (network.headers(options.get("add_headers")) or {}).items()
    except BadValue:
        return


def _is_secret(header: str) -> bool:
    return any(word in header.casefold() for word in _SECRET_HEADERS)
