"""A worker process of the engine's own, with the extractors of the tests.

open_process_engine(..., command=COMMAND)
"""

from __future__ import annotations

import sys

from tests.support import plugins
from vidra_trio.engine import worker

COMMAND = (sys.executable, "-m", "tests.support.worker")


if __name__ == "__main__":
    with plugins.installed():
        worker.main()
