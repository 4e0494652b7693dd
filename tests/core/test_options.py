"""Options: what is stored, what is refused, what is forwarded, what is shown."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core import options as job_options
from vidra_trio.core.errors import InvalidRequest, OptionNotAllowed
from vidra_trio.core.option_table import NEVER, OPTIONS
from vidra_trio.core.options import check, clean, mask, overwrites, secret_values, ytdlp_params
from vidra_trio.core.paths import PathRules
from vidra_trio.core.readers import BadValue

RULES = PathRules("/home/u/Downloads", home="/home/u", forbidden=("/data",))

# What the Flutter client sends with every job of a fresh install.
CLIENT_DEFAULTS: dict[str, Any] = {
    "audio_language": "best", "video_resolution": "best", "video_subtitles": "none",
    "ignore_errors": True, "abort_on_error": False, "use_extractors": "all",
    "live_from_start": True, "wait_for_video": False, "proxy": "", "socket_timeout": 15,
    "source_address": "", "impersonate": False, "force_ipv4": False, "force_ipv6": False,
    "enable_file_urls": False, "geo_verification_proxy": "", "xff": "", "prefer_insecure": False,
    "add_headers": {}, "cookies": False, "cookies_from_browser": False, "username": "",
    "password": "", "twofactor": "", "video_password": "", "video_multistreams": True,
    "audio_multistreams": True, "merge_output_format": "mkv", "audio_format": "best",
    "extract_audio": False, "audio_quality": 0, "remux_video": False, "embed_subs": True,
    "embed_thumbnail": True, "embed_metadata": True, "embed_chapters": True,
    "embed_info_json": True, "format": "bestvideo+bestaudio/best", "xattrs": False,
    "fixup": "force", "ffmpeg_location": "", "convert_thumbnails": "webp", "write_subs": False,
    "write_auto_subs": False, "sub_format": "srt", "sub_langs": [],
    "output": "%(title)s-%(artist)s[%(id)s].%(ext)s", "playlist": False,
    "concurrent_fragments": 1, "break_on_existing": False, "skip_playlist_after_errors": False,
    "retries": 10, "file_access_retries": 5, "fragment_retries": 10, "extractor_retries": 3,
    "abort_on_unavailable_fragments": False, "keep_fragments": False, "batch_file": False,
    "force_overwrites": True, "write_thumbnail": False, "sponsorblock_mark": ["sponsor"],
    "sponsorblock_remove": [], "limit_rate": "", "paths": {"home": "/mnt/films"},
}  # fmt: skip


def refused(options: dict[str, Any]) -> object:
    """Return what `clean` says is wrong."""
    with pytest.raises(InvalidRequest) as caught:
        clean(options)
    detail = caught.value.detail
    assert isinstance(detail, dict)
    return detail["options"]


# --------------------------------------------------------------- what is stored


def test_clients_defaults_come_back_as_they_came() -> None:
    """All that the client sends by default is taken, stored and echoed unchanged."""
    assert clean(CLIENT_DEFAULTS) == CLIENT_DEFAULTS
    check(clean(CLIENT_DEFAULTS), RULES)


def test_clients_defaults_forwarded() -> None:
    """What the client's defaults come to, whole: a change here is a change for every user."""
    assert ytdlp_params(clean(CLIENT_DEFAULTS), RULES) == {
        "allow_multiple_audio_streams": True,
        "allow_multiple_video_streams": True,
        "break_on_existing": False,
        "concurrent_fragment_downloads": 1,
        "extractor_retries": 3,
        "file_access_retries": 5,
        "fixup": "force",
        "format": "bestvideo+bestaudio[acodec!=none]/bestvideo+bestaudio/best",
        "fragment_retries": 10,
        "geo_bypass": True,
        "ignoreerrors": False,
        "keep_fragments": False,
        "live_from_start": True,
        "mark_watched": False,
        "merge_output_format": "mkv",
        "noplaylist": True,
        "postprocessors": [
            {"key": "SponsorBlock", "categories": ["sponsor"],
             "api": "https://sponsor.ajay.app", "when": "after_filter"},
            {"key": "FFmpegThumbnailsConvertor", "format": "webp", "when": "before_dl"},
            {"key": "FFmpegEmbedSubtitle", "already_have_subtitle": False},
            {"key": "ModifyChapters", "remove_chapters_patterns": [],
             "remove_sponsor_segments": [], "remove_ranges": [],
             "sponsorblock_chapter_title": "[SponsorBlock]: %(category_names)l",
             "force_keyframes": False},
            {"key": "FFmpegMetadata", "add_chapters": True, "add_metadata": True,
             "add_infojson": True},
            {"key": "EmbedThumbnail", "already_have_thumbnail": False},
        ],
        "prefer_insecure": False,
        "retries": 10,
        "skip_unavailable_fragments": True,
        "socket_timeout": 15,
        "subtitlesformat": "srt",
        "subtitleslangs": [],
        "writeautomaticsub": False,
        "writesubtitles": True,
        "writethumbnail": True,
    }  # fmt: skip


