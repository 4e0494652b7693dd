"""How long a video that is announced is waited for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from vidra_trio.engine import upcoming
from vidra_trio.engine.upcoming import SLICE, seconds_until

NOW = 1000.0


@pytest.mark.parametrize(
    ("found", "limits", "seconds"),
    [
        ({"url": "http://x"}, [15, None], 0),
        ({"formats": [{}]}, [15, None], 0),
        ({"_type": "playlist"}, [15, None], 0),
        ({"_type": "url", "url": "x"}, [15, None], 0),
        ({}, [15, None], 15),
        ({"formats": []}, [15, 60], 40),
        ({"release_timestamp": NOW + 30}, [15, 60], 30),
        ({"release_timestamp": NOW + 30}, [15, None], 30),
        ({"release_timestamp": NOW + 90}, [15, 60], 60),
        ({"release_timestamp": NOW - 90}, [15, 60], 15),
        ({"release_timestamp": None}, [15, 60], 40),
        ({"release_timestamp": "soon"}, [15, 60], 40),
    ],
)
def test_the_wait_is_within_the_users_limits(
    found: Mapping[str, Any], limits: Sequence[float | None], seconds: float
) -> None:
    """Until the release if it is known, else some time between the two."""
    assert seconds_until(found, limits, NOW, lambda least, most: 40.0) == seconds


def test_an_endless_number_is_no_endless_wait() -> None:
    """A page may say anything: not without the user's word for it."""
    assert seconds_until({"release_timestamp": math.inf}, [15, 60], NOW) == 60
    assert seconds_until({"release_timestamp": math.nan}, [15, None], NOW) == 15
    assert seconds_until({"release_timestamp": 1e30}, [15, None], NOW) == upcoming.LONGEST


def test_a_wait_is_slept_in_slices() -> None:
    """So that a clock that jumped, on a laptop that slept, is noticed."""
    clock, slept = [NOW], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock[0] += 500 if len(slept) == 2 else seconds

    upcoming.wait(400, sleep, lambda: clock[0])
    assert slept == [SLICE, SLICE]
    upcoming.wait(0, sleep, lambda: clock[0])
    assert len(slept) == 2
