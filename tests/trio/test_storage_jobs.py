"""The store: durable on return, one write for many, newest wins, removed is removed."""

from __future__ import annotations

import json
import logging
import math
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.disks import FaultyDisk
from tests.support.stores import NOW, ids, job, lines, opened, state
from vidra_trio.core.errors import StorageFailed
from vidra_trio.core.states import JobState
from vidra_trio.storage import jobs
from vidra_trio.storage.files import Locations
from vidra_trio.storage.state import StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
def at(tmp_path: Path) -> Locations:
    """A data directory that is not there yet."""
    return Locations(tmp_path / "data")


class SlowDisk(FaultyDisk):
    """Waits before a write reaches the journal until it is let go, when it is told to."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__(at)
        self.gate = threading.Event()
        self.gate.set()
        self.appended = 0
        self._journal: int | None = None

    def append(self, path: Path) -> int:
        self._journal = super().append(path)
        return self._journal

    def fsync(self, descriptor: int) -> None:
        assert self.gate.wait(30)
        self.appended += descriptor == self._journal
        super().fsync(descriptor)


class BrokenDisk(FaultyDisk):
    """Fails every call while `broken`."""

    broken = False

    def _count(self, name: str) -> None:
        self.at, self.calls = (0, 0) if self.broken else (None, 0)
        self._forever = True
        super()._count(name)


async def test_a_saved_job_is_there_after_a_kill(at: Locations) -> None:
    """When `save` returns, the three files say so; nothing else has to happen."""
    async with opened(at) as store:
        snapshot = job("a", state=JobState.RUNNING, main_file="/d/f")
        await store.save(snapshot, lines("one", "two"))
        assert [entry["job_id"] for entry in state(at)] == ["a"]
        assert json.loads((at.options / "a.json").read_text()) == {
            "version": 1,
            "options": {"format": "best", "password": "s3cret"},
        }
        assert len(json.loads((at.logs / "a.json").read_text())["logs"]) == 2
    async with opened(at) as store:
        (stored,) = store.restored
        assert stored.snapshot == snapshot
        assert stored.logs == lines("one", "two")
        assert store.notes == ()


async def test_everything_is_private(at: Locations) -> None:
    """Options hold passwords: every file is 0600, every folder 0700."""
    async with opened(at) as store:
        await store.save(job(), lines("one"))
    for path in at.data.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


async def test_jobs_keep_their_order(at: Locations) -> None:
    """Order of creation, over changes and restarts."""
    async with opened(at) as store:
        for name in "cab":
            await store.save(job(name))
        await store.save(job("c", state=JobState.COMPLETED))
    assert await ids(at) == ["c", "a", "b"]


async def test_saves_share_a_write(at: Locations) -> None:
    """What comes while a write is under way is written together in the next one."""
    disk = SlowDisk()
    async with opened(at, disk) as store:
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save, job("first", options={}))
            await wait_all_tasks_blocked()
            for number in range(50):
                nursery.start_soon(store.save, job(f"j{number}", options={}))
            await wait_all_tasks_blocked()
            disk.gate.set()
        assert disk.appended == 2
        assert store.statistics() == jobs.StoreStatistics(51, 0, 2, 0, None)
        assert len(state(at)) == 51


async def test_the_newest_value_wins(at: Locations) -> None:
    """Two saves of one job that wait together are one, the later."""
    disk = SlowDisk()
    async with opened(at, disk) as store:
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save, job("other"))
            await wait_all_tasks_blocked()
            nursery.start_soon(store.save, job("j", state=JobState.STARTING))
            await wait_all_tasks_blocked()
            store.save_soon(job("j", state=JobState.RUNNING))
            disk.gate.set()
        assert state(at)[1]["status"] == "running"


async def test_side_files_are_written_when_their_version_changes(at: Locations) -> None:
    """Only then: a change of state costs a line in the journal, and no file."""
    disk = FaultyDisk()

    async def created(snapshot_version: int, logs_version: int, state: JobState) -> int:
        disk.names.clear()
        changes = {"options_version": snapshot_version, "logs_version": logs_version}
        await store.save(job("j", state=state, **changes), lines(f"line {logs_version}"))
        return disk.names.count("create")

    async with opened(at, disk) as store:
        assert await created(1, 1, JobState.QUEUED) == 3  # a segment of the journal, too
        assert await created(1, 1, JobState.STARTING) == 0
        assert await created(1, 2, JobState.STARTING) == 1
        assert await created(2, 2, JobState.STARTING) == 1
        assert await created(2, 2, JobState.STARTING) == 0
    async with opened(at, disk) as store:
        assert await created(2, 2, JobState.RUNNING) == 1  # the segment


async def test_logs_are_read_when_somebody_asks(at: Locations) -> None:
    """Of jobs at their end; whoever saves such a job without its log keeps it."""
    disk = FaultyDisk()
    ended = job("j", state=JobState.COMPLETED, finished_at=NOW)
    async with opened(at) as store:
        await store.save(ended, lines("one", "two"))
        assert await store.log("j") == lines("one", "two")
    async with opened(at, disk) as store:
        (stored,) = store.restored
        assert (stored.logs, stored.snapshot.logs_version) == (None, 1)
        assert await store.log("j") == lines("one", "two")
        await store.save(replace(ended, main_file="/d/f"), None)
        assert disk.names.count("create") == 1  # a segment, and no side file
        assert await store.log("j") == lines("one", "two")
        assert await store.log("nobody") == ()
    assert state(at)[0]["logs_external"] is True


async def test_a_log_that_is_not_written_yet_is_known(at: Locations) -> None:
    """Not even a disk that fails can show an older one."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        await store.save(job("j"), lines("one"))
        disk.broken = True
        with pytest.raises(StorageFailed):
            await store.save(job("j", logs_version=2), lines("one", "two"))
        with pytest.raises(StorageFailed):
            await store.save(job("j", logs_version=2, main_file="/d/f"), None)
        assert await store.log("j") == lines("one", "two")
        disk.broken = False
    async with opened(at) as store:
        assert store.restored[0].logs == lines("one", "two")