def test_no_options_are_the_clients_defaults() -> None:
    """An absent key means what the client's default means, but for playlists and sponsors."""
    ours = ytdlp_params({})
    theirs = ytdlp_params(clean({**CLIENT_DEFAULTS, "sponsorblock_mark": [], "playlist": True}))
    assert ours == theirs


def test_round_trip() -> None:
    """What needs no normalisation is echoed as it came, unknown keys too."""
    sent = {
        "format": "best",
        "limit_rate": "4M",
        "retries": 3,
        "sub_langs": ["en", "es"],
        "add_headers": {"X-T": "1"},
        "paths": {"home": "/mnt/a", "subtitle": "subs", "pl_thumbnail": "x"},
        "output": ["title", ".", "ext"],
        "theme_dark": True,
        "unknown_future_option": {"a": 1, "b": [None, {}]},
        "download_archive": False,
        "proxy": " ",
    }
    assert clean(sent) == sent


def test_kinds_that_settings_screens_produce() -> None:
    """Lists, texts, numbers and false for "unset" are all taken."""
    sent = {
        **CLIENT_DEFAULTS,
        "paths": {"home": "/mnt/c5", "temp": ""},
        "audio_language": ["es", "en"],
        "video_resolution": "720",
        "video_subtitles": False,
        "playlist_items": "",
        "download_archive": False,
        "retries": False,
        "batch_file": "",
        "unknown_future_option": {"a": 1},
    }
    stored = clean(sent)
    assert "playlist_items" not in stored
    assert stored["paths"] == {"home": "/mnt/c5"}
    check(stored, RULES)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ({"format": None, "x": None}, {}),
        ({"format": "  best "}, {"format": "best"}),
        ({"format": " ", "output": "", "output_dir": "\t", "download_archive": " "}, {}),
        ({"playlist": "no"}, {"playlist": False}),
        ({"playlist": "Y", "force_overwrites": 0}, {"playlist": True, "force_overwrites": False}),
        ({"playlist": 1.0, "defer_complete": "on"}, {"playlist": True, "defer_complete": True}),
        ({"playlist": ""}, {}),
        ({"playlistItems": "1,2"}, {"playlist_items": "1,2"}),
        ({"playlistItems": "1", "playlist_items": "2"}, {"playlist_items": "2"}),
        ({"playlist_items": "2", "playlistItems": "1"}, {"playlist_items": "2"}),
        ({"playlistItems": "1", "playlist_items": None}, {"playlist_items": "1"}),
        ({"playlistStart": "3", "playlistEnd": 4.0}, {"playlist_start": 3, "playlist_end": 4}),
        ({"forceOverwrites": "true", "outputDir": "/x"},
         {"force_overwrites": True, "output_dir": "/x"}),
        ({"downloadArchive": "a.txt", "deferComplete": False},
         {"download_archive": "a.txt", "defer_complete": False}),
        ({"cliArgs": "--exec rm"}, {"cli_args": ["--exec rm"]}),
        ({"cli_args": ["-a", "", None, " b "]}, {"cli_args": ["-a", "b"]}),
        ({"cli_args": []}, {}),
        ({"cli_args": False}, {}),
        ({"paths": {"home": " /a ", "temp": "", "video": "/v", "x": None}},
         {"paths": {"home": "/a", "video": "/v"}}),
        ({"paths": {}}, {}),
        ({"enable_file_urls": True}, {"enable_file_urls": True}),
    ],
)  # fmt: skip
def test_normalisation(sent: dict[str, Any], stored: dict[str, Any]) -> None:
    """The few keys that always were normalised are; nothing else."""
    assert clean(sent) == stored
    assert clean(stored) == stored


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", ["best"], "Not a valid string."),
        ("format", 5, "Not a valid string."),
        ("format", False, "Not a valid string."),
        ("format", "a" * 4097, "Longer than maximum length 4096."),
        ("format", "best\nworst", "Control characters are not allowed."),
        ("output", 5, "Not a valid string."),
        ("playlist", "maybe", "Not a valid boolean."),
        ("playlist", [1], "Not a valid boolean."),
        ("extract_audio", 2, "Not a valid boolean."),
        ("retries", "many", "Not a valid integer."),
        ("retries", True, "Not a valid integer."),
        ("retries", 1.5, "Not a valid integer."),
        ("retries", float("nan"),
         "Special numeric values (nan or infinity) are not permitted."),
        ("retries", 101, "Must be at least 0 and at most 100."),
        ("retries", -1, "Must be at least 0 and at most 100."),
        ("concurrent_fragments", 33, "Must be at least 1 and at most 32."),
        ("socket_timeout", 301, "Must be at least 1 and at most 300."),
        ("playlist_items", 5, "Not a valid string."),
        ("download_archive", True, "Not a valid string."),
        ("output_dir", {"a": 1}, "Not a valid string."),
        ("cli_args", 5, "Not a valid string."),
        ("cli_args", [["x"]], "Not a valid string."),
        ("paths", "x", "Not a valid mapping type."),
        ("add_headers", 5, "Not a valid mapping type."),
        ("unknown", [{"a": float("inf")}],
         "Special numeric values (nan or infinity) are not permitted."),
        ("unknown", {"\ud800": 1}, "Not a valid utf-8 string."),
    ],
)  # fmt: skip
def test_wrong_types(key: str, value: object, message: str) -> None:
    """A wrong type is told by key, in the words that clients know."""
    assert refused({key: value}) == {key: [message]}


