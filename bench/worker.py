"""A worker of ours whose yt-dlp has the bench's extractors: `python -m bench.worker`."""

from __future__ import annotations

from bench.extractors import registered
from vidra_trio.engine import worker

if __name__ == "__main__":
    with registered():
        worker.main()
