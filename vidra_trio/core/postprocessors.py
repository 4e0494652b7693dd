"""What happens to a file after its download: yt-dlp's chain, as data.

Order and `when` are those of yt-dlp's own command line: chapters are cut after
subtitles are in and before metadata is written, covers come last but for xattrs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vidra_trio.core.readers import BadValue, words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vidra_trio.core.readers import Reader

VIDEO_TARGETS: Final = ("avi", "flv", "mkv", "mov", "mp4", "webm")
AUDIO_TARGETS: Final = ("mp3", "aac", "m4a", "opus", "vorbis", "flac", "alac", "wav")
REMUX_TARGETS: Final = (
    *VIDEO_TARGETS,
    *("gif", "aac", "aiff", "alac", "flac", "m4a", "mka", "mp3", "ogg", "opus", "vorbis", "wav"),
)
THUMBNAIL_TARGETS: Final = ("jpg", "png", "webp")
FIXUPS: Final = ("never", "ignore", "warn", "detect_or_warn", "force")

SPONSOR_CATEGORIES: Final = (
    "sponsor",
    "intro",
    "outro",
    "selfpromo",
    "preview",
    "filler",
    "interaction",
    "music_offtopic",
    "hook",
    "poi_highlight",
    "chapter",
)
UNCUTTABLE: Final = ("poi_highlight", "chapter")
"""Points and names, not stretches of time: there is nothing to cut."""
SPONSOR_API: Final = "https://sponsor.ajay.app"
SPONSOR_TITLE: Final = "[SponsorBlock]: %(category_names)l"


def sponsor_categories(*, removable: bool = False) -> Reader:
    """Read categories: a list, or one text with commas; `all`, `default` and `-x` as in yt-dlp.

    With `removable`, what cannot be cut is left out rather than refused: a client may
    offer one list for both options.
    """
    read_words = words(r"-?\w+", "a SponsorBlock category")
    allowed = [c for c in SPONSOR_CATEGORIES if not (removable and c in UNCUTTABLE)]
    usual = [c for c in allowed if not (removable and c == "filler")]

    def read(value: object) -> tuple[str, ...] | None:
        chosen: set[str] = set()
        for word in read_words(value) or ():
            name = word.removeprefix("-")
            group = {"all": allowed, "default": usual}.get(name, [name])
            if name not in ("all", "default", *SPONSOR_CATEGORIES):
                raise BadValue("Must be of: " + ", ".join(SPONSOR_CATEGORIES) + ".")
            chosen = chosen - set(group) if word.startswith("-") else chosen | set(group)
        return tuple(c for c in allowed if c in chosen) or None

    return read


def chain(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the post-processors for parsed options, in order."""
    mark, remove = values["sponsorblock_mark"] or (), values["sponsorblock_remove"] or ()
    categories = [c for c in SPONSOR_CATEGORIES if c in mark or c in remove]
    audio = values["extract_audio"]
    steps = [
        categories
        and {
            "key": "SponsorBlock",
            "categories": categories,
            "api": SPONSOR_API,
            "when": "after_filter",
        },
        values["convert_thumbnails"]
        and {
            "key": "FFmpegThumbnailsConvertor",
            "format": values["convert_thumbnails"],
            "when": "before_dl",
        },
        audio
        and {
            "key": "FFmpegExtractAudio",
            "preferredcodec": values["audio_format"],
            "preferredquality": values["audio_quality"],
            "nopostoverwrites": False,
        },
        values["remux_video"]
        and {"key": "FFmpegVideoRemuxer", "preferedformat": values["remux_video"]},
        values["embed_subs"]
        and not audio
        and {
            "key": "FFmpegEmbedSubtitle",
            "already_have_subtitle": values["write_subs"],
        },
        categories
        and {
            "key": "ModifyChapters",
            "remove_chapters_patterns": [],
            "remove_sponsor_segments": list(remove),
            "remove_ranges": [],
            "sponsorblock_chapter_title": SPONSOR_TITLE,
            "force_keyframes": False,
        },
        (values["embed_metadata"] or values["embed_chapters"] or values["embed_info_json"])
        and {
            "key": "FFmpegMetadata",
            "add_chapters": values["embed_chapters"],
            "add_metadata": values["embed_metadata"],
            "add_infojson": values["embed_info_json"],
        },
        values["embed_thumbnail"]
        and {
            "key": "EmbedThumbnail",
            "already_have_thumbnail": values["write_thumbnail"],
        },
        values["xattrs"] and {"key": "XAttrMetadata"},
    ]
    return [step for step in steps if step]


def params(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chain and what it needs from the download."""
    out: dict[str, Any] = {
        "postprocessors": chain(values),
        "writethumbnail": values["write_thumbnail"] or values["embed_thumbnail"],
    }
    final = values["audio_format"] if values["extract_audio"] else None
    if values["remux_video"] in REMUX_TARGETS:
        final = values["remux_video"]
    if final in REMUX_TARGETS:
        out["final_ext"] = final
    return out
