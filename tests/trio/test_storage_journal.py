"""The journal: what is in it, what a crash, a disk or somebody else may do to it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.disks import FaultyDisk, Killed
from tests.support.stores import folded, ids, job, lines, opened, put, state
from vidra_trio.core.errors import ConfigurationError, StorageFailed
from vidra_trio.core.states import JobState
from vidra_trio.storage import state as state_module
from vidra_trio.storage.files import Locations
from vidra_trio.storage.journal import FORMAT, digest, read_segments, replay, segments

if TYPE_CHECKING:
    from vidra_trio.storage.jobs import JobStore


@pytest.fixture
def at(tmp_path: Path) -> Locations:
    """Return where an empty data directory would be."""
    return Locations(tmp_path / "data")


async def crashed(at: Locations, *names: str, removed: str = "") -> None:
    """Live until right after the last change was acknowledged, and stop dead there."""
    disk = FaultyDisk(kill=True)
    try:
        async with opened(at, disk) as store:
            for name in names:
                await store.save(job(name), lines("one"))
            if removed:
                await store.remove(removed)
            disk.at = disk.calls + 1
    except* Killed:
        pass


def segment(at: Locations, number: int, *records: dict[str, Any], **head: Any) -> Path:  # noqa: ANN401
    """Write a segment by the documented form."""
    first = {"vidra_trio_journal": FORMAT, "base": digest(b""), **head}
    texts = [json.dumps(record) for record in records]
    text = "".join(f"{zlib.crc32(one.encode()):08x} {one}\n" for one in texts)
    for folder in at.folders:
        folder.mkdir(parents=True, exist_ok=True)
    path = at.journal(number)
    path.write_text(json.dumps(first) + "\n" + text)
    return path


def form(job_id: str, **members: object) -> dict[str, Any]:
    """Return a job as the state file spells it."""
    return {"job_id": job_id, "urls": ["http://a.example/"], "status": "completed", **members}


# -- what is in it


async def test_a_change_costs_a_line(at: Locations) -> None:
    """However many jobs there are: the state file is not touched."""
    put(at, {"jobs": [form(f"j{number}") for number in range(500)]})
    async with opened(at):
        pass
    before = at.state.read_bytes()
    async with opened(at) as store:
        await store.save(job("new"))
        await store.remove("j7")
        assert at.state.read_bytes() == before
        (path,) = (path for _, path in segments(at))
        head, new, gone = path.read_text().splitlines()
        base = digest(before)
        assert json.loads(head) == {"vidra_trio_journal": 1, "base": base, "before": base}
        assert json.loads(new[9:])["new"]["job_id"] == "new"
        assert json.loads(gone[9:]) == {"del": "j7"}
        assert len(state(at)) == 500
    assert len(json.loads(at.state.read_bytes())["jobs"]) == 500


async def test_a_clean_stop_leaves_all_in_the_state_file(at: Locations) -> None:
    """An older server reads that, and nothing else."""
    async with opened(at) as store:
        await store.save(job("a"))
        await store.save(job("b"))
        await store.remove("a")
        assert not folded(at)
    assert folded(at)
    assert [one["job_id"] for one in json.loads(at.state.read_bytes())["jobs"]] == ["b"]


async def test_after_a_crash_the_journal_tells(at: Locations) -> None:
    """And is in the state file soon after the next start, though nothing else happens."""
    await crashed(at, "a", "b", "c", removed="b")
    assert not at.state.exists()
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a", "c"]
        assert store.notes == ()
        with trio.fail_after(30):
            while not at.state.exists() or not folded(at):  # noqa: ASYNC110  # by a thread
                await trio.sleep(0.01)
    assert [one["job_id"] for one in json.loads(at.state.read_bytes())["jobs"]] == ["a", "c"]


async def test_the_journal_outranks_the_state_file(at: Locations) -> None:
    """Jobs keep their place in it, those that are new come last, one that is twice is once."""
    entries = [form("a"), form("b"), form("c"), form("a", main_file="/late")]
    put(at, {"jobs": entries})
    base = digest(at.state.read_bytes())
    changes = {"put": form("a", status="failed")}, {"del": "b"}, {"new": form("d")}
    segment(at, 1, *changes, base=base)
    for _ in range(2):
        async with opened(at) as store:
            found = {stored.job_id: stored.snapshot.state.value for stored in store.restored}
        assert list(found.items()) == [("a", "failed"), ("c", "completed"), ("d", "completed")]


async def test_it_is_folded_when_it_has_grown(
    at: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server lives and saves; the disk holds a few times what is in it."""
    monkeypatch.setattr(state_module, "JOURNAL_BYTES", 2000)
    async with opened(at) as store:
        with trio.fail_after(60):
            while not at.state.exists() or len(segments(at)) > 1:
                for name in "abc":
                    await store.save(job(name, main_file=f"/d/{trio.current_time()}"))
        assert [one["job_id"] for one in state(at)] == ["a", "b", "c"]
        assert sum(path.stat().st_size for _, path in segments(at)) < 50_000
    assert await ids(at) == ["a", "b", "c"]