def test_all_that_is_wrong_is_told_at_once() -> None:
    """One answer names every wrong key, nested ones inside their own."""
    wrong = refused({"format": 1, "playlist": "x", "paths": {"home": 1, "temp": "/t"}})
    assert wrong == {
        "format": ["Not a valid string."],
        "playlist": ["Not a valid boolean."],
        "paths": {"home": ["Not a valid string."]},
    }


# ------------------------------------------------------------ what may be asked


@pytest.mark.parametrize("key", sorted(NEVER))
def test_never(key: str) -> None:
    """A dangerous key is refused when it asks for something, and harmless when it does not."""
    assert key not in OPTIONS
    on: list[object] = ["rm -rf /", ["x"], {"a": 1}, True, "yes", 1, 5]
    off: list[object] = [False, None, "", " ", [], {}, 0, "false", "no"]
    for value in on:
        with pytest.raises(OptionNotAllowed, match=rf"options\.{key}"):
            check(clean({key: value}), RULES)
    for value in off:
        check(clean({key: value}), RULES)


@pytest.mark.parametrize("key", ["compat_opts", "compat_options"])
def test_unsafe_extensions(key: str) -> None:
    """The site never chooses a file's extension freely; other compatibility is just ignored."""
    for value in ("allow-unsafe-ext", ["filename", "allow-unsafe-ext"]):
        with pytest.raises(OptionNotAllowed):
            check({key: value}, RULES)
    check({key: ["filename"]}, RULES)


@pytest.mark.parametrize(
    "options",
    [
        {"cli_args": ["--exec", "rm -rf /"]},
        {"cliArgs": "--config-locations /etc"},
        {"enable_file_urls": True},
        {"output_dir": "/etc", "defer_complete": True, "playlist_start": 2, "playlist_end": -1},
        {"theme_dark": True, "__class__": "x", "postprocessor": "exec", "outtmpl": "/etc/x"},
        {"ignore_errors": False, "abort_on_error": True},
    ],
)
def test_stored_without_effect(options: dict[str, Any]) -> None:
    """What is unknown, or no client's to decide, is stored and never forwarded."""
    stored = clean(options)
    assert len(stored) == len(options)
    check(stored, RULES)
    assert ytdlp_params(stored, RULES) == ytdlp_params({}, RULES)


