"""Directories as they are found: old, damaged, hostile. The server starts on all of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import NOW, ids, job, lines, opened, put, state
from vidra_trio.core.errors import ConfigurationError
from vidra_trio.core.job import LOG_LINES
from vidra_trio.core.states import JobState, Level
from vidra_trio.storage.files import Locations, read_file
from vidra_trio.storage.reading import read_log
from vidra_trio.storage.state import ORPHAN_SECONDS

MINUTE = "2026-01-02T03:04:05Z"


@pytest.fixture
def at(tmp_path: Path) -> Locations:
    """A data directory."""
    return Locations(tmp_path / "data")


def entry(job_id: str, **members: object) -> dict[str, Any]:
    """Return a job as the older server wrote it."""
    return {
        "job_id": job_id,
        "urls": [f"http://site.example/{job_id}"],
        "metadata": {"requires_playlist_selection": False},
        "status": "completed",
        "kind": "video",
        "created_at": MINUTE,
        **members,
    }


def line(message: str) -> dict[str, str]:
    """Return a log line as the older server wrote it."""
    return {"timestamp": MINUTE, "level": "info", "message": message}


def kept(at: Locations, word: str) -> list[bytes]:
    """Return what was kept aside as `word`."""
    return [path.read_bytes() for path in sorted(at.data.rglob(f"*.{word}-*"))]


def named(folder: Path, pattern: str) -> list[Path]:
    """Return what is called so, at any depth."""
    return list(folder.rglob(pattern))


# -- older layouts


async def test_an_old_directory_is_read_and_left_as_it_was(at: Locations) -> None:
    """Options and logs come from the side files, with their versions; those stay as they are."""
    old = entry("a", options_version=7, options_external=True, logs_version=8, logs_external=True)
    put(
        at,
        {"jobs": [old, entry("b")]},
        job_options={"a": {"version": 7, "options": {"format": "best", "password": "x"}}},
        job_logs={"a": {"version": 8, "logs": [line("one"), "no line", line("two")]}},
    )
    sides = {path: path.read_bytes() for path in at.data.glob("*/*.json")}
    async with opened(at) as store:
        a, b = store.restored
        assert store.notes == ()
    assert a.snapshot.spec.options == {"format": "best", "password": "x"}
    assert (a.snapshot.options_version, a.snapshot.logs_version) == (7, 8)
    assert [entry.message for entry in read_log(at.logs / "a.json")] == ["one", "two"]
    assert (b.snapshot.spec.options, b.snapshot.options_version, b.logs or ()) == ({}, None, ())
    assert {path: path.read_bytes() for path in at.data.glob("*/*.json")} == sides
    again = at.state.read_bytes()
    assert await ids(at) == ["a", "b"]
    assert at.state.read_bytes() == again


async def test_the_bare_list(at: Locations) -> None:
    """The oldest form has no envelope; writing gives it one."""
    put(at, [entry("a"), entry("b")])
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a", "b"]
        assert store.notes == ()
        await store.save(job("c"))
    assert [found["job_id"] for found in state(at)] == ["a", "b", "c"]


async def test_inline_options_and_logs(at: Locations) -> None:
    """Kept inside the state file once: they count without a side file, and get one."""
    inline = {"options": {"format": "best"}, "logs": [line(str(n)) for n in range(250)]}
    put(
        at,
        {"jobs": [entry("a", **inline), entry("b", **inline)]},
        job_options={"b": {"version": 5, "options": {"format": "worst"}}},
        job_logs={"b": {"version": 5, "logs": []}},
    )
    async with opened(at) as store:
        a, b = store.restored
    assert a.snapshot.spec.options == {"format": "best"}
    assert b.snapshot.spec.options == {"format": "worst"}
    assert len(a.logs or ()) == len(b.logs or ()) == LOG_LINES
    assert b.snapshot.options_version == 5
    assert a.snapshot.options_version
    side = json.loads((at.options / "a.json").read_text())
    assert side == {"version": a.snapshot.options_version, "options": {"format": "best"}}
    async with opened(at) as store:
        assert store.restored == (a, b)


async def test_versions_of_side_files(at: Locations) -> None:
    """A side file's version counts; one without takes the state file's."""
    put(
        at,
        {"jobs": [entry("a", options_version=3), entry("b", options_version=3)]},
        job_options={
            "a": {"version": "4", "options": {"x": 1}},
            "b": {"version": 9.5, "options": {"x": 1}},
        },
    )
    async with opened(at) as store:
        versions = [stored.snapshot.options_version for stored in store.restored]
    assert versions == [4, 3]


async def test_playlists_are_left_alone(at: Locations) -> None:
    """Their entries stay on disk, and their members in the state file, whatever we write."""
    members = {"playlist_total_items": 2, "playlist_failed_indices": [2]}
    put(at, {"jobs": [entry("a", kind="playlist", **members)]}, playlist_entries={"a": {"v": 1}})
    async with opened(at) as store:
        (stored,) = store.restored
        await store.save(stored.snapshot, lines("one"))
    assert members.items() <= state(at)[0].items()
    assert (at.entries / "a.json").read_text() == '{"v": 1}'


async def test_interrupted_states_come_as_they_were(at: Locations) -> None:
    """What becomes of them is decided by whoever restores them."""
    put(at, {"jobs": [entry("a", status="Running"), entry("b", status="unheard of")]})
    async with opened(at) as store:
        states = [stored.snapshot.state for stored in store.restored]
    assert states == [JobState.RUNNING, JobState.FAILED]


# -- damaged state files


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  \n",
        b"\x00" * 4096,
        b'{"jobs": [{"job_id": "a", "urls": ["u"',
        b"\xff\xfe garbage",
        b'"text"',
        b"{}",
        b'{"jobs": null}',
        b'{"jobs": {"a": {}}}',
        b"[" * 200_000,
        b'{"jobs": [' + b"9" * 5000,
    ],
)
async def test_an_unreadable_state_file_is_kept_aside(at: Locations, data: bytes) -> None:
    """Its bytes stay under another name, it is said, and new jobs work."""
    put(at, "")
    at.state.write_bytes(data)
    side = at.options / "a.json"
    side.write_text('{"version": 1, "options": {"x": 1}}')
    os.utime(side, (1, 1))
    async with opened(at) as store:
        assert store.restored == ()
        assert len(store.notes) == 1
        assert store.notes[0].isprintable()
        await store.save(job("new"))
    assert kept(at, "corrupt") == [data]
    assert await ids(at) == ["new"]
    assert side.exists()  # its job may be in what was kept


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
async def test_something_else_in_its_place(at: Locations, tmp_path: Path, kind: str) -> None:
    """A folder, a link, a pipe: moved away, never followed, never waited for."""
    victim = tmp_path / "victim"
    victim.write_text('{"jobs": []}')
    put(at, "")
    at.state.unlink()
    match kind:
        case "folder":
            at.state.mkdir()
        case "link":
            at.state.symlink_to(victim)
        case _:
            os.mkfifo(at.state)
    async with opened(at) as store:
        assert len(store.notes) == 1
        await store.save(job("new"))
    assert victim.read_text() == '{"jobs": []}'
    assert await ids(at) == ["new"]


async def test_a_fresh_directory_needs_no_note(at: Locations) -> None:
    """No file is no damage."""
    async with opened(at) as store:
        assert (store.restored, store.notes) == ((), ())


async def test_what_cannot_be_kept_aside_stops_the_start(
    at: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather no server than one that writes over somebody's history."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    await ids(at)  # a server has been here before
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    for content in ("{", {"jobs": [{"job_id": "../evil", "urls": ["u"]}]}):
        put(at, content)
        before = at.state.read_bytes()
        with pytest.raises(ConfigurationError, match=r"VIDRA_SERVER_DATA: .*kept aside"):
            await ids(at)
        assert at.state.read_bytes() == before


# -- damaged entries


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        None,
        {},
        {"job_id": "../../evil", "urls": ["u"]},
        {"job_id": "/etc/evil", "urls": ["u"]},
        {"job_id": "b", "urls": []},
    ],
)
async def test_one_bad_entry_costs_itself(at: Locations, tmp_path: Path, bad: object) -> None:
    """The others are restored, the file as it was is kept, and no path leaves the folder."""
    put(at, {"jobs": [entry("a"), bad, entry("c")]})
    before = at.state.read_bytes()
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a", "c"]
        assert len(store.notes) == 2
        assert all(note.isprintable() for note in store.notes)
    assert kept(at, "rejected") == [before]
    assert [found["job_id"] for found in state(at)] == ["a", "c"]
    assert named(tmp_path, "*evil*") == []
    async with opened(at) as store:
        assert store.notes == ()
    assert len(kept(at, "rejected")) == 1


async def test_one_bad_value_costs_itself(at: Locations) -> None:
    """NaN and half characters go, the job stays, the file as it was is kept."""
    text = json.dumps({"jobs": [entry("a", progress={"percent": 5.5, "speed": 1.5}), entry("b")]})
    text = text.replace("1.5", "NaN").replace('"video"', '"vi\\ud800deo"', 1)
    put(at, text)
    async with opened(at) as store:
        a = store.restored[0].snapshot
        assert (a.progress.percent, a.progress.speed) == (5.5, None)
        assert len(store.notes) == 2
    assert kept(at, "rejected") == [text.encode()]
    async with opened(at) as store:
        assert store.notes == ()
        assert store.restored[0].snapshot == a


async def test_two_entries_of_one_id(at: Locations) -> None:
    """The last one counts, the file as it was is kept."""
    put(at, {"jobs": [entry("a", error="first"), entry("b"), entry("a", error="last")]})
    async with opened(at) as store:
        assert [stored.snapshot.error for stored in store.restored] == ["last", None]
    assert len(kept(at, "rejected")) == 1
    assert len(state(at)) == 2


async def test_mixed_time_zones(at: Locations) -> None:
    """Every instant is UTC, so that jobs can be put in order."""
    stamps = [MINUTE, "2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05", "never"]
    put(at, {"jobs": [entry(f"j{n}", created_at=stamp) for n, stamp in enumerate(stamps)]})
    async with opened(at) as store:
        times = [stored.snapshot.created_at for stored in store.restored]
    assert times[:3] == [NOW] * 3
    assert times[3] > NOW
    assert sorted(times)


# -- damaged side files


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 200_000])
async def test_damaged_options_are_kept_and_said_in_the_jobs_log(
    at: Locations, data: bytes
) -> None:
    """Nobody retries with other options than those asked for without being told."""
    put(at, {"jobs": [entry("a", options_version=3)]}, job_options={"a": ""})
    (at.options / "a.json").write_bytes(data)
    async with opened(at) as store:
        (stored,) = store.restored
        assert stored.snapshot.spec.options == {}
        assert stored.snapshot.options_version is None
        (said,) = stored.logs or ()
        assert said.level is Level.WARNING
        assert "a.json" in said.message
        assert store.notes == (said.message,)
    assert kept(at, "corrupt") == [data]
    async with opened(at) as store:
        assert store.restored == (stored,)
        assert store.notes == ()


async def test_a_bad_value_in_options_costs_itself(at: Locations) -> None:
    """The other options count; the file as it was is kept."""
    text = '{"version": 3, "options": {"format": "best", "limit_rate": NaN}}'
    put(at, {"jobs": [entry("a")]}, job_options={"a": text})
    async with opened(at) as store:
        assert store.restored[0].snapshot.spec.options == {"format": "best"}
    assert kept(at, "rejected") == [text.encode()]
    assert "NaN" not in (at.options / "a.json").read_text()


@pytest.mark.parametrize("side", [5, [], {"options": []}, {"options": "x"}, {"logs": 5}, {}])
async def test_side_files_of_another_shape(at: Locations, side: object) -> None:
    """They say nothing, which is no damage."""
    put(
        at,
        {"jobs": [entry("a")]},
        job_options={"a": json.dumps(side)},
        job_logs={"a": json.dumps(side)},
    )
    async with opened(at) as store:
        (stored,) = store.restored
    assert (stored.snapshot.spec.options, stored.logs) == ({}, ())


# -- tidying up


async def test_leftovers_of_a_kill_are_removed(at: Locations) -> None:
    """Temporary files named by us go; what somebody else left stays."""
    put(at, {"jobs": []})
    ours = [
        at.data / ".download_state.json.0123456789abcdef.tmp",
        at.options / ".a.json.0123456789abcdef.tmp",
        at.logs / ".a.json.0123456789abcdef.tmp",
    ]
    theirs = [at.data / "download_state.json.tmp", at.entries / "a.tmp"]
    for path in (*ours, *theirs):
        path.touch()
    await ids(at)
    assert [path.exists() for path in (*ours, *theirs)] == [False] * 3 + [True] * 2


async def test_orphans_are_removed_after_a_day(at: Locations) -> None:
    """Options of jobs that are gone hold passwords; young ones may be on their way in."""
    options = {name: {"version": 1, "options": {"x": 1}} for name in ("job", "old", "young")}
    put(at, {"jobs": [entry("job")]}, job_options=options, job_logs={"old": {}})
    odd = at.options / "no id.json"
    odd.touch()
    long_ago = time.time() - ORPHAN_SECONDS - 60
    for path in at.data.rglob("*.json"):
        if path.stem != "young":
            os.utime(path, (long_ago, long_ago))
    await ids(at)
    left = {path.name for path in at.options.iterdir()}
    assert left == {"job.json", "young.json", "no id.json"}
    assert list(at.logs.iterdir()) == []


async def test_no_orphan_is_removed_while_an_entry_is_in_doubt(at: Locations) -> None:
    """What was rejected may be repaired by hand, and then needs its options."""
    put(at, {"jobs": ["bad"]}, job_options={"old": {"version": 1, "options": {"x": 1}}})
    os.utime(at.options / "old.json", (1, 1))
    for _ in range(2):
        await ids(at)
    assert read_file(at.options / "old.json")
