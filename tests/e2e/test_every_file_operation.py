"""A kill just before each file operation of a run, in turn: the next run gives the exact bytes.

Random kills meet an instant as often as it is long, and the dangerous ones are short
(between a rename and the line that says so). Here they are met one by one: the process
ends before its first, second, third... operation until a run gets through, and in the
middle of every write, and then once more while it heals what that left. A run in its
process with what goes before and after it; see `support.dying`.

The suite meets every operation of every function once; all instants are `soak`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.chance import seeded, tell
from tests.support.dying import WRITES, Attempt, Outcome
from tests.support.kinds import tiny
from tests.support.origin import Origin, digest, open_origin
from vidra_trio.engine.tools import find_ffmpeg

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="forks"),
]

LINKS: Final = {"writeurllink": True, "writewebloclink": True}
"""Side files: a publication of several renames."""

KINDS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "direct": ("direct.mp4", LINKS),
    "chunked": ("chunked.mp4", {"http_chunk_size": 50_000}),
    "hls1": ("hls.m3u8", {}),
    "hls8": ("hls.m3u8", {"concurrent_fragment_downloads": 8}),
    "dash": ("dash.mpd", {"merge_output_format": "mp4"}),
}

OWN: Final = ("engine/resume.py", "engine/validators.py", "downloader/", "postprocessor/")
"""Where kinds differ; all other operations are met with the first one only, in the suite."""


@dataclass
class Mortal:
    """Attempts one item, in processes that may die."""

    process: subprocess.Popen[str]
    item: Attempt

    def attempt(self, die_at: int = 0, *, torn: bool = False) -> Outcome:
        """Run, and die before an operation (or in it); 0 is never."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        wanted = replace(self.item, die_at=die_at, torn=torn)
        self.process.stdin.write(f"{json.dumps(asdict(wanted))}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process ended: {self.process.wait(5)}"
        outcome = Outcome(**json.loads(line))
        assert outcome.error == ""
        return outcome

    def finish(self) -> dict[str, str]:
        """Run to the end; return the digest of each file, and leave nothing."""
        outcome = self.attempt()
        assert not outcome.died
        return self.take(outcome)

    def take(self, outcome: Outcome) -> dict[str, str]:
        """Return the digest of each published file, and remove them; there is nothing else."""
        downloads = Path(self.item.root) / "downloads"
        assert sorted(outcome.files) == sorted(one.name for one in downloads.iterdir())
        found = {one.name: digest(one) for one in downloads.iterdir()}
        shutil.rmtree(downloads)
        return found

    def check(self, whole: dict[str, str], *instants: int, torn: bool = False) -> bool:
        """Die at each of `instants`, then live: the same files; return whether it died."""
        told = []
        for instant in instants:
            outcome = self.attempt(instant, torn=torn)
            told.append(f"{instant}: {outcome.operations[-1]}")
            if not outcome.died:
                assert self.take(outcome) == whole, told
                return False
        assert self.finish() == whole, told
        return True


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    """Serve for this module."""
    with open_origin() as found:
        yield found


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    """Run the process that makes attempts."""
    with subprocess.Popen(
        (sys.executable, "-m", "tests.support.dying"),
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(10) == 0


@pytest.fixture(params=KINDS)
def mortal(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    origin: Origin,
    process: subprocess.Popen[str],
) -> Mortal:
    """Return what attempts one kind of item."""
    name, params = KINDS[request.param]
    url = origin.file(name, 150_000) if name.endswith(".mp4") else tiny(origin, name)
    item = Attempt(url, str(tmp_path), params)
    return Mortal(process, replace(item, apart=name == "direct.mp4", ffmpeg=find_ffmpeg().location))


def every_kind_of(operations: Sequence[str], chance: random.Random) -> list[int]:
    """Return an instant of each different operation."""
    instants: dict[str, list[int]] = {}
    for number, operation in enumerate(operations, 1):
        instants.setdefault(operation, []).append(number)
    return sorted(chance.choice(numbers) for numbers in instants.values())


def is_write(operation: str) -> bool:
    return operation.partition(" ")[0] in WRITES


def test_each_different_operation(mortal: Mortal) -> None:
    """Whatever a run was about to do to a file when it was killed, the next one makes it whole."""
    operations = mortal.attempt().operations
    whole = mortal.finish()
    for instant in every_kind_of(operations, seeded()):
        operation = operations[instant - 1]
        if len(whole) == 1 and not any(place in operation for place in OWN):
            continue
        mortal.check(whole, instant)
        if is_write(operation):
            mortal.check(whole, instant, torn=True)


def test_a_second_kill_while_the_first_is_healed(mortal: Mortal) -> None:
    """What a run does before it downloads may be cut short, too."""
    operations = mortal.attempt().operations
    whole = mortal.finish()
    chance = seeded()
    for _ in range(4):
        first = chance.randint(len(operations) // 2, len(operations))
        mortal.check(whole, first, chance.randint(1, 40))


@pytest.mark.soak
@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_each_operation(mortal: Mortal, torn: bool) -> None:
    """The same for all of them, in turn, until a run gets through."""
    operations = mortal.attempt().operations
    whole = mortal.finish()
    instant, met = 1, 0
    while instant <= len(operations) or (met and not torn):
        if not torn or (instant <= len(operations) and is_write(operations[instant - 1])):
            died = mortal.check(whole, instant, torn=torn)
            if not died and not torn:
                break
            met += died
        instant += 1
    tell(f"{met} instants")
    assert met >= 10


@pytest.mark.soak
def test_pairs(mortal: Mortal) -> None:
    """Two kills, at any two instants."""
    operations = mortal.attempt().operations
    whole = mortal.finish()
    chance = seeded()
    for _ in range(100):
        first, second = (chance.randint(1, len(operations)) for _ in range(2))
        mortal.check(whole, first, second)
