"""The table of options: key -> reader -> yt-dlp parameter.

1. A key that is not in the table is stored and echoed, never forwarded: clients
   keep settings of their own among the options.
2. A key in `NEVER` runs code, reads or writes any file, or lowers a guard. It is
   refused when its value switches something on; false and blank pass.
3. An option that is absent (or null) has its `default`. One that is there but
   says nothing has its `blank`, which is off, or what yt-dlp's command line
   takes: so a client switches a default off. Zero is a value.
4. Where several options decide one parameter together, `param` is None and
   formats, postprocessors, network or paths make it of the parsed table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core import formats, network, paths, postprocessors, readers, templates
from vidra_trio.core.readers import flag, matching, text, whole, words

if TYPE_CHECKING:
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


def anything(value: object) -> object:
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


_CONTAINER: Final = "|".join(postprocessors.VIDEO_TARGETS)
_MERGE_FORMATS: Final = matching(
    rf"(?:{_CONTAINER})(?:/(?:{_CONTAINER}))*", "of: " + ", ".join(postprocessors.VIDEO_TARGETS)
)
_REMUX: Final = readers.conversion(*postprocessors.REMUX_TARGETS)
_AUDIO_FORMAT: Final = readers.conversion("best", *postprocessors.AUDIO_TARGETS)
_THUMBNAILS: Final = readers.conversion(*postprocessors.THUMBNAIL_TARGETS)
_SUB_LANGS: Final = words(r"-?\w[\w.*\-]*|\.\*", "language codes")
_SUB_FORMAT: Final = matching(r"\w+(?:/\w+)*", "formats such as srt or ass/srt/best")
_FRAGMENTS: Final = whole(1, 32, zero_is_blank=True)
_SOCKET_SECONDS: Final = whole(1, 300, zero_is_blank=True)
_SKIP_AFTER: Final = _unless_bool(whole(0, 100_000))
ANY_INDEX: Final = whole(-(10**9), 10**9)

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
    "sub_langs":           Option(_SUB_LANGS),
    "sub_format":          Option(_SUB_FORMAT, default="srt", blank="best"),
    "write_subs":          switch(),
    "write_auto_subs":     switch(),

    # What becomes of it (postprocessors.py)
    "merge_output_format": Option(_MERGE_FORMATS, "merge_output_format", "mkv"),
    "remux_video":         Option(_REMUX),
    "audio_format":        Option(_AUDIO_FORMAT, default="best", blank="best"),
    "audio_quality":       Option(readers.audio_quality, default="0", blank="5"),
    "embed_subs":          switch(default=True),
    "embed_thumbnail":     switch(default=True),
    "embed_metadata":      switch(default=True),
    "embed_chapters":      switch(default=True),
    "embed_info_json":     switch(default=True),
    "write_thumbnail":     switch(),
    "convert_thumbnails":  Option(_THUMBNAILS, default="webp"),
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
    "socket_timeout":          Option(_SOCKET_SECONDS, "socket_timeout", 15, 15),
    "retries":                 Option(readers.retries, "retries", 10, 10),
    "fragment_retries":        Option(readers.retries, "fragment_retries", 10, 10),
    "file_access_retries":     Option(readers.retries, "file_access_retries", 5, 5),
    "extractor_retries":       Option(readers.retries, "extractor_retries", 3, 3),
    "concurrent_fragments":    Option(_FRAGMENTS, "concurrent_fragment_downloads", 1, 1),
    "abort_on_unavailable_fragments": switch(),
    "keep_fragments":          switch("keep_fragments"),
    "live_from_start":         switch("live_from_start", default=True),
    "wait_for_video":          Option(readers.wait_for_video, "wait_for_video"),
    "use_extractors":          Option(extractors, "allowed_extractors"),

    # Who asks
    "username":             Option(text),
    "password":             Option(readers.verbatim),
    "twofactor":            Option(text, "twofactor"),
    "video_password":       Option(readers.verbatim, "videopassword"),
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
    "skip_playlist_after_errors": Option(_SKIP_AFTER, "skip_playlist_after_errors"),
    "ignore_errors":              switch(default=True),
    "abort_on_error":             switch(),

    # Kept for their owner, without effect: a command line and what is like one
    "cli_args":         Option(anything),
    "enable_file_urls": Option(anything),
    "output_dir":       Option(text),
    "defer_complete":   switch(),
    "playlist_start":   Option(ANY_INDEX),
    "playlist_end":     Option(ANY_INDEX),
}
# fmt: on

_CODE: Final = """
    alias config_location config_locations downloader downloader_args exec exec_before_dl_cmd
    exec_before_download exec_cmd external_downloader external_downloader_args js_runtimes
    netrc_cmd plugin_dirs postprocessor_args postprocessors ppa remote_components update_to
    use_postprocessor
"""
_FILES: Final = """
    ap_mso ap_password ap_username batch_file cache_dir client_certificate
    client_certificate_key client_certificate_password load_info load_info_json netrc
    netrc_location print_to_file rm_cache_dir usenetrc write_desktop_link write_link
    write_url_link write_webloc_link
"""
_GUARDS: Final = "legacy_server_connect no_check_certificate no_check_certificates"
LOWERS_A_GUARD: Final = "it lowers a guard"

NEVER: Final[Mapping[str, str]] = {
    **dict.fromkeys(_CODE.split(), "it runs programs or code"),
    **dict.fromkeys(_FILES.split(), "it reaches files of this machine, or other accounts"),
    **dict.fromkeys(_GUARDS.split(), LOWERS_A_GUARD),
}
UNSAFE_EXTENSIONS: Final = "allow-unsafe-ext"
"""The one compatibility option that lets a site choose a file's extension freely."""