async def test_an_idle_server_writes_nothing(at: Locations) -> None:
    """Neither at the first start nor at a later one."""
    disk = FaultyDisk()
    async with opened(at, disk):
        pass
    assert disk.names == []
    async with opened(at) as store:
        await store.save(job())
    async with opened(at, disk):
        pass
    assert disk.names == []


# -- crashes between the steps


async def life(at: Locations, disk: FaultyDisk) -> set[str]:
    """Save while the journal is folded again and again; return what was acknowledged."""
    told: set[str] = set()

    async def one(store: JobStore, name: str) -> None:
        try:
            await store.save(job(name, options={}))
        except StorageFailed:
            return
        told.add(name)

    try:
        async with opened(at, disk) as store:
            for number in range(12):
                await one(store, f"j{number}")
    except* Killed:
        pass
    return told


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "fail", "fail forever"])
async def test_a_fault_at_every_call_while_it_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """For all N: what was acknowledged is there, and what is there is whole."""
    monkeypatch.setattr(state_module, "JOURNAL_BYTES", 500)
    for number in range(1, 1000):
        at = Locations(tmp_path / str(number))
        disk = FaultyDisk(number, kill=how == "kill", forever=how == "fail forever")
        told = await life(at, disk)
        if disk.calls < number:
            break
        async with opened(at) as store:
            assert store.notes == ()
            found = {stored.job_id for stored in store.restored}
        assert told <= found
        assert found == set(await ids(at))
    assert number > 40


