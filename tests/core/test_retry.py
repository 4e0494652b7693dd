"""What is tried again by itself, and when."""

from __future__ import annotations

import pytest

from vidra_trio.core.report import Failed, Finished, Stopped
from vidra_trio.core.retry import NETWORK, PAUSES, passing, pause
from vidra_trio.engine.errors import FAULTS


@pytest.mark.parametrize("code", sorted(NETWORK))
def test_what_the_network_broke_may_pass(code: str) -> None:
    """Only together with the engine's own word that the same may work again."""
    assert passing(Failed(code, "x", retryable=True))
    assert not passing(Failed(code, "x"))


@pytest.mark.parametrize(
    "end",
    [
        Failed("engine_died", "x", retryable=True),
        Failed("disk_full", "x", retryable=True),
        Failed("internal_error", "x", retryable=True),
        Stopped(),
        Finished(),
    ],
    ids=lambda end: getattr(end, "code", type(end).__name__),
)
def test_nothing_else_passes_by_itself(end: Failed | Stopped | Finished) -> None:
    """A dead worker, a full disk and a defect are no weather."""
    assert not passing(end)


def test_every_code_is_one_that_an_engine_gives() -> None:
    """A code that is renamed elsewhere does not silently stop being tried again."""
    assert FAULTS.keys() >= NETWORK
    assert {code for code in NETWORK if not FAULTS[code]} == {"http_error"}


def test_the_pauses_double_up_to_half_a_minute() -> None:
    """However often it is tried."""
    assert [pause(number) for number in range(1, 9)] == [1, 2, 4, 8, 16, 30, 30, 30]
    assert pause(10**9) == PAUSES[-1]
