"""Data directories as the old backend really wrote them, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.stores import opened
from vidra_trio.core.restore import Policy, restore
from vidra_trio.core.states import JobState
from vidra_trio.storage.files import Locations
from vidra_trio.storage.reading import read_log
from vidra_trio.wire.words import status_word

if TYPE_CHECKING:
    from vidra_trio.storage.jobs import StoredJob

SAMPLES: Final = Path(__file__).parents[1] / "samples" / "old_backend"
LIFE, RESTARTED = "1_while_running", "3_after_restart"


def read(path: Path) -> Any:  # noqa: ANN401 - JSON is open
    """Return what a JSON file says."""
    return json.loads(path.read_bytes())


def listed(name: str) -> dict[str, dict[str, Any]]:
    """Return what the old backend told of its jobs."""
    return {job["job_id"]: job for job in read(SAMPLES / name)["jobs"]}


@pytest.fixture(params=[LIFE, RESTARTED])
def at(request: pytest.FixtureRequest, tmp_path: Path) -> Locations:
    """Return a copy of a directory."""
    shutil.copytree(SAMPLES / request.param, tmp_path / "data")
    (tmp_path / "data").chmod(0o700)
    return Locations(tmp_path / "data")


async def found(at: Locations) -> dict[str, StoredJob]:
    """Return what a server finds; nothing may be wrong with it."""
    async with opened(at) as store:
        assert store.notes == ()
        return {stored.job_id: stored for stored in store.restored}


async def test_every_job_is_there(at: Locations) -> None:
    """In its order, with what was asked, its options and its log."""
    entries = read(at.state)["jobs"]
    jobs = await found(at)
    assert list(jobs) == [entry["job_id"] for entry in entries]
    for entry in entries:
        job_id, snapshot = entry["job_id"], jobs[entry["job_id"]].snapshot
        assert list(snapshot.spec.urls) == entry["urls"]
        assert snapshot.kind.value == entry["kind"]
        assert snapshot.spec.creator == entry.get("creator")
        assert list(snapshot.generated_files) == entry.get("generated_files", [])
        assert snapshot.main_file == entry.get("main_file")
        assert snapshot.error == entry.get("error")
        options = read(at.options / f"{job_id}.json")
        assert snapshot.spec.options == options["options"]
        assert snapshot.options_version == options["version"]
        path = at.logs / f"{job_id}.json"
        assert [line.message for line in read_log(path)] == [
            line["message"] for line in read(path)["logs"]
        ]
        assert jobs[job_id].logs in (None, read_log(path))


@pytest.mark.parametrize("policy", Policy)
async def test_jobs_stand_as_they_did(at: Locations, policy: Policy) -> None:
    """As after the old backend's own restart; what ran then does what the policy says."""
    running = read(SAMPLES / "job_ids.json")["running"]
    selecting = read(SAMPLES / "job_ids.json")["playlist_waiting_selection"]
    told = listed("3_list_after_restart.json")
    for job_id, stored in (await found(at)).items():
        state = restore(stored.snapshot, stored.snapshot.created_at, policy).snapshot.state
        if job_id == selecting:
            assert state is JobState.SELECTING
        elif job_id != running or stored.snapshot.terminal or policy is Policy.FAIL:
            assert status_word(state) == told[job_id]["status"]
        else:
            by_policy = {Policy.RESUME: JobState.QUEUED, Policy.HOLD: JobState.PAUSED}
            assert state is by_policy[policy]


async def test_the_old_backend_finds_everything_again(at: Locations) -> None:
    """After a clean stop: every member that it wrote, as it was, and every side file."""
    before = {entry["job_id"]: entry for entry in read(at.state)["jobs"]}
    sides = {path: path.read_bytes() for path in at.data.glob("*/*.json")}
    await found(at)
    after = {entry["job_id"]: entry for entry in read(at.state)["jobs"]}
    assert list(after) == list(before)
    for job_id, entry in before.items():
        # Of a job at work the side file counts, which may be newer than what speaks of it.
        newer = {entry["logs_version"], read(at.logs / f"{job_id}.json")["version"]}
        assert after[job_id]["logs_version"] in newer
        del entry["logs_version"]
        assert {key: after[job_id].get(key) for key in entry} == entry
    assert {path: path.read_bytes() for path in at.data.glob("*/*.json")} == sides
    assert await found(at)