class GatedDisk(FaultyDisk):
    """Lets a state file into its place when it is told to, and says when one wants to."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted, self.gate = threading.Event(), threading.Event()

    def replace(self, source: Path, target: Path) -> None:
        if target.name == "download_state.json":
            self.wanted.set()
            assert self.gate.wait(30)
        super().replace(source, target)


async def wait_for(event: threading.Event) -> None:
    """Wait for a thread, without holding up the loop."""
    assert await trio.to_thread.run_sync(event.wait, 30)


async def test_changes_while_the_first_state_file_is_written(at: Locations) -> None:
    """They continue one that is not there yet; a crash finds them all the same."""
    put(at, [form("a"), form("b")])  # the oldest layout: it is spelt anew at once
    disk = GatedDisk()
    async with opened(at, disk) as store:
        await wait_for(disk.wanted)
        await store.save(job("a", state=JobState.PAUSED))
        await store.remove("b")
        await store.save(job("c"))
        crash = at.data.parent / "crash"
        shutil.copytree(at.data, crash)
        disk.gate.set()
    for directory in (Locations(crash), at):
        async with opened(directory) as store:
            assert store.notes == ()
            found = {one.job_id: one.snapshot.state for one in store.restored}
        assert found == {"a": JobState.PAUSED, "c": JobState.QUEUED}


@pytest.mark.parametrize("broken", [False, True])
async def test_a_directory_that_needs_mending_is_mended_before_it_changes(
    at: Locations, broken: bool
) -> None:
    """What a save continues must be there before it; a disk that says no is asked again."""
    put(at, {"jobs": [form("a"), {"job_id": "../evil"}, form("a", error="x")]})
    disk = FaultyDisk(1 if broken else None, forever=True)
    async with opened(at, disk) as store:
        if broken:
            with pytest.raises(StorageFailed):
                await store.save(job("b"))
            disk.at = None
        await store.save(job("b"))
        assert [one["job_id"] for one in state(at)] == ["a", "b"]
    assert await ids(at) == ["a", "b"]


async def test_what_an_older_version_kept_inside_is_never_only_in_memory(at: Locations) -> None:
    """Its options and logs have files of their own before the state file loses them."""
    lines_ = [{"timestamp": "2025-01-02T03:04:05Z", "level": "info", "message": "old"}]
    inside = {"options": {"password": "x"}, "logs": lines_}
    put(at, {"jobs": [form(f"j{number}", **inside) for number in range(3)]})
    number = 0
    while True:
        number += 1
        directory = Locations(at.data.parent / str(number))
        shutil.copytree(at.data, directory.data)
        disk = FaultyDisk(number, kill=True)
        try:
            async with opened(directory, disk):
                pass
        except* Killed:
            pass
        async with opened(directory) as store:
            options = [one.snapshot.spec.options for one in store.restored]
            assert options == [{"password": "x"}] * 3
            for one in store.restored:
                assert [line.message for line in await store.log(one.job_id)] == ["old"]
        if disk.calls < number:
            break
    assert number > 10


async def test_a_fold_that_fails_is_tried_again_later(
    at: Locations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not with every change: that would be a segment each, and all the space there is."""
    monkeypatch.setattr(state_module, "JOURNAL_BYTES", 1)

    class NoPlace(FaultyDisk):
        def replace(self, source: Path, target: Path) -> None:
            if target.name == "download_state.json":
                raise OSError(28, "No space left on device")
            super().replace(source, target)

    async with opened(at, NoPlace()) as store:
        for number in range(20):
            await store.save(job(f"j{number}", options={}))
    assert len(segments(at)) < 5
    assert caplog.text.count("the journal stays") == 1
    assert len(await ids(at)) == 20


@pytest.mark.parametrize("what", [MemoryError, RuntimeError])
async def test_a_fold_without_memory_or_threads_ends_nothing(
    at: Locations, monkeypatch: pytest.MonkeyPatch, what: type[Exception]
) -> None:
    """The journal has it all."""

    def no(*_: object) -> None:
        raise what

    monkeypatch.setattr(state_module.StateFile, "compact", no)
    async with opened(at) as store:
        await store.save(job("a"))
    monkeypatch.undo()
    assert await ids(at) == ["a"]


# -- damage


@pytest.mark.parametrize("tail", [b"", b"5a0ff", b'12345678 {"put":{"job_id":"x","ur'])
async def test_a_torn_end_is_no_damage(at: Locations, tail: bytes) -> None:
    """It is what a crash leaves of a write that nobody was promised."""
    path = segment(at, 1, {"new": form("a")})
    path.write_bytes(path.read_bytes() + tail)
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a"]
        assert store.notes == ()
        await store.save(job("b"))
    assert await ids(at) == ["a", "b"]


async def test_a_damaged_record_costs_itself(at: Locations) -> None:
    """Those after it count; a copy is kept, and that is said."""
    path = segment(at, 1, {"new": form("a")}, {"new": form("b")}, {"odd": 1}, {"new": form("c")})
    data = path.read_bytes().replace(b'"b"', b'"B"')
    path.write_bytes(data)
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a", "c"]
        (note,) = store.notes
    assert "2 damaged records" in note
    (kept,) = at.data.glob("*.rejected-*")
    assert kept.name in note
    assert kept.read_bytes() == data
    assert await ids(at) == ["a", "c"]