async def test_a_log_that_is_being_written_is_known(at: Locations) -> None:
    """Neither the file nor those that wait hold it in that moment."""
    disk = SlowDisk()
    async with opened(at, disk) as store:
        await store.save(job("j"), lines("one"))
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.save, job("j", logs_version=2), lines("one", "two"))
            await wait_all_tasks_blocked()
            assert await store.log("j") == lines("one", "two")
            disk.gate.set()


@pytest.mark.parametrize("data", [None, b"", b"{", b"[]", b'{"logs": 5}', b"[" * 200_000])
async def test_a_damaged_log_is_none_and_kept(at: Locations, data: bytes | None) -> None:
    """It is nobody's download; but the next line that is written must not replace it."""
    ended = job("j", state=JobState.COMPLETED, finished_at=NOW)
    async with opened(at) as store:
        await store.save(ended, lines("one"))
    path = at.logs / "j.json"
    if data is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(data)
    async with opened(at) as store:
        assert await store.log("j") == ()
        await store.save(replace(ended, logs_version=2), lines("new"))
    kept = list(at.logs.glob("j.json.corrupt-*"))
    assert len(kept) == (data not in (b"[]", b'{"logs": 5}'))
    assert all(data is None or one.read_bytes() == data for one in kept)


async def test_a_log_of_which_parts_are_sound_is_read(at: Locations) -> None:
    """What we could not write ourselves costs itself."""
    ended = job("j", state=JobState.COMPLETED, finished_at=NOW)
    async with opened(at) as store:
        await store.save(ended, lines("one", "two"))
        path = at.logs / "j.json"
        path.write_text(path.read_text().replace('"two"', "NaN"))
        assert await store.log("j") == lines("one")


