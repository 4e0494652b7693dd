"""`python -m bench SCENARIO…`: measure, and print Markdown, then JSON."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from bench.scenarios import hub

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.report import Report

SCENARIOS: Final[Mapping[str, Callable[[], Report]]] = {"hub": hub.measure}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the scenarios that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="+", choices=sorted(SCENARIOS), metavar="SCENARIO")
    for name in parser.parse_args(arguments).scenarios:
        report = SCENARIOS[name]()
        print(report.dump_markdown(), "", report.dump_json(), sep="\n")


if __name__ == "__main__":
    main()
