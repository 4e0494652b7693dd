"""A job's options: one table, key -> reader -> yt-dlp parameter.

1. A key that is not in the table is stored and echoed, never forwarded: clients
   keep settings of their own among the options.
2. A key in `NEVER` runs code, reads or writes any file, or lowers a guard. It is
   refused when its value switches something on; false and blank pass.
3. An option that is absent (or null) has its `default`. One that is there but
   says nothing has its `blank`, which is off, or what yt-dlp's command line
   takes: so a client switches a default off. Zero is a value.
4. The parameters are JSON values. Where several options decide one together,
   formats, postprocessors and network work on the parsed table.
5. One run is one item: whether an error stops the others is the server's affair,
   so `ignore_errors` and `abort_on_error` change nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import formats, network, paths, postprocessors, readers, templates
from vidra_trio.core.errors import InvalidRequest, OptionNotAllowed
from vidra_trio.core.readers import BadValue, flag, matching, text, whole, words
from vidra_trio.core.redact import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vidra_trio.core.errors import Detail
    from vidra_trio.core.paths import PathRules
    from vidra_trio.core.readers import Reader


@dataclass(frozen=True, slots=True)
class Option:
    """How one key is read, and the parameter that takes what was read as it is."""

    read: Reader
    param: str | None = None
    default: Any = None
    blank: Any = None


def switch(param: str | None = None, *, default: bool = False) -> Option:
    """Return an option that is on or off; blank is off."""
    return Option(flag, param, default, blank=False)


def _any(value: object) -> object:
    """Take anything: the option is kept for its owner and does nothing."""
    return value


_CHOOSE_EXTRACTORS: Final = words(r"-?\w[\w.:\- ]*", "names of extractors")


def extractors(value: object) -> tuple[str, ...] | None:
    """Read `use_extractors`; `all`, `default` and True choose none.

    yt-dlp's `all` adds nothing to its `default` but seven names that stand for its
    generic extractor, and choosing by name costs a look at all 1,800 classes.
    """
    chosen: tuple[str, ...] | None = None if value is True else _CHOOSE_EXTRACTORS(value)
    return None if chosen in (("all",), ("default",)) else chosen


def _unless_bool(read: Reader) -> Reader:
    """Return `read` for an option that clients also send as a mere true or false."""
    return lambda value: None if isinstance(value, bool) else read(value)


# fmt: off
OPTIONS: Final[Mapping[str, Option]] = {
    # What to take (formats.py)
    "video_resolution":    Option(formats.video),
    "audio_language":      Option(formats.audio),
    "format":              Option(readers.strict_text),
    "extract_audio":       switch(),
    "video_multistreams":  switch("allow_multiple_video_streams", default=True),
    "audio_multistreams":  switch("allow_multiple_audio_streams", default=True),
    "video_subtitles":     Option(formats.subtitles),
    "sub_langs":           Option(words(r"-?\w[\w.*\-]*|\.\*", "language codes")),
    "sub_format":          Option(matching(r"\w+(/\w+)*", "formats such as srt or ass/srt/best"),
                                  default="srt", blank="best"),
    "write_subs":          switch(),
    "write_auto_subs":     switch(),

    # What becomes of it (postprocessors.py)
    "merge_output_format": Option(matching("(?:{0})(?:/(?:{0}))*".format("|".join(postprocessors.VIDEO_TARGETS)),
                                           "of: " + ", ".join(postprocessors.VIDEO_TARGETS)),
                                  "merge_output_format", "mkv"),
    "remux_video":         Option(readers.conversion(*postprocessors.REMUX_TARGETS)),
    "audio_format":        Option(readers.conversion("best", *postprocessors.AUDIO_TARGETS), None, "best", "best"),
    "audio_quality":       Option(readers.audio_quality, None, "0", "5"),
    "embed_subs":          switch(default=True),
    "embed_thumbnail":     switch(default=True),
    "embed_metadata":      switch(default=True),
    "embed_chapters":      switch(default=True),
    "embed_info_json":     switch(default=True),
    "write_thumbnail":     switch(),
    "convert_thumbnails":  Option(readers.conversion(*postprocessors.THUMBNAIL_TARGETS), None, "webp"),
    "xattrs":              switch(),
    "fixup":               Option(readers.choice(*postprocessors.FIXUPS), "fixup", "force"),
    "sponsorblock_mark":   Option(postprocessors.sponsor_categories()),
    "sponsorblock_remove": Option(postprocessors.sponsor_categories(removable=True)),
    "ffmpeg_location":     Option(text),

    # How to get it (network.py)
    "proxy":                   Option(network.proxy, "proxy"),
    "geo_verification_proxy":  Option(network.proxy, "geo_verification_proxy"),
    "xff":                     Option(network.forwarded_for),
    "source_address":          Option(network.source_address, "source_address"),
    "force_ipv4":              switch(),
    "force_ipv6":              switch(),
    "prefer_insecure":         switch("prefer_insecure"),
    "add_headers":             Option(network.headers, "http_headers"),
    "impersonate":             Option(network.impersonate, "impersonate"),
    "limit_rate":              Option(network.rate, "ratelimit"),
    "socket_timeout":          Option(whole(1, 300, blank=(0,)), "socket_timeout", 15, 15),
    "retries":                 Option(readers.retries, "retries", 10, 10),
    "fragment_retries":        Option(readers.retries, "fragment_retries", 10, 10),
    "file_access_retries":     Option(readers.retries, "file_access_retries", 5, 5),
    "extractor_retries":       Option(readers.retries, "extractor_retries", 3, 3),
    "concurrent_fragments":    Option(whole(1, 32, blank=(0,)), "concurrent_fragment_downloads", 1, 1),
    "abort_on_unavailable_fragments": switch(),
    "keep_fragments":          switch("keep_fragments"),
    "live_from_start":         switch("live_from_start", default=True),
    "wait_for_video":          Option(readers.wait_for_video, "wait_for_video"),
    "use_extractors":          Option(extractors, "allowed_extractors"),

    # Who asks
    "username":             Option(text),
    "password":             Option(text),
    "twofactor":            Option(text, "twofactor"),
    "video_password":       Option(text, "videopassword"),
    "cookies":              Option(_unless_bool(text)),
    "cookies_from_browser": Option(network.browser_cookies, "cookiesfrombrowser"),
    "mark_watched":         switch("mark_watched"),

    # Where it goes (paths.py); the engine's parameters
    "paths":            Option(paths.read_paths),
    "output":           Option(templates.output),
    "force_overwrites": switch(default=True),

    # Which items
    "playlist":                   switch(default=True),
    "playlist_items":             Option(readers.playlist_items, "playlist_items"),
    "flat_playlist":              switch(),
    "download_archive":           Option(text),
    "break_on_existing":          switch("break_on_existing"),
    "skip_playlist_after_errors": Option(_unless_bool(whole(0, 100_000)), "skip_playlist_after_errors"),
    "ignore_errors":              switch(default=True),
    "abort_on_error":             switch(),

    # Kept for their owner, without effect: a command line and what is like one
    "cli_args":         Option(_any),
    "enable_file_urls": Option(_any),
    "output_dir":       Option(text),
    "defer_complete":   switch(),
    "playlist_start":   Option(whole(-10**9, 10**9)),
    "playlist_end":     Option(whole(-10**9, 10**9)),
}
# fmt: on

_CODE: Final = "it runs programs or code"
_FILES: Final = "it reads or writes files of this machine"
_GUARD: Final = "it lowers a guard"

NEVER: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        "alias config_location config_locations downloader downloader_args exec exec_before_dl_cmd"
        " exec_before_download exec_cmd external_downloader external_downloader_args js_runtimes"
        " netrc_cmd plugin_dirs postprocessor_args postprocessors ppa remote_components update"
        " update_to use_postprocessor".split(),
        _CODE,
    ),
    **dict.fromkeys(
        "ap_mso ap_password ap_username batch_file cache_dir client_certificate"
        " client_certificate_key client_certificate_password load_info load_info_json netrc"
        " netrc_location print_to_file rm_cache_dir usenetrc write_desktop_link write_link"
        " write_url_link write_webloc_link".split(),
        _FILES,
    ),
    **dict.fromkeys(
        "legacy_server_connect no_check_certificate no_check_certificates".split(), _GUARD
    ),
}
UNSAFE_EXTENSIONS: Final = "allow-unsafe-ext"
"""The one compatibility option that lets a site choose a file's extension freely."""

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
            stored = _NORMAL.get(key, _any)(value)
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
    return [readers.plain(item) for item in items if not readers.unset(item)] or None


_NORMAL: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(("format", "output", "playlist_items", "download_archive"), _trimmed),
    "output_dir": _trimmed,
    "paths": paths.read_paths,
    "cli_args": _arguments,
    **dict.fromkeys(("playlist", "force_overwrites", "defer_complete"), flag),
    **dict.fromkeys(("playlist_start", "playlist_end"), whole(-(10**9), 10**9)),
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
        if UNSAFE_EXTENSIONS in repr(options.get(key)):
            raise OptionNotAllowed(key, _GUARD)
    parse(options)
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
        extract_flat="in_playlist" if values["flat_playlist"] else False,
        format=formats.selector(values),
    )
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
    if key == "add_headers" and isinstance(value, (str, list, tuple)):
        return MASK if any(_is_secret(name) for name, _ in _headers_of({key: value})) else value
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