@pytest.mark.parametrize("head", [b"", b"[]", b'{"base":"x"}', b"\xff", b"[" * 100_000])
async def test_a_damaged_head_costs_its_segment(at: Locations, head: bytes) -> None:
    """It is kept aside whole: nobody knows what it continues."""
    segment(at, 1, {"new": form("a")})
    path = segment(at, 2, {"new": form("b")})
    path.write_bytes(head + b"\n" + path.read_bytes().partition(b"\n")[2])
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a"]
        (note,) = store.notes
    (kept,) = at.data.glob("*.corrupt-*")
    assert kept.name in note
    assert await ids(at) == ["a"]


@pytest.mark.parametrize("record", [b"", b"null", b"{}", b"[" * 100_000, b'{"put":{"a":1}}'])
async def test_a_record_that_says_nothing_is_damage(at: Locations, record: bytes) -> None:
    """Whatever its checksum says."""
    path = segment(at, 1, {"new": form("a")})
    path.write_bytes(path.read_bytes() + b"%08x %b\n" % (zlib.crc32(record), record))
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["a"]
        assert len(store.notes) == 1


async def test_a_damaged_segment_before_the_first_is_kept(at: Locations) -> None:
    """It may have continued the same state file; and its jobs keep their side files."""
    path = segment(at, 1, {"new": form("a")})
    path.write_bytes(b"x" + path.read_bytes())
    segment(at, 2, {"new": form("b")})
    side = at.options / "a.json"
    side.write_text("{}")
    os.utime(side, (0, 0))
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["b"]
        assert len(store.notes) == 1
    assert len(list(at.data.glob("download_state.journal.1.corrupt-*"))) == 1
    assert side.exists()


async def test_two_crashes_without_the_state_file(at: Locations) -> None:
    """The journal that was found is not hidden by what is written after it."""
    segment(at, 1, {"new": form("b")}, {"put": form("a")}, base="of one that is damaged")
    put(at, "{damaged")
    await crashed(at, "c")
    assert set(await ids(at)) == {"a", "b", "c"}


async def test_a_segment_that_is_no_file_is_kept_aside(at: Locations) -> None:
    """A folder in its place, say."""
    segment(at, 1, {"new": form("a")})
    at.journal(2).mkdir()
    assert await ids(at) == ["a"]
    assert len(list(at.data.glob("download_state.journal.2.corrupt-*"))) == 1


