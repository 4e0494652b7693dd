"""What holds for all tests: the same examples every time. The soaks look for new ones."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")