@pytest.mark.parametrize(
    "options",
    [
        {"paths": {"home": "/etc"}},
        {"output": "../x"},
        {"cookies": "/etc/shadow"},
        {"download_archive": "/data/state.json"},
        {"download_archive": "../x"},
        {"ffmpeg_location": "/home/u/Downloads/ffmpeg"},
        {"ffmpeg_location": "/mnt/a/ffmpeg", "paths": {"home": "/mnt/a"}},
        {"ffmpeg_location": "bin/ffmpeg"},
    ],
)
def test_paths_outside(options: dict[str, Any]) -> None:
    """A path outside what is allowed is refused before a job exists."""
    with pytest.raises(OptionNotAllowed):
        check(clean(options), RULES)


def test_check_refuses_wrong_types_of_stored_options() -> None:
    """Options that never went through `clean` (an old state file) are told the same way."""
    with pytest.raises(InvalidRequest) as caught:
        check({"retries": "many", "playlist": "x"}, RULES)
    assert caught.value.detail == {
        "options": {"retries": ["Not a valid integer."], "playlist": ["Not a valid boolean."]}
    }


# --------------------------------------------------------------- what is forwarded


def test_files_need_rules() -> None:
    """Files that options name are placed by the rules, and only with them."""
    options = clean(
        {"cookies": "c.txt", "download_archive": "/mnt/a", "ffmpeg_location": "/usr/bin/ffmpeg"}
    )
    params = ytdlp_params(options, RULES)
    assert params["cookiefile"] == "/home/u/Downloads/c.txt"
    assert params["download_archive"] == "/mnt/a"
    assert params["ffmpeg_location"] == "/usr/bin/ffmpeg"
    assert ytdlp_params(options) == ytdlp_params({})
    with pytest.raises(OptionNotAllowed):
        ytdlp_params({"cookies": "/etc/shadow"}, RULES)


def test_blank_switches_a_default_off() -> None:
    """A key that is there but says nothing is off, or what yt-dlp's command line takes."""
    params = ytdlp_params(
        clean(
            {
                "merge_output_format": "",
                "fixup": False,
                "convert_thumbnails": "none",
                "sub_format": "",
                "embed_subs": "",
                "retries": "",
                "extract_audio": True,
                "audio_quality": "",
                "audio_format": "",
            }
        )
    )
    assert not {"merge_output_format", "fixup", "final_ext"} & params.keys()
    assert params["retries"] == 10
    audio = {step["key"]: step for step in params["postprocessors"]}["FFmpegExtractAudio"]
    assert (audio["preferredcodec"], audio["preferredquality"]) == ("best", "5")
    assert "FFmpegThumbnailsConvertor" not in str(params)
    assert "FFmpegEmbedSubtitle" not in str(params)


def test_zero_is_a_value() -> None:
    """No retries means none, and quality 0 is the best."""
    params = ytdlp_params(
        clean({"retries": 0, "fragment_retries": 0, "audio_quality": 0, "extract_audio": True})
    )
    assert (params["retries"], params["fragment_retries"]) == (0, 0)
    assert "'preferredquality': '0'" in str(params["postprocessors"])
    assert ytdlp_params({"socket_timeout": 0, "concurrent_fragments": "0"}) == ytdlp_params({})


def test_extract_audio_turns_subtitles_off() -> None:
    """A sound file gets no subtitles, whatever else was asked."""
    params = ytdlp_params({"extract_audio": True, "write_subs": True, "embed_subs": True})
    assert not params["writesubtitles"]
    assert "FFmpegEmbedSubtitle" not in str(params)


@pytest.mark.parametrize(
    ("options", "languages"),
    [
        ({}, []),
        ({"video_subtitles": "none", "sub_langs": ["en"]}, ["en"]),
        ({"video_subtitles": True, "sub_langs": "en,de"}, ["en", "de"]),
        ({"video_subtitles": "es"}, ["es.*"]),
        ({"video_subtitles": "es, pt-BR", "sub_langs": ["en"]}, ["es.*", "pt-BR.*"]),
        ({"video_subtitles": ["es", "en"]}, ["es.*", "en.*"]),
        ({"video_subtitles": "all"}, ["all", "-live_chat"]),
    ],
)
def test_subtitle_languages(options: dict[str, Any], languages: list[str]) -> None:
    """One language is a choice like several; none leaves it to `sub_langs`."""
    assert ytdlp_params(clean(options))["subtitleslangs"] == languages