@pytest.mark.parametrize("damage", [b"no head\n", b""])
async def test_what_cannot_be_kept_aside_stops_the_start(
    at: Locations, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    """Rather no server than one that removes what it could not read."""

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    assert await ids(at) == []  # a server has been here before
    path = segment(at, 1, {"new": form("a")}, {"odd": 1})
    path.write_bytes(damage + path.read_bytes())
    before = path.read_bytes()
    for name in ("rename", "hardlink_to", "replace"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(ConfigurationError, match=r"VIDRA_SERVER_DATA: .*kept aside"):
        await ids(at)
    assert path.read_bytes() == before


@pytest.mark.parametrize("state_file", [None, "{damaged", "{}"])
async def test_without_its_state_file_it_tells_all_it_knows(
    at: Locations, state_file: str | None
) -> None:
    """The file was damaged or removed: better half of the jobs than none."""
    segment(at, 1, {"new": form("a")}, {"put": form("old", error="x")}, base="of another")
    if state_file is not None:
        put(at, state_file)
    async with opened(at) as store:
        assert {stored.job_id for stored in store.restored} == {"a", "old"}
    assert await ids(at) == ["a", "old"]


async def test_a_newer_format_is_refused_and_not_touched(at: Locations) -> None:
    """Nothing is: not even a damaged state file is moved aside."""
    segment(at, 1, {"new": form("a")})
    segment(at, 2, {"new": form("b")}, vidra_trio_journal=FORMAT + 1)
    put(at, "{damaged")
    (at.data / ".download_state.json.0123456789abcdef.tmp").write_text("left")
    before = {path: path.read_bytes() for path in at.data.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match=r"download_state\.journal\.2 .format 2"):
        async with opened(at):
            pass
    after = {path: path.read_bytes() for path in at.data.rglob("*") if path.is_file()}
    assert before.items() <= after.items()
    assert {path.name for path in after.keys() - before.keys()} <= {".lock", "id"}


# -- an older server ran in between


async def test_an_older_server_ran_after_a_crash(at: Locations) -> None:
    """Its word on what it knew counts; what only the journal knew is not lost."""
    async with opened(at) as store:
        for name in ("deleted", "changed", "gone"):
            await store.save(job(name))
    await crashed(at, "created", removed="deleted")
    forms = json.loads(at.state.read_bytes())["jobs"]
    older = [one | {"status": "cancelled"} for one in forms if one["job_id"] != "gone"]
    put(at, {"jobs": older})
    async with opened(at) as store:
        found = {stored.job_id: stored.snapshot.state for stored in store.restored}
        assert len(store.notes) == 1
    assert found == {"changed": JobState.CANCELLED, "created": JobState.QUEUED}
    assert len(list(at.data.glob("*.rejected-*"))) >= 1
    assert set(await ids(at)) == set(found)


# -- anything at all

RECORDS = st.lists(
    st.one_of(
        st.builds(lambda name: {"new": form(name)}, st.sampled_from("abc")),
        st.builds(
            lambda name, status: {"put": form(name, status=status)},
            st.sampled_from("abc"),
            st.sampled_from(["failed", "paused"]),
        ),
        st.builds(lambda name: {"del": name}, st.sampled_from("abc")),
    ),
    max_size=12,
)


def told(records: list[dict[str, Any]]) -> dict[str, str]:
    """Return the jobs that records leave, and their status, the slow and simple way."""
    jobs: dict[str, str] = {}
    for record in records:
        ((word, value),) = record.items()
        if word == "del":
            jobs.pop(value, None)
        else:
            jobs[value["job_id"]] = value["status"]
    return jobs


def found(at: Locations, base: bytes) -> dict[str, str]:
    """Return the same from segments."""
    read = replay(read_segments(at), digest(base), 0)
    return {name: one["status"] for name, one in read.changes.items() if one is not None}


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Locations:
    """Return a directory that is used again."""
    at = Locations(tmp_path_factory.mktemp("journal"))
    for folder in at.folders:
        folder.mkdir(exist_ok=True)
    return at


@settings(deadline=None)
@given(records=RECORDS, cuts=st.lists(st.integers(0, 12), max_size=3))
def test_segments_are_one_story(
    playground: Locations, records: list[dict[str, Any]], cuts: list[int]
) -> None:
    """Wherever it is cut, and if the first ones are replayed twice."""
    for _, path in segments(playground):
        path.unlink()
    edges = [0, *sorted(cuts), 12]
    parts = [records[a:b] for a, b in pairwise(edges)]
    for number, part in enumerate([*parts[:1], *parts], 1):
        segment(playground, number, *part)
    assert found(playground, b"") == told(records)


@settings(deadline=None)
@given(records=RECORDS, where=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_costs_what_it_hits(
    playground: Locations, records: list[dict[str, Any]], where: float, bit: int, cut: bool
) -> None:
    """One flipped bit costs one record, or one head; a cut, what lies behind it."""
    for path in playground.data.glob("download_state.journal.*"):
        path.unlink()
    path = segment(playground, 1, *records)
    data = bytearray(path.read_bytes())
    place = int(where * (len(data) - 1))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    path.write_bytes(data)
    lines = bytes(data).split(b"\n")
    kept = [
        json.loads(line[9:]) for line in lines[1:-1] if line[:9] == b"%08x " % zlib.crc32(line[9:])
    ]
    whole_head = lines[0] == path.read_bytes().partition(b"\n")[0]
    try:
        after = found(playground, b"")
    except ConfigurationError:  # the bit made the format a newer one
        return
    if (playground.data / "download_state.journal.1").exists():
        assert whole_head
        assert after == told(kept)
        assert len(kept) >= len(records) - 2 or cut
    else:
        assert after == {}
