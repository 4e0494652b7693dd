"""Chance that can be repeated: `KILL_SEED=17 pytest ...`.

pytest shows the seed of a test that failed.
"""

from __future__ import annotations

import os
import random
import sys


def seeded() -> random.Random:
    """Return a source of chance, and say what it was seeded with."""
    seed = int(os.environ.get("KILL_SEED", "1"))
    tell(f"KILL_SEED={seed}")
    return random.Random(seed)


def tell(text: str) -> None:
    """Say what a test found; pytest keeps it for those that fail, or for `-s`."""
    sys.stdout.write(f"{text}\n")
