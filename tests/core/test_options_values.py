"""The values of single options: what can be meant, and what cannot."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from vidra_trio.core import formats, network, postprocessors, readers
from vidra_trio.core.option_table import OPTIONS
from vidra_trio.core.readers import FOREVER, BadValue

MANY = [f"X-{n}: 1" for n in range(65)]


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("retries", "10", 10),
        ("retries", 10.0, 10),
        ("retries", "Infinite", FOREVER),
        ("retries", "inf", FOREVER),
        ("retries", False, None),
        ("audio_quality", 0, "0"),
        ("audio_quality", "10", "10"),
        ("audio_quality", "192k", "192"),
        ("wait_for_video", True, [30, None]),
        ("wait_for_video", 0, None),
        ("wait_for_video", False, None),
        ("wait_for_video", 15, [15, None]),
        ("wait_for_video", "15", [15, None]),
        ("wait_for_video", "15-60", [15, 60]),
        ("video_resolution", "720", ("720",)),
        ("video_resolution", 720, ("720",)),
        ("video_resolution", "1080p60", ("1080",)),
        ("video_resolution", "4K", ("2160",)),
        ("video_resolution", [1080, "720"], ("1080", "720")),
        ("video_resolution", "none", ()),
        ("video_resolution", "All", ("best",)),
        ("video_resolution", False, ("best",)),
        ("video_resolution", "", None),
        ("video_resolution", [False, ""], None),
        ("audio_language", "es", ("es",)),
        ("audio_language", "es,en", ("es", "en")),
        ("audio_language", ["zh-Hans"], ("zh-Hans",)),
        ("audio_language", True, ("best",)),
        ("audio_language", "none", ()),
        ("video_subtitles", "none", None),
        ("video_subtitles", False, None),
        ("video_subtitles", "", None),
        ("video_subtitles", "all", ("all",)),
        ("video_subtitles", "es", ("es",)),
        ("use_extractors", "all", None),
        ("use_extractors", True, None),
        ("use_extractors", "default", None),
        ("use_extractors", "all,-generic", ("all", "-generic")),
        ("use_extractors", "southpark.cc.com:español", ("southpark.cc.com:español",)),
        ("impersonate", True, ""),
        ("impersonate", False, None),
        ("impersonate", "chrome:windows-10", "chrome:windows-10"),
        ("cookies", True, None),
        ("cookies", False, None),
        ("cookies", "/c.txt", "/c.txt"),
        ("cookies_from_browser", True, None),
        ("cookies_from_browser", False, None),
        ("cookies_from_browser", "Firefox:work", ["firefox", "work", None, None]),
        ("skip_playlist_after_errors", True, None),
        ("skip_playlist_after_errors", 0, 0),
        ("remux_video", True, None),
        ("remux_video", "none", None),
        ("password", " p ", " p "),
        ("password", " ", None),
        ("password", False, None),
        ("proxy", "h:8080", "http://h:8080"),
        ("proxy", "socks5://u:p@[::1]:1/", "socks5://u:p@[::1]:1/"),
        ("source_address", "::1", "::1"),
        ("xff", "Never", "never"),
        ("xff", "us", "US"),
        ("xff", "10.1.2.3/8", "10.0.0.0/8"),
        ("xff", "", None),
        ("limit_rate", "500K", 512_000),
        ("limit_rate", "4.5M", 4_718_592),
        ("limit_rate", "2MiB/s", 2_097_152),
        ("limit_rate", 1000, 1000),
        ("limit_rate", 1000.4, 1000),
        ("limit_rate", 0, None),
        ("limit_rate", False, None),
        ("add_headers", "X-A: 1\n\nX-B: a:b", {"X-A": "1", "X-B": "a:b"}),
        ("add_headers", ["X-A: 1"], {"X-A": "1"}),
        ("add_headers", {"X-A": 5, "X-B": None}, {"X-A": "5"}),
        ("add_headers", {"X-A": ""}, {"X-A": ""}),
        ("add_headers", {"X-B": None}, None),
        ("add_headers", "", None),
        ("add_headers", False, None),
        ("sponsorblock_mark", "sponsor, intro", ("sponsor", "intro")),
        ("sponsorblock_mark", ["intro", "sponsor", "sponsor"], ("sponsor", "intro")),
        ("sponsorblock_mark", ["all", "-chapter"], postprocessors.SPONSOR_CATEGORIES[:-1]),
        ("sponsorblock_remove", ["chapter", "intro"], ("intro",)),
        ("sponsorblock_remove", "all", postprocessors.SPONSOR_CATEGORIES[:-2]),
        ("sponsorblock_mark", False, None),
        ("sponsorblock_mark", [" "], None),
        ("playlist_items", "1:3, 7,-5::2,4-6", "1:3,7,-5::2,4-6"),
        ("sub_langs", ["en.*", "-live_chat", "all"], ("en.*", "-live_chat", "all")),
        ("sub_langs", ".*", (".*",)),
        ("sub_langs", False, None),
        ("merge_output_format", "mp4/mkv", "mp4/mkv"),
        ("format", "", None),
    ],
)
def test_meant(key: str, value: object, parsed: object) -> None:
    """What can be meant is understood."""
    assert OPTIONS[key].read(value) == parsed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("retries", value) for value in ([1], (1,), "1e3", "٣", 10**30, "-1")),
        *(("audio_quality", value) for value in ("best", -1, 1025, 1.5)),
        *(("wait_for_video", value) for value in ("60-15", "-5", "a-b", "1-", 86_401, [1], "0-5")),
        *(("video_resolution", value) for value in ("high", -720, 10**9, 10**400, {"a": 1}, 7.5)),
        *(("video_resolution", value) for value in (["720"] * 33, [True], "720[x]")),
        *(("audio_language", value) for value in ("e", "es]", 5, {"a": 1}, ["es", 1.5])),
        *(("use_extractors", value) for value in ("(a+)+", [5], {"a": 1}, 5, ["a"] * 257)),
        *(("impersonate", value) for value in ("chrome; rm", 5, "chrome:")),
        *(("cookies_from_browser", value) for value in ("lynx", "firefox:/etc/x", "x" * 300, 5)),
        *(
            ("cookies_from_browser", value)
            for value in ("chrome+what", "firefox:~", "firefox::a/b")
        ),
        ("cookies_from_browser", "firefox:..\\x"),
        *(("proxy", value) for value in ("ftp://h", "http://", "http://h:0", "http://h:99999")),
        *(("proxy", value) for value in ("unix:///x", "http://[::1", "http://h/x", "http://h?x")),
        *(("proxy", value) for value in ("http://a b", True, "http://h#x", "file:///etc")),
        *(("source_address", value) for value in ("localhost", "1.2.3", 5, True)),
        *(("xff", value) for value in ("usa", "10.0.0.0", "10.0.0.0/99", "x/y", 5)),
        *(("limit_rate", value) for value in ("fast", "-1", -1, 10**400, True, [1], "1X")),
        *(("limit_rate", value) for value in (float("nan"), float("inf"))),
        *(("add_headers", value) for value in ({"a b": "1"}, {"": "1"}, {" X": "1"}, {"X": [1]})),
        *(("add_headers", value) for value in ({"X": "a\r\nb"}, {"X": "a\0"}, {"X": "✓"}, ["X"])),
        *(("add_headers", value) for value in ({"Host": "h"}, {"YTDL-x": "1"}, {"x:": "1"}, MANY)),
        *(("add_headers", value) for value in ({"X": True}, {"X": 10**400}, 5, [5], "nonsense")),
        ("add_headers", {"Transfer-Encoding": "chunked"}),
        *(("sponsorblock_mark", value) for value in ("what", 5, ["-what"], [5], {"a": 1})),
        *(("playlist_items", value) for value in ("1,,2", "a", "1:2:0", "1," * 300 + "1", 5)),
        *(("sub_langs", value) for value in ("(a|b)*", "-", ["a b"], 5)),
        *(("merge_output_format", value) for value in ("exe", "mp4/", "mp4,mkv", 5, True)),
        *(("audio_format", value) for value in ("exe", "a>b", 5)),
        *(("fixup", value) for value in ("always", 5)),
        *(("sub_format", value) for value in ("a b", "/", 5)),
        *(("username", value) for value in (5, ["u"], "a\x1bb", "\udc80", True)),
        ("password", 5),
        ("ffmpeg_location", True),
    ],
)
def test_not_meant(key: str, value: object) -> None:
    """What cannot be meant is refused, and says what would do."""
    with pytest.raises(BadValue) as caught:
        OPTIONS[key].read(value)
    assert caught.value.detail


def test_everything_says_nothing_when_blank() -> None:
    """Null is no value for any option, and no option fails on it."""
    for key, option in OPTIONS.items():
        assert option.read(None) is None, key


@pytest.mark.parametrize("key", sorted(OPTIONS))
def test_hostile_text_costs_little(key: str) -> None:
    """No text of the longest length keeps a reader busy: patterns never meet themselves."""
    began = time.perf_counter()
    for unit in ("a", " ", "1", "mp4 ", "a:", "1-", "%(a", "..", "es,", "X: ", "(", "+ a", ">"):
        for value in ((unit * 4096)[:4095] + "!", "firefox:" + (unit * 4096)[:4000]):
            with contextlib.suppress(BadValue):
                OPTIONS[key].read(value)
    assert time.perf_counter() - began < 2


def test_bad_value_tells() -> None:
    """A message becomes a list of one, a mapping stays."""
    assert BadValue("x").detail == ["x"]
    nested: dict[str, Any] = {"home": ["x"]}
    assert BadValue(nested).detail == nested


def test_limits_are_stated_once() -> None:
    """The limits that the readers name are the ones they keep."""
    assert readers.text("a" * readers.TEXT_LIMIT)
    assert len(network.headers(MANY[: network.HEADER_LIMIT]) or {}) == network.HEADER_LIMIT
    assert formats.video(["720"] * formats.AXIS_LIMIT)
