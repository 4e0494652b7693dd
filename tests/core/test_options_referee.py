"""yt-dlp's own command line as the referee of what our table makes of an option."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import yt_dlp
from yt_dlp.cookies import SUPPORTED_BROWSERS, SUPPORTED_KEYRINGS
from yt_dlp.postprocessor import (
    FFmpegExtractAudioPP,
    FFmpegMergerPP,
    FFmpegThumbnailsConvertorPP,
    FFmpegVideoRemuxerPP,
    get_postprocessor,
)
from yt_dlp.postprocessor.modify_chapters import DEFAULT_SPONSORBLOCK_CHAPTER_TITLE
from yt_dlp.postprocessor.sponsorblock import SponsorBlockPP
from yt_dlp.utils import OUTTMPL_TYPES
from yt_dlp.utils._utils import _UnsafeExtensionError

from vidra_trio.core import network, paths, postprocessors, readers
from vidra_trio.core.errors import OptionNotAllowed
from vidra_trio.core.options import clean, ytdlp_params

# What a client sends to have nothing but yt-dlp's own defaults.
OFF: dict[str, Any] = {
    "live_from_start": False,
    "socket_timeout": "",
    "video_multistreams": False,
    "audio_multistreams": False,
    "merge_output_format": "",
    "audio_quality": "",
    "embed_subs": False,
    "embed_thumbnail": False,
    "embed_metadata": False,
    "embed_chapters": False,
    "embed_info_json": False,
    "fixup": "",
    "convert_thumbnails": "",
    "sub_format": "",
    "file_access_retries": 3,
}
OFF_FLAGS = [
    "--socket-timeout=15",
    "--no-embed-chapters",
    "--no-embed-info-json",
    "--no-live-from-start",
    "--no-video-multistreams",
    "--no-audio-multistreams",
]
COVER_FLAGS = ["--embed-thumbnail", "--embed-metadata", "--embed-chapters", "--embed-info-json"]


# Set by the engine, per run, or no value at all.
ENGINES = {"format", "outtmpl", "daterange", "download_ranges", "overwrites", "continuedl"}


@functools.cache
def by_command_line(*flags: str) -> dict[str, Any]:
    """Return what yt-dlp's command line gives, with JSON types only."""
    found = dict(yt_dlp.parse_options(["--ignore-config", *OFF_FLAGS, *flags]).ydl_opts)
    found["postprocessors"] = [p for p in found["postprocessors"] if p["key"] != "FFmpegConcat"]
    return {key: value for key, value in found.items() if key not in ENGINES}


