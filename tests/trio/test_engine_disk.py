"""What an engine does on the disk: who waits for whom, and what a cancel ends."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from vidra_trio.engine import disk as disks
from vidra_trio.engine import fencing, workdir
from vidra_trio.engine.base import RunSpec
from vidra_trio.engine.disk import THREADS, Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 20
"""A liveness bound on a busy machine."""


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    """Return a run whose place is not there yet."""
    return RunSpec("j", "http://x", tmp_path, tmp_path / ".vidra-j" / "0", "%(id)s")


class Hanging:
    """A call that hangs until `go`, like one on a volume that is gone."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, *_: object, **__: object) -> tuple[str, ...]:
        self.inside.release()
        assert self.go.wait(PATIENCE)
        return ()

    async def wait_entered(self, times: int = 1) -> None:
        """Wait until that many threads hang in it."""
        for _ in range(times):
            await trio.to_thread.run_sync(self.inside.acquire, True, PATIENCE)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Return a call that hangs until the test is over."""
    found = Hanging()
    yield found
    found.go.set()


@pytest.mark.parametrize("busy", ["publish", "prepare"])
async def test_the_end_of_a_job_does_not_wait_for_others_files(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, hanging: Hanging, busy: str
) -> None:
    """However many copy or hang: looking and removing go on."""
    disk = Disk("me")
    place = await disk.prepare(spec, apart=False)
    (place / "tmp" / "a.part").write_text("x")
    monkeypatch.setattr(workdir, busy, hanging)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(THREADS + 1):
                if busy == "publish":
                    nursery.start_soon(disk.publish, spec, "a")
                else:
                    nursery.start_soon(lambda: disk.prepare(spec, apart=False))
            await hanging.wait_entered(THREADS)
            assert await disk.partial_files(spec.work) == (str(place / "tmp" / "a.part"),)
            assert (await disk.newest_change(spec.work))[1] == 1
            assert (await disk.vet(spec))[1] == ()
            assert await disk.sweep([spec.destination], {"j"}) == ()
            await disk.discard(spec.work.parent)
            assert list(spec.destination.iterdir()) == []
            hanging.go.set()


@pytest.mark.parametrize("name", ["remove", "parts_of", "newest_change"])
async def test_a_dead_volume_keeps_nobody_else_waiting(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, hanging: Hanging, name: str
) -> None:
    """Those that were given up still hold their threads; the others have threads, too."""
    disk = Disk()
    acts = {
        "remove": disk.discard, "parts_of": disk.partial_files, "newest_change": disk.newest_change,
    }  # fmt: skip
    with trio.fail_after(PATIENCE):
        with monkeypatch.context() as patch:
            patch.setattr(workdir, name, hanging)
            async with trio.open_nursery() as nursery:
                for _ in range(2 * THREADS):
                    nursery.start_soon(acts[name], spec.work)
                await hanging.wait_entered(2 * THREADS)
                nursery.cancel_scope.cancel()
        await acts[name](spec.work)
        assert (await disk.prepare(spec, apart=False)).is_dir()


async def test_a_look_at_the_parameters_files_is_abandoned(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch, hanging: Hanging
) -> None:
    """A cookie file on a dead volume does not hold up a cancel."""
    monkeypatch.setattr(disks, "vet", hanging)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Disk().vet, spec)
            await hanging.wait_entered()
            nursery.cancel_scope.cancel()
    assert not hanging.go.is_set()


async def test_a_cancel_ends_the_copying_before_a_run(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread that was given up left is not copied to its end; the next run has it."""
    disk = Disk("me")
    place = await disk.prepare(spec, apart=True)
    (place / "tmp" / "a.part").write_bytes(b"x" * 100_000)
    fenced = workdir.fence(spec.work)
    assert fenced is not None
    real, asked = trio.from_thread.check_cancelled, 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            trio.from_thread.run_sync(scope.cancel)
        real()

    with monkeypatch.context() as patch:
        patch.setattr(trio.from_thread, "check_cancelled", check)
        patch.setattr(fencing, "_BLOCK", 10_000)
        patch.delattr(os, "copy_file_range", raising=False)
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            await disk.prepare(spec, apart=True)
    assert scope.cancelled_caught
    assert asked == 3
    assert {p.name for p in spec.work.parent.iterdir()} == {"owner", fenced.name}
    again = await disk.prepare(spec, apart=True)
    assert (again / "tmp" / "a.part").stat().st_size == 100_000
