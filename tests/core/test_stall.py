"""How long a run may be silent: the arithmetic, phase by phase."""

from __future__ import annotations

import math

import pytest

from vidra_trio.core.report import Identified, Line, Stage, Tick, Waiting
from vidra_trio.core.stall import Phase, Silence, StallLimits
from vidra_trio.core.states import JobKind, Level

LIMITS = StallLimits(extract=10, connect=20, transfer=30, postprocess=40)
FOUND = Identified(JobKind.VIDEO)
BEGIN, END = Stage("download", key="a"), Stage("download", finished=True, key="a")
MERGE, MERGED = Stage("Merger"), Stage("Merger", finished=True)


@pytest.mark.parametrize(
    ("reports", "phase", "limit"),
    [
        ((), Phase.EXTRACT, 10),
        ((Line(Level.INFO, "reading the page"),), Phase.EXTRACT, 10),
        ((FOUND,), Phase.CONNECT, 20),
        ((FOUND, BEGIN), Phase.CONNECT, 20),
        ((FOUND, BEGIN, Tick("a")), Phase.TRANSFER, 30),
        ((FOUND, BEGIN, Tick("a"), END), Phase.CONNECT, 20),
        ((FOUND, BEGIN, Tick("a"), END, MERGE), Phase.POSTPROCESS, 40),
        ((FOUND, BEGIN, Tick("a"), END, MERGE, MERGED), Phase.CONNECT, 20),
        ((FOUND, BEGIN, Stage("download", key="b"), Tick("b"), END), Phase.TRANSFER, 30),
        ((Stage("Exec"), Stage("Exec", finished=True)), Phase.EXTRACT, 10),
    ],
)
def test_a_phase_is_read_off_the_reports(
    reports: tuple[Line | Identified | Stage | Tick, ...], phase: Phase, limit: float
) -> None:
    """And every report begins the count again."""
    silence = Silence(LIMITS, 0.0)
    for report in reports:
        silence.heard(report, 100.0)
    assert silence.phase is phase
    assert silence.limit == limit
    assert silence.deadline == (100.0 if reports else 0.0) + limit


@pytest.mark.parametrize("reports", [(FOUND,), (FOUND, BEGIN, Tick("a"))])
def test_that_something_is_tried_again_is_no_sign_of_life(
    reports: tuple[Identified | Stage | Tick, ...],
) -> None:
    """A site that keeps silent is silent, however often it is asked."""
    silence = Silence(LIMITS, 0.0)
    for report in reports:
        silence.heard(report, 1.0)
    before = silence.deadline
    silence.heard(Line(Level.INFO, "[download] Got error: Retrying (1/10)"), 5.0)
    assert silence.deadline == before


def test_a_warning_is_no_sign_of_life() -> None:
    """A page asked for is one; that it did not come is none."""
    silence = Silence(LIMITS, 0.0)
    silence.heard(Line(Level.WARNING, "timed out, trying again"), 5.0)
    assert silence.deadline == 10.0
    silence.heard(Line(Level.INFO, "Downloading webpage"), 5.0)
    assert silence.deadline == 15.0


def test_a_wait_on_purpose_is_excused() -> None:
    """A sleep interval of a minute, and then the usual patience."""
    silence = Silence(LIMITS, 0.0)
    silence.heard(Waiting(60.0), 5.0)
    assert silence.deadline == 70.0


def test_a_clients_own_time_out_is_respected() -> None:
    """Who says that a site may be slow is not cut short; ffmpeg is no site."""
    silence = Silence(LIMITS, 0.0, at_least=600)
    assert silence.deadline == 600
    silence.heard(MERGE, 0.0)
    assert silence.deadline == 40


def test_never_is_for_ever() -> None:
    """Zero switches a phase's limit off."""
    silence = Silence(StallLimits(extract=0), 0.0)
    assert silence.deadline == math.inf


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("90", StallLimits(90, 90, 90, 90)),
        ("0", StallLimits(0, 0, 0, 0)),
        ("extract=60,transfer=0", StallLimits(extract=60, transfer=0)),
        (" postprocess = 1.5 ", StallLimits(postprocess=1.5)),
    ],
)
def test_limits_are_read(text: str, limits: StallLimits) -> None:
    """One number for all, or names."""
    assert StallLimits.parse(text) == limits


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "inf", "nan", "1e9", "extract=", "sleep=5", "extract=1,,transfer=2"]
)
def test_other_words_are_refused(text: str) -> None:
    """With words that say what was expected."""
    with pytest.raises(ValueError, match="seconds for all phases"):
        StallLimits.parse(text)


def test_each_phase_has_its_code() -> None:
    """Clients tell them apart."""
    assert {phase.fault for phase in Phase} == {
        "stalled_extract", "stalled_connect", "stalled_transfer", "stalled_postprocess",
    }  # fmt: skip