def plain(value: object) -> object:
    """Return `value` with sets, tuples and infinities as JSON spells them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return readers.FOREVER if value == float("inf") else value


def comparable(key: str, value: object) -> object:
    """Return `value` so that what means the same to yt-dlp is equal."""
    value = None if value is False else plain(value)  # an unset switch is either
    if key == "postprocessors" and isinstance(value, list):
        lists = ("categories", "remove_sponsor_segments")
        return [{k: sorted(v) if k in lists else v for k, v in step.items()} for step in value]
    return {k.title(): v for k, v in value.items()} if isinstance(value, dict) else value


CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"use_extractors": "youtube,-generic"}, ["--use-extractors=youtube,-generic"]),
    ({"use_extractors": ["generic"]}, ["--use-extractors=generic"]),
    ({"live_from_start": True}, ["--live-from-start"]),
    ({"wait_for_video": 15}, ["--wait-for-video=15"]),
    ({"wait_for_video": "15-60"}, ["--wait-for-video=15-60"]),
    ({"proxy": "socks5://u:p@h:1"}, ["--proxy=socks5://u:p@h:1"]),
    ({"socket_timeout": 30}, ["--socket-timeout=30"]),
    ({"source_address": "127.0.0.1"}, ["--source-address=127.0.0.1"]),
    ({"force_ipv4": True}, ["--force-ipv4"]),
    ({"force_ipv6": True}, ["--force-ipv6"]),
    ({"geo_verification_proxy": "http://h:1"}, ["--geo-verification-proxy=http://h:1"]),
    ({"xff": "never"}, ["--xff=never"]),
    ({"xff": "default"}, ["--xff=default"]),
    ({"xff": "US"}, ["--xff=US"]),
    ({"xff": "10.0.0.0/8"}, ["--xff=10.0.0.0/8"]),
    ({"prefer_insecure": True}, ["--prefer-insecure"]),
    (
        {"add_headers": {"X-T": "1", "Referer": "http://r/"}},
        ["--add-headers=X-T:1", "--add-headers=Referer:http://r/"],
    ),
    ({"add_headers": "X-T: 1\nCookie: a=b"}, ["--add-headers=X-T:1", "--add-headers=Cookie:a=b"]),
    ({"cookies_from_browser": "firefox"}, ["--cookies-from-browser=firefox"]),
    (
        {"cookies_from_browser": "Chrome+gnomekeyring:Profile 1::work"},
        ["--cookies-from-browser=Chrome+gnomekeyring:Profile 1::work"],
    ),
    ({"cookies_from_browser": "firefox::none"}, ["--cookies-from-browser=firefox::none"]),
    ({"username": "u", "password": "p"}, ["--username=u", "--password=p"]),
    ({"username": "u", "password": " p "}, ["--username=u", "--password= p "]),
    ({"username": "u"}, ["--username=u", "--password="]),
    ({"twofactor": "1"}, ["--twofactor=1"]),
    ({"video_password": "p"}, ["--video-password=p"]),
    ({"video_multistreams": True}, ["--video-multistreams"]),
    ({"audio_multistreams": "yes"}, ["--audio-multistreams"]),
    ({"merge_output_format": "mkv"}, ["--merge-output-format=mkv"]),
    ({"merge_output_format": "mp4/mkv"}, ["--merge-output-format=mp4/mkv"]),
    ({"extract_audio": True, "audio_quality": 0}, ["--extract-audio", "--audio-quality=0"]),
    ({"extract_audio": True, "audio_format": "mp3"}, ["--extract-audio", "--audio-format=mp3"]),
    ({"extract_audio": True, "audio_quality": "128K"}, ["-x", "--audio-quality=128K"]),
    (
        {"extract_audio": True, "audio_format": "opus>mp3/best"},
        ["-x", "--audio-format=opus>mp3/best"],
    ),
    ({"remux_video": "mp4"}, ["--remux-video=mp4"]),
    ({"remux_video": "webm>mkv/mp4"}, ["--remux-video=webm>mkv/mp4"]),
    ({"remux_video": "mka", "extract_audio": True, "audio_format": "opus"},
     ["--remux-video=mka", "-x", "--audio-format=opus"]),
    ({"embed_subs": True}, ["--embed-subs"]),
    ({"embed_subs": True, "write_subs": True}, ["--embed-subs", "--write-subs"]),
    ({"embed_subs": True, "write_auto_subs": True}, ["--embed-subs", "--write-auto-subs"]),
    ({"write_auto_subs": True}, ["--write-auto-subs"]),
    ({"embed_thumbnail": True}, ["--embed-thumbnail"]),
    (
        {"embed_thumbnail": True, "write_thumbnail": True},
        ["--embed-thumbnail", "--write-thumbnail"],
    ),
    ({"write_thumbnail": True}, ["--write-thumbnail"]),
    ({"embed_metadata": True}, ["--embed-metadata"]),
    ({"embed_chapters": True}, ["--embed-chapters"]),
    ({"embed_info_json": True}, ["--embed-info-json"]),
    ({"embed_metadata": True, "embed_chapters": True, "embed_info_json": True}, COVER_FLAGS[1:]),
    ({"xattrs": True}, ["--xattrs"]),
    ({"fixup": "force"}, ["--fixup=force"]),
    ({"convert_thumbnails": "webp"}, ["--convert-thumbnails=webp"]),
    ({"convert_thumbnails": "none"}, ["--convert-thumbnails=none"]),
    ({"sub_format": "srt"}, ["--sub-format=srt"]),
    ({"sub_format": "ass/srt/best"}, ["--sub-format=ass/srt/best"]),
    ({"sub_langs": ["en.*", "-live_chat"]}, ["--sub-langs=en.*,-live_chat"]),
    ({"sub_langs": "en,es"}, ["--sub-langs=en,es"]),
    ({"playlist": True}, ["--yes-playlist"]),
    ({"playlist": False}, ["--no-playlist"]),
    ({"playlist_items": "1:3, 7,-5::2"}, ["--playlist-items=1:3,7,-5::2"]),
    ({"flat_playlist": True}, ["--flat-playlist"]),
    ({"mark_watched": True}, ["--mark-watched"]),
    ({"concurrent_fragments": 4}, ["--concurrent-fragments=4"]),
    ({"break_on_existing": True}, ["--break-on-existing"]),
    ({"skip_playlist_after_errors": 3}, ["--skip-playlist-after-errors=3"]),
    ({"skip_playlist_after_errors": True}, []),
    ({"retries": 0}, ["--retries=0"]),
    ({"retries": "infinite"}, ["--retries=infinite"]),
    ({"fragment_retries": 0}, ["--fragment-retries=0"]),
    ({"extractor_retries": "0"}, ["--extractor-retries=0"]),
    ({"file_access_retries": 5}, ["--file-access-retries=5"]),
    ({"abort_on_unavailable_fragments": True}, ["--abort-on-unavailable-fragments"]),
    ({"keep_fragments": True}, ["--keep-fragments"]),
    ({"sponsorblock_mark": ["sponsor", "intro"]}, ["--sponsorblock-mark=sponsor,intro"]),
    ({"sponsorblock_mark": "all,-preview"}, ["--sponsorblock-mark=all,-preview"]),
    ({"sponsorblock_remove": "default"}, ["--sponsorblock-remove=default"]),
    (
        {"sponsorblock_mark": "sponsor", "sponsorblock_remove": ["sponsor", "outro"],
         "embed_chapters": True},
        ["--sponsorblock-mark=sponsor", "--sponsorblock-remove=sponsor,outro", "--embed-chapters"],
    ),
    ({"limit_rate": "4M"}, ["--limit-rate=4M"]),
    ({"limit_rate": "4.2k"}, ["--limit-rate=4.2k"]),
    ({"limit_rate": 5000}, ["--limit-rate=5000"]),
    ({"ignore_errors": True, "abort_on_error": True, "force_overwrites": True}, []),
    (
        {
            "embed_subs": True,
            "embed_thumbnail": True,
            "embed_metadata": True,
            "embed_chapters": True,
            "embed_info_json": True,
            "convert_thumbnails": "webp",
            "remux_video": "mkv",
            "sponsorblock_mark": ["sponsor"],
            "xattrs": True,
        },
        [
            "--embed-subs",
            *COVER_FLAGS,
            "--convert-thumbnails=webp",
            "--remux-video=mkv",
            "--sponsorblock-mark=sponsor",
            "--xattrs",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("options", "flags"), CASES, ids=[json.dumps(case[0]) for case in CASES])
def test_agrees_with_the_command_line(options: dict[str, Any], flags: list[str]) -> None:
    """Every option becomes the parameters that yt-dlp's own flags become."""
    ours = ytdlp_params(clean({**OFF, **options}))
    theirs = by_command_line(*flags)
    ours.pop("format")
    assert ours.pop("ignoreerrors") is False
    ours.setdefault("extract_flat", theirs["extract_flat"])
    usual = by_command_line()
    for key in {*ours, *(key for key in theirs if theirs[key] != usual[key])}:
        assert comparable(key, ours.get(key)) == comparable(key, theirs[key]), key


