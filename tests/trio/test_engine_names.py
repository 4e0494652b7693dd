"""File names made from metadata."""

from __future__ import annotations

import pytest

from vidra_trio.engine.errors import ItemFailed
from vidra_trio.engine.names import MAX_BYTES, RESERVED, clean, confine

ROOT = "/job/out"


@pytest.mark.parametrize(
    "path",
    [
        "../x.mp4",
        "a/../../x.mp4",
        "/etc/passwd",
        "/job/out/../x.mp4",
        "/job/outer/x.mp4",
        "",
        ".",
    ],
)
def test_a_name_that_leads_out_is_refused(path: str) -> None:
    """No template and no metadata writes outside the run's directory."""
    with pytest.raises(ItemFailed, match="leads out") as caught:
        confine(path, ROOT)
    assert caught.value.fault == "path_not_allowed"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("x.mp4", "/job/out/x.mp4"),
        ("/job/out/x.mp4", "/job/out/x.mp4"),
        ("folder/x.mp4", "/job/out/folder/x.mp4"),
        ("./folder//x.mp4", "/job/out/folder/x.mp4"),
        (".ssh/-x.mp4", "/job/out/ssh/x.mp4"),
    ],
)
def test_a_name_inside_stays(path: str, expected: str) -> None:
    """Folders of a template are kept, each component made harmless."""
    assert confine(path, ROOT) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("título ✓ 日本.mp4", "título ✓ 日本.mp4"),
        ("--exec rm.mp4", "exec rm.mp4"),
        ("..hidden.mp4", "hidden.mp4"),
        ("-.mp4", "mp4"),
        ("...", "_"),
        ("a\u202egpj.mp4", "agpj.mp4"),
        ("a\x00b\nc\x1b.mp4", "abc.mp4"),
        ("lone \ud800 surrogate.mp4", "lone ? surrogate.mp4"),
        ("clip.info.json", "clip.info.json"),
    ],
)
def test_a_component_is_made_harmless(name: str, expected: str) -> None:
    """What cannot be seen, or would be read as an option or hidden, goes; letters stay."""
    assert clean(name) == expected


@pytest.mark.parametrize("letter", ["a", "é", "日", "🎬"])
@pytest.mark.parametrize("suffix", [".mp4", ".info.json", ""])
def test_a_long_name_leaves_room_for_what_is_appended(letter: str, suffix: str) -> None:
    """255 bytes hold the name and everything a run puts behind it; no character is cut."""
    name = clean(letter * 400 + suffix)
    assert name.endswith(suffix)
    stem = name.removesuffix(suffix)
    assert set(stem) == {letter}
    assert MAX_BYTES - RESERVED - 4 < len(stem.encode()) <= MAX_BYTES - RESERVED


def test_the_id_survives_the_cut() -> None:
    """Two long titles that differ in their ids only remain two names."""
    assert clean(f"{'x' * 400} [abc-123].mp4").endswith("x [abc-123].mp4")
