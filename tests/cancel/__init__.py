"""Cancel wins: the suite that proves it. Begin with `phases.py`."""

import pytest

pytest.register_assert_rewrite("tests.cancel.cell")
