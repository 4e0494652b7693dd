"""One item, run by yt-dlp. The only package that imports it.

1. One extraction: what the page said is followed (`url` results, a playlist of
   one) and handed on to the download; nothing is asked twice.
2. Everything happens in the run's private directory. Names made from metadata
   are confined to it; publishing is the server's business.
3. Whatever goes wrong ends as one `Failed` with the real cause. A post-processor
   that only decorates (tags, covers, subtitles, chapters) costs a warning, not
   the file.
4. Names that yt-dlp calls private are used here only, and a contract test holds
   each of them against the installed version.
"""

from __future__ import annotations

from vidra_trio.engine.ytdlp.repairs import installed
from vidra_trio.engine.ytdlp.running import run_item
from vidra_trio.engine.ytdlp.warming import prewarm, version

__all__ = ["installed", "prewarm", "run_item", "version"]