async def test_without_versions_the_content_decides(at: Locations) -> None:
    """A caller that gives no version gets a file all the same."""
    disk = FaultyDisk()
    bare = {"options_version": None, "logs_version": None}
    async with opened(at, disk) as store:
        await store.save(job("j", **bare), lines("one"))
        before = disk.names.count("create")
        await store.save(job("j", **bare), lines("one", "two"))
        assert disk.names.count("create") == before + 1
    async with opened(at) as store:
        assert [entry.message for entry in store.restored[0].logs or ()] == ["one", "two"]


async def test_empty_content_has_no_file(at: Locations) -> None:
    """A log or options that are gone take their file with them."""
    async with opened(at) as store:
        await store.save(job(), lines("one"))
        await store.save(job(options={}))
        assert list(at.options.iterdir()) == list(at.logs.iterdir()) == []


async def test_soon_is_within_five_seconds(at: Locations, autojump_clock: MockClock) -> None:
    """Nobody waits, one write for many, and no write before."""
    async with opened(at) as store:
        for number in range(10):
            store.save_soon(job(f"j{number}"))
        await trio.sleep(jobs.SOON_SECONDS - 0.5)
        assert not at.state.exists()
        autojump_clock.autojump_threshold = math.inf
        async with written(store):
            autojump_clock.jump(1)
        assert len(state(at)) == 10
        assert store.statistics().writes == 1


async def test_soon_is_with_the_next_save(at: Locations) -> None:
    """A save takes along what waits."""
    async with opened(at) as store:
        store.save_soon(job("soon"))
        await store.save(job("now"))
        assert {entry["job_id"] for entry in state(at)} == {"soon", "now"}


async def test_soon_is_at_close(at: Locations) -> None:
    """Nothing is left behind, however much it is."""
    async with opened(at) as store:
        for number in range(3 * jobs.SLICE + 1):
            store.save_soon(job(f"j{number}", options={}))
    assert len(state(at)) == 3 * jobs.SLICE + 1


async def test_a_save_does_not_queue_behind_thousands(at: Locations) -> None:
    """What is waited for is written with a slice of the rest, not after it."""
    async with opened(at) as store:
        for number in range(3 * jobs.SLICE):
            store.save_soon(job(f"j{number}", options={}))
        await store.save(job("urgent", options={}))
        assert store.statistics().writes == 1
        assert len(state(at)) == jobs.SLICE + 1


async def test_a_removed_job_takes_its_files_with_it(at: Locations) -> None:
    """Durable on return; removing it twice is fine."""
    async with opened(at) as store:
        await store.save(job("a"), lines("one"))
        await store.save(job("b"))
        (at.entries / "a.json").write_text("{}")
        await store.remove("a")
        assert [entry["job_id"] for entry in state(at)] == ["b"]
        assert list(at.data.rglob("a.json")) == []
        await store.remove("a")
        await store.remove("never there")
    assert await ids(at) == ["b"]


async def test_a_removed_job_never_comes_back(at: Locations) -> None:
    """What a runner still had to say about it is ignored."""
    async with opened(at) as store:
        await store.save(job("a"))
        store.save_soon(job("a", state=JobState.RUNNING))
        await store.remove("a")
        await store.save(job("a", state=JobState.COMPLETED))
        store.save_soon(job("a", state=JobState.COMPLETED))
    assert await ids(at) == []


