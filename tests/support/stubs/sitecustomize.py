"""Run by every Python that has this folder in PYTHONPATH: changes yt-dlp when it is loaded.

For a whole server under test and its workers, which take no extractors of ours. What
a page's URL says happens in the generic extractor:

- `chunked`: its file is fetched in pieces, as some sites ask for;
- `keeps-the-interpreter`: a pattern that backtracks for ever, in C, lets no other
  thread of its process run again.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_WANTED = "yt_dlp.extractor.generic"
_CHUNK = int(os.environ.get("STUB_CHUNK", "0"))


class _Finder(MetaPathFinder):
    """Lets the module be loaded as ever, then changes it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != _WANTED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def load_and_change(module: ModuleType) -> None:
            load(module)
            _change(module.GenericIE)

        spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


def _change(extractor: Any) -> None:  # noqa: ANN401
    original = extractor._real_extract

    def extract(self: Any, url: str) -> Any:  # noqa: ANN401
        if "keeps-the-interpreter" in url:
            self.to_screen("keeping the interpreter")
            re.match(r"(?:a+)+$", "a" * 64 + "b")
        found = original(self, url)
        if "chunked" in url:
            found["downloader_options"] = {"http_chunk_size": _CHUNK}
        return found

    extractor._real_extract = extract


sys.meta_path.insert(0, _Finder())