def test_password_without_a_name_is_not_sent() -> None:
    """A password alone would make yt-dlp refuse to start."""
    assert "password" not in ytdlp_params({"password": "p"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"force_overwrites": False}, False),
        ({"force_overwrites": "no"}, False),
        ({"force_overwrites": ""}, True),
        ({"force_overwrites": [1]}, True),
    ],
)
def test_overwrites(options: dict[str, Any], expected: bool) -> None:
    """A file that is there already is replaced, unless the client says no."""
    assert overwrites(options) is expected


# ------------------------------------------------------------------- what is shown


def test_mask() -> None:
    """Secrets that are set are never shown; nothing else changes."""
    options = {
        "username": "u",
        "password": "p",
        "twofactor": "",
        "cookies_from_browser": False,
        "proxy": "http://me:word@h:1",
        "geo_verification_proxy": "me:a@b@h:1",
        "source_address": "a@b",
        "add_headers": {"X-T": "1", "Authorization": "Bearer x", "X-Api-Key": "k"},
        "format": "best",
    }
    shown = mask(options)
    assert shown == {
        **options,
        "username": "***",
        "password": "***",
        "proxy": "http://***@h:1",
        "geo_verification_proxy": "***@h:1",
        "add_headers": {"X-T": "1", "Authorization": "***", "X-Api-Key": "***"},
    }
    assert mask({"add_headers": "Cookie: a"}) == {"add_headers": "***"}
    assert mask({"add_headers": ["X-T: 1"]}) == {"add_headers": ["X-T: 1"]}
    assert mask({"proxy": "http://h:1", "password": None}) == {
        "proxy": "http://h:1",
        "password": None,
    }


def test_secret_values() -> None:
    """The texts to be cut from logs are those of the secrets."""
    options = {
        "username": "u",
        "password": "p",
        "cookies_from_browser": "firefox",
        "add_headers": "X-T: 1\nCookie: c=1",
    }
    assert secret_values(options) == ("c=1", "p", "u")
    assert secret_values({"add_headers": 5}) == ()


# ------------------------------------------------------------------- for anything

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["all", "none", "best", "0", "1-2", "es", "mp4", "sponsor", "/mnt/x", "a:b"])
    | st.sampled_from(["http://h:1", "5K", "infinite", "1.2.3.4", "default", "%(id)s", "a,b", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = st.sampled_from([*OPTIONS, *NEVER, *job_options.CAMEL_CASE, "unknown"])


@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_json(options: dict[str, Any]) -> None:
    """Whatever JSON comes: one of our errors, or parameters that are JSON."""
    try:
        stored = clean(options)
        check(stored, RULES)
    except (InvalidRequest, OptionNotAllowed) as refusal:
        json.dumps(refusal.detail)
        return
    assert clean(stored) == stored
    params = ytdlp_params(stored, RULES)
    assert json.loads(json.dumps(params, allow_nan=False)) == params
    assert json.dumps(mask(stored), allow_nan=False)
    assert isinstance(overwrites(stored), bool)
    assert not params["ignoreerrors"]
    secret_values(stored)


@given(st.sampled_from(sorted(OPTIONS)), JSON)
def test_readers_are_total(key: str, value: object) -> None:
    """A reader parses or refuses any value; nothing else ever comes out of it."""
    with contextlib.suppress(BadValue):
        OPTIONS[key].read(value)


@pytest.mark.parametrize(
    "template",
    [
        "%(title)999999999s.%(ext)s",
        "%(title).9999s.%(ext)s",
        "%(upload_date>%9999Y)s.%(ext)s",
        "%(title&{:>99999})s.%(ext)s",
    ],
)
def test_a_template_that_would_fill_memory_is_refused(template: str) -> None:
    """A width is bounded wherever a template may have one."""
    with pytest.raises(InvalidRequest):
        check({"output": template}, RULES)
    check({"output": "2026 %(epoch-86400>%H)s %(title).120s %(id)5s.%(ext)s"}, RULES)
