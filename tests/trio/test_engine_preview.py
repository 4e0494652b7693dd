"""The preview that clients are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from vidra_trio.engine.preview import preview_of, total_bytes

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def show(**info: object) -> dict[str, Any]:
    preview = preview_of(info, NOW)
    assert preview.pop("collected_at") == "2026-03-04T05:06:07Z"
    return preview


def test_every_member_has_its_wire_name_and_type() -> None:
    """A full description arrives as the contract spells it."""
    shown = show(
        id="abc",
        title="Title",
        description="d" * 900,
        webpage_url="https://x.org/watch",
        duration=3725.9,
        uploader="U",
        channel_is_verified=True,
        upload_date="20260102",
        extractor="x:site",
        extractor_key="XSite",
        view_count=12.0,
        tags=["a", "", 3, None],
        thumbnails=[
            {"url": "https://x.org/s", "width": 10, "height": 10, "id": 0},
            {"url": "https://x.org/l", "width": 20.0, "height": 20},
            {"url": None},
            "nonsense",
        ],
    )
    assert shown == {
        "entry_id": "abc",
        "title": "Title",
        "description": "d" * 797 + "...",
        "webpage_url": "https://x.org/watch",
        "duration_seconds": 3725,
        "duration_text": "1:02:05",
        "uploader": "U",
        "channel_is_verified": True,
        "upload_date_iso": "2026-01-02",
        "extractor": "x:site",
        "extractor_id": "XSite",
        "view_count": 12,
        "tags": ["a", "3"],
        "thumbnail_url": "https://x.org/l",
        "thumbnails": [
            {"url": "https://x.org/s", "width": 10, "height": 10, "id": "0"},
            {"url": "https://x.org/l", "width": 20, "height": 20},
        ],
    }


def test_what_is_empty_or_wrong_is_left_out() -> None:
    """A site that sends nonsense gets fewer members, not another type."""
    shown = show(
        title=None,
        description="",
        duration=float("nan"),
        view_count="many",
        like_count=-1,
        tags="a tag",
        thumbnails={},
        upload_date="yesterday",
        channel_is_verified="yes",
        uploader=["x"],
        webpage_url="h" * 5000,
    )
    assert shown == {}


def test_strings_are_strings_that_json_can_carry() -> None:
    """Numbers as titles and lone surrogates do not reach a client."""
    assert show(title=1984, uploader="a\ud800b\0") == {"title": "1984", "uploader": "a?b"}
    assert json.loads(json.dumps(show(title="\udfff")))


def test_a_hostile_description_stays_small() -> None:
    """Whatever a site sends, the preview fits into one line of the pipe many times."""
    huge = show(
        title="t" * 10**6,
        tags=["x" * 10**4] * 10**4,
        thumbnails=[{"url": "https://x.org/" + "u" * 3000}] * 500,
    )
    assert len(json.dumps(huge)) < 200_000


def test_a_thumbnail_without_sizes_is_the_sites_last() -> None:
    """yt-dlp sorts by preference, the best last."""
    assert show(thumbnails=[{"url": "a"}, {"url": "b"}])["thumbnail_url"] == "b"
    assert show(thumbnail="c")["thumbnail_url"] == "c"


@pytest.mark.parametrize(("seconds", "text"), [(59, "0:59"), (61, "1:01"), (3600, "1:00:00")])
def test_a_duration_has_a_text(seconds: int, text: str) -> None:
    """Hours only when there are any."""
    assert show(duration=seconds)["duration_text"] == text


@pytest.mark.parametrize(
    ("info", "size"),
    [
        ({"filesize": 10}, 10),
        ({"filesize_approx": 10}, None),
        ({"requested_formats": [{"filesize": 10}, {"filesize_approx": 5.5}]}, 15),
        ({"requested_formats": [{"filesize": 10}, {}]}, None),
    ],
)
def test_the_size_of_all_streams_is_known_or_not(info: dict[str, Any], size: int | None) -> None:
    """Half a sum is no total."""
    assert total_bytes(info) == size
