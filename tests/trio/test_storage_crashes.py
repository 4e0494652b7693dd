"""Failures and kills at every call: what was acknowledged is there, and nothing is torn."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.disks import FaultyDisk, Killed
from tests.support.stores import ids, job, lines, opened, state
from vidra_trio.core.errors import StorageFailed
from vidra_trio.core.states import JobState
from vidra_trio.storage.files import Disk, Locations

if TYPE_CHECKING:
    from pathlib import Path

    from vidra_trio.storage.jobs import JobStore

COMPLETED = JobState.COMPLETED


class Acknowledged:
    """What a client was told: job -> state, or None for a removed one."""

    def __init__(self) -> None:
        self.said: dict[str, JobState | None] = {}
        self.failed: set[str] = set()

    async def save(self, store: JobStore, job_id: str, to: JobState, version: int = 1) -> None:
        """Save, and remember it when it was acknowledged."""
        try:
            snapshot = job(job_id, state=to, options_version=version, logs_version=version)
            await store.save(snapshot, lines(*"log" * version))
        except StorageFailed:
            self.failed.add(job_id)
        else:
            self.said[job_id] = to
            self.failed.discard(job_id)

    async def remove(self, store: JobStore, job_id: str) -> None:
        """Remove, and remember it when it was acknowledged."""
        try:
            await store.remove(job_id)
        except StorageFailed:
            self.failed.add(job_id)
        else:
            self.said[job_id] = None
            self.failed.discard(job_id)


async def life(at: Locations, disk: Disk) -> Acknowledged:
    """Live the life of a small server: create, change, remove."""
    told = Acknowledged()
    try:
        async with opened(at, disk) as store:
            await told.save(store, "a", JobState.QUEUED)
            await told.save(store, "b", JobState.QUEUED)
            await told.save(store, "a", JobState.RUNNING, version=2)
            await told.remove(store, "b")
            await told.save(store, "c", JobState.QUEUED)
            await told.save(store, "a", COMPLETED, version=3)
    except* Killed:
        pass
    return told


async def check(at: Locations, told: Acknowledged) -> None:
    """Start again: what was told holds, unless something later about it failed."""
    async with opened(at) as store:
        found = {stored.job_id: stored for stored in store.restored}
        assert store.notes == ()
    for job_id, last in told.said.items():
        if job_id in told.failed:
            continue
        assert (found[job_id].snapshot.state if job_id in found else None) is last
    for stored in found.values():
        assert stored.snapshot.spec.options == job().spec.options
        assert stored.logs
    assert not list(at.data.rglob(".*.tmp"))


@pytest.mark.slow
async def test_a_failure_at_every_call(tmp_path: Path) -> None:
    """For every N, once and from then on: the server goes on, and what it said is true."""
    for forever in (False, True):
        at_call = 0
        while True:
            at_call += 1
            at = Locations(tmp_path / f"{forever}-{at_call}")
            disk = FaultyDisk(at_call, forever=forever)
            told = await life(at, disk)
            if disk.calls < at_call:
                break
            await check(at, told)
            if not forever:
                # One failure is made good by what is saved later, or at close.
                assert await ids(at) == ["a", "c"]
        assert at_call > 40


@pytest.mark.slow
async def test_a_kill_at_every_call(tmp_path: Path) -> None:
    """For every N: killed at the N-th call, everything acknowledged before is there."""
    at_call = 0
    while True:
        at_call += 1
        at = Locations(tmp_path / str(at_call))
        disk = FaultyDisk(at_call, kill=True)
        told = await life(at, disk)
        if disk.calls < at_call:
            break
        await check(at, told)
    assert at_call > 40
    assert told.said == {"a": COMPLETED, "b": None, "c": JobState.QUEUED}


VICTIM = """
import pathlib, sys, trio
from tests.support.stores import job, lines, opened
from vidra_trio.storage.files import Locations

async def main():
    async with opened(Locations(pathlib.Path(sys.argv[1]))) as store:
        async def work(name):
            for n in range(10_000):
                job_id = f"{name}-{n}-{sys.argv[2]}"
                await store.save(job(job_id), lines("one"))
                print("+" + job_id, flush=True)
                if n % 3 == 0:
                    await store.remove(job_id)
                    print("-" + job_id, flush=True)
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(work, name)

trio.run(main)
"""


async def murder(at: Locations, number: int, after_lines: int) -> list[str]:
    """Run a busy server, kill it, and return what it had acknowledged."""
    command = [sys.executable, "-c", VICTIM, str(at.data), str(number)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            text = b""
            async for chunk in process.stdout:
                text += chunk
                if text.count(b"\n") >= after_lines and process.returncode is None:
                    process.send_signal(signal.SIGKILL)
    return [line.decode() for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [4, pytest.param(200, marks=pytest.mark.soak)])
async def test_kill_9(tmp_path: Path, rounds: int) -> None:
    """A real process, really killed: acknowledged jobs are there, removed ones are not."""
    at = Locations(tmp_path / "data")
    alive: set[str] = set()
    removed: set[str] = set()
    for number in range(rounds):
        said = [line.strip() for line in await murder(at, number, after_lines=7 + 5 * number % 40)]
        assert said
        removed |= {line[1:] for line in said if line.startswith("-")}
        alive |= {line[1:] for line in said if line.startswith("+")}
        alive -= removed
        found = set(await ids(at))
        # A removal may have been done and not yet told.
        in_doubt = {job_id for job_id in alive if int(job_id.split("-")[1]) % 3 == 0}
        assert alive - in_doubt <= found
        assert not removed & found
        assert len(state(at)) == len(found)