@pytest.mark.parametrize("options", [case[0] for case in CASES], ids=lambda o: json.dumps(o))
def test_post_processors_can_be_built(options: dict[str, Any]) -> None:
    """yt-dlp takes each step of the chain with exactly its arguments."""
    for step in ytdlp_params(clean({**OFF, **options}))["postprocessors"]:
        arguments = {k: v for k, v in step.items() if k not in ("key", "when")}
        get_postprocessor(step["key"])(None, **arguments)


def test_our_names_are_those_of_ytdlp() -> None:
    """What we list ourselves (core does not import yt-dlp) is what yt-dlp lists."""
    assert set(network.BROWSERS) == set(SUPPORTED_BROWSERS)
    assert set(network.KEYRINGS) == set(SUPPORTED_KEYRINGS)
    assert set(postprocessors.VIDEO_TARGETS) == set(FFmpegMergerPP.SUPPORTED_EXTS)
    assert set(postprocessors.REMUX_TARGETS) == set(FFmpegVideoRemuxerPP.SUPPORTED_EXTS)
    assert set(postprocessors.AUDIO_TARGETS) == set(FFmpegExtractAudioPP.SUPPORTED_EXTS)
    assert set(postprocessors.THUMBNAIL_TARGETS) == set(FFmpegThumbnailsConvertorPP.SUPPORTED_EXTS)
    assert set(postprocessors.SPONSOR_CATEGORIES) == set(SponsorBlockPP.CATEGORIES)
    assert set(postprocessors.UNCUTTABLE) == set(SponsorBlockPP.NON_SKIPPABLE_CATEGORIES)
    assert postprocessors.SPONSOR_TITLE == DEFAULT_SPONSORBLOCK_CHAPTER_TITLE
    assert set(paths.SUBFOLDER_KEYS) == set(OUTTMPL_TYPES)


@pytest.mark.parametrize("extension", sorted(_UnsafeExtensionError.ALLOWED_EXTENSIONS))
def test_no_download_is_ever_a_program(extension: str) -> None:
    """No name that yt-dlp gives to a file can be handed back to us as an ffmpeg to run."""
    for windows, path in ((False, "/mnt/b/ffmpeg"), (True, "D:\\b\\ffmpeg")):
        rules = paths.PathRules("C:/d" if windows else "/d", windows=windows)
        with pytest.raises(OptionNotAllowed):
            paths.locate_program("ffmpeg_location", f"{path}.{extension}", "/mnt/a", rules)