async def test_only_so_many_removals_are_remembered(
    at: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lives for years does not grow by them."""
    monkeypatch.setattr(jobs, "REMEMBERED", 3)
    async with opened(at) as store:
        for number in range(4):
            await store.remove(f"j{number}")
        await store.save(job("j1"))
        await store.save(job("j0"))
        assert [entry["job_id"] for entry in state(at)] == ["j0"]


async def test_a_forgotten_job_is_gone_at_once(at: Locations) -> None:
    """Even when it was just being written for a caller that went away."""
    disk = SlowDisk()
    async with opened(at, disk) as store:
        disk.gate.clear()
        with trio.CancelScope() as caller:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.save, job("gone"))
                await wait_all_tasks_blocked()
                caller.cancel()
        store.forget("gone")
        disk.gate.set()
        await store.save(job("next"))
    assert await ids(at) == ["next"]


# -- failures


async def test_a_failed_write_is_told_and_made_good(at: Locations) -> None:
    """Those who wait hear of it; the next save writes everything, with new files."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        await store.save(job("before"))
        disk.broken = True
        with pytest.raises(StorageFailed, match="No space left"):
            await store.save(job("during"))
        assert [entry["job_id"] for entry in state(at)] == ["before"]
        statistics = store.statistics()
        assert statistics.error == "No space left on device"
        assert (statistics.failures, statistics.waiting) == (1, 1)
        disk.broken = False
        await store.save(job("after"))
        assert [entry["job_id"] for entry in state(at)] == ["before", "during", "after"]
        assert store.statistics().error is None
    assert [path.name for path in at.data.glob(".*.tmp")] == []


async def test_a_failed_write_is_tried_again_by_itself(
    at: Locations, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Within five seconds after the disk works again; the log says both, once."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        autojump_clock.autojump_threshold = math.inf
        disk.broken = True
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await store.save(job("j"))
        with caplog.at_level(logging.INFO):
            disk.broken = False
            async with written(store):
                autojump_clock.jump(jobs.RETRY_SECONDS + 0.1)
        assert [entry["job_id"] for entry in state(at)] == ["j"]
    texts = [record.message for record in caplog.records if record.name == jobs.__name__]
    assert texts == [
        "jobs are not being saved: No space left on device",
        "jobs are being saved again",
    ]


async def test_a_newer_value_outlives_a_failed_older_one(at: Locations) -> None:
    """What came during a write that failed is not overwritten by what failed."""
    disk = SlowDisk(at=4)  # the first replace

    async def doomed() -> None:
        with pytest.raises(StorageFailed):
            await store.save(job("j", options={}, state=JobState.STARTING))

    async with opened(at, disk) as store:
        disk.gate.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(doomed)
            await wait_all_tasks_blocked()
            store.save_soon(job("j", options={}, state=JobState.RUNNING))
            disk.gate.set()
        await store.save(job("other", options={}))
        assert {entry["job_id"]: entry["status"] for entry in state(at)} == {
            "j": "running",
            "other": "queued",
        }


async def test_a_failed_removal_is_told_and_made_good(at: Locations) -> None:
    """The job is gone for good, only later."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        await store.save(job("a"))
        disk.broken = True
        with pytest.raises(StorageFailed):
            await store.remove("a")
        assert len(state(at)) == 1
        disk.broken = False
        await store.save(job("b"))
        assert [entry["job_id"] for entry in state(at)] == ["b"]


async def test_a_job_that_was_never_stored_can_be_forgotten(at: Locations) -> None:
    """A create that failed leaves no trace after the disk works again."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        disk.broken = True
        with pytest.raises(StorageFailed):
            await store.save(job("a"))
        store.forget("a")
        disk.broken = False
    assert await ids(at) == []
    assert list(at.options.iterdir()) == []


async def test_a_disk_that_fails_to_the_end(
    at: Locations, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing tries once more, says what is lost, and is done."""
    disk = BrokenDisk()
    async with opened(at, disk) as store:
        disk.broken = True
        store.save_soon(job("a"))
        store.save_soon(job("b"))
    assert "closed with changes that are not stored: No space left" in caplog.text


async def test_a_disk_that_hangs_does_not_stop_the_stop(
    at: Locations, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """After three seconds the last write is given up; who waited is told."""
    disk = SlowDisk()
    refused = []

    async def saving(store: jobs.JobStore, name: str) -> None:
        try:
            await store.save(job(name))
        except StorageFailed as error:
            refused.append(str(error))

    autojump_clock.autojump_threshold = math.inf
    async with trio.open_nursery() as nursery:
        async with opened(at, disk) as store:
            disk.gate.clear()
            nursery.start_soon(saving, store, "a")
            await wait_all_tasks_blocked()
            nursery.start_soon(saving, store, "b")
            await wait_all_tasks_blocked()
            nursery.start_soon(jump_when_blocked, autojump_clock, jobs.CLOSE_SECONDS + 1)
        disk.gate.set()
    assert sorted(text.rpartition(": ")[2] for text in refused) == [
        "the disk did not answer in time",
        "the store is closed",
    ]
    assert "closed with changes that are not stored" in caplog.text


async def test_after_close_nothing_is_stored(at: Locations) -> None:
    """Who still waits for it is told; who does not is not."""
    async with opened(at) as store:
        pass
    with pytest.raises(StorageFailed, match="closed"):
        await store.save(job())
    with pytest.raises(StorageFailed, match="closed"):
        await store.remove("j")
    store.save_soon(job("k"))
    store.forget("k")


async def test_a_cancelled_server_still_writes_what_waits(at: Locations) -> None:
    """The last write is shielded."""
    with trio.CancelScope() as server:
        async with opened(at) as store:
            store.save_soon(job("a"))
            server.cancel()
            await trio.sleep_forever()
    assert await ids(at) == ["a"]


# -- odd jobs


@pytest.mark.parametrize(
    "odd",
    [
        {"title": "half \ud800"},
        {"views": float("nan")},
        {"views": 10**400},
        {"set": {1, 2}},
        {(1, 2): 3},
    ],
)
async def test_one_odd_job_does_not_stop_the_others(at: Locations, odd: dict[str, object]) -> None:
    """What JSON cannot hold costs itself; the job and its neighbours are stored."""
    async with opened(at) as store:
        await store.save(job("odd", metadata={"kept": 1, **odd}))
        await store.save(job("even"))
    text = at.state.read_bytes()
    assert b"NaN" not in text
    text.decode()
    async with opened(at) as store:
        assert [stored.job_id for stored in store.restored] == ["odd", "even"]
        assert store.restored[0].snapshot.metadata["kept"] == 1


async def test_a_file_name_of_any_bytes(at: Locations) -> None:
    """Names that are no UTF-8 are stored with U+FFFD, which is always text."""
    async with opened(at) as store:
        await store.save(job(main_file="/d/\udcff.mp4"))
    assert state(at)[0]["main_file"] == "/d/\ufffd.mp4"


# -- helpers


@asynccontextmanager
async def written(store: jobs.JobStore) -> AsyncIterator[None]:
    """Wait, at the end of the block, until the store has written once more."""
    before = store.statistics().writes
    yield
    await until(lambda: store.statistics().writes > before)


async def until(condition: Callable[[], bool]) -> None:
    """Let real threads finish while the clock stands still."""
    for _ in range(100_000):
        if condition():
            return
        await trio.to_thread.run_sync(lambda: None)
    raise AssertionError("it never came true")


async def jump_when_blocked(clock: MockClock, seconds: float) -> None:
    """Move the clock once everybody waits."""
    await wait_all_tasks_blocked()
    clock.jump(seconds)


async def test_a_job_that_cannot_be_spelt_does_not_end_the_writer(
    at: Locations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in one write is that write's failure; the next one works."""
    async with opened(at) as store:
        with monkeypatch.context() as broken:
            broken.setattr(StateFile, "commit", _raises_type_error)
            with pytest.raises(StorageFailed):
                await store.save(job("a"))
        await store.save(job("b"))
    assert [entry["job_id"] for entry in state(at)] == ["a", "b"]


def _raises_type_error(*_: object) -> None:
    raise TypeError("no JSON value")