def video(height: int, **more: object) -> dict[str, Any]:
    """Return a format without sound."""
    return {"vcodec": "h264", "acodec": "none", "height": height, "width": height, **more}


def sound(language: str | None, **more: object) -> dict[str, Any]:
    """Return a format without picture."""
    return {"vcodec": "none", "acodec": "aac", "language": language, **more}


SPLIT = [
    sound("en", format_id="a-en"),
    sound("es-419", format_id="a-es"),
    sound(None, format_id="a-best"),
    video(360, format_id="v360"),
    video(720, format_id="v720"),
    video(2160, format_id="v2160"),
]
WHOLE = [
    {"vcodec": "h264", "acodec": "aac", "height": 360, "format_id": "w360"},
    {"vcodec": "h264", "acodec": "aac", "height": 1080, "format_id": "w1080"},
]
DIRECT = [{"vcodec": None, "acodec": None, "format_id": "file"}]
ONLY_PICTURE = [video(720, format_id="v720")]


@pytest.mark.parametrize(
    ("options", "formats", "picked"),
    [
        ({}, SPLIT, "v2160+a-best"),
        ({}, WHOLE, "w1080"),
        ({}, DIRECT, "file"),
        ({"video_resolution": "best", "audio_language": "best"}, SPLIT, "v2160+a-best"),
        ({"video_resolution": "best", "audio_language": "best"}, DIRECT, "file"),
        ({"video_resolution": "720"}, SPLIT, "v720+a-best"),
        ({"video_resolution": 1080}, SPLIT, "v720+a-best"),
        ({"video_resolution": "4k"}, SPLIT, "v2160+a-best"),
        ({"video_resolution": "144"}, SPLIT, "v2160+a-best"),
        ({"video_resolution": "720p"}, WHOLE, "w360"),
        ({"video_resolution": "720"}, DIRECT, "file"),
        ({"video_resolution": ["144", "480"]}, SPLIT, "v360+a-best"),
        ({"video_resolution": "all", "audio_language": "all"}, SPLIT, "v2160+a-best"),
        ({"audio_language": "es"}, SPLIT, "v2160+a-es"),
        ({"audio_language": "fr,en"}, SPLIT, "v2160+a-en"),
        ({"audio_language": ["fr", "de"]}, SPLIT, "v2160+a-best"),
        ({"audio_language": "es", "video_resolution": "360"}, SPLIT, "v360+a-es"),
        ({"audio_language": "es"}, DIRECT, "file"),
        ({"audio_language": "none", "video_resolution": "best"}, SPLIT, "v2160"),
        ({"audio_language": "none", "video_resolution": "none"}, SPLIT, "v2160+a-best"),
        ({"video_resolution": "none"}, SPLIT, "a-best"),
        ({"video_resolution": "none"}, WHOLE, "w1080"),
        ({"format": "worst"}, WHOLE, "w360"),
        ({"format": "worst", "video_resolution": False}, WHOLE, "w360"),
        ({"format": "worst", "video_resolution": False}, SPLIT, "v2160+a-best"),
        ({"extract_audio": True}, SPLIT, "a-best"),
        ({"extract_audio": True, "audio_language": "es"}, SPLIT, "a-es"),
        ({"extract_audio": True}, WHOLE, "w1080"),
        ({"extract_audio": True}, DIRECT, "file"),
        ({"extract_audio": True, "format": "worst"}, WHOLE, "w1080"),
    ],
)
def test_selectors_pick(
    options: dict[str, Any], formats: list[dict[str, Any]], picked: str
) -> None:
    """yt-dlp itself picks what the client meant, whatever a site offers."""
    params = ytdlp_params(clean(options))
    with yt_dlp.YoutubeDL(
        {
            "quiet": True,
            "allow_multiple_video_streams": params["allow_multiple_video_streams"],
            "allow_multiple_audio_streams": params["allow_multiple_audio_streams"],
        }
    ) as ydl:
        select = ydl.build_format_selector(params["format"])
        complete = [{"url": "http://h/", "ext": "mp4", "protocol": "http", **f} for f in formats]
        whole = all(f.get("vcodec") != "none" and f.get("acodec") != "none" for f in complete)
        context = {"formats": complete, "has_merged_format": whole, "incomplete_formats": False}
        found = list(select(context))
    assert [f["format_id"] for f in found] == [picked]
