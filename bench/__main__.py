"""`python -m bench SCENARIO…`: measure, and print Markdown, then JSON; progress goes to stderr."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.scenarios import cancel, downloads, hub, store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.report import Printable

RESULTS: Final = Path(__file__).with_name("results")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for; empty means all, None the scenario's own number."""

    runs: int | None = None
    only: Sequence[str] = ()
    ways: Sequence[str] = ()


def measure_hub(wishes: Wishes) -> Printable:
    """Run `hub`; `--runs` are rounds."""
    return hub.measure() if wishes.runs is None else hub.measure(rounds=wishes.runs)


def measure_cancel(wishes: Wishes) -> Printable:
    """Run `cancel`; `--runs` of each cell, `--only` phases that are called so."""
    return _stop(wishes, cancel.Wishes())


def measure_pause(wishes: Wishes) -> Printable:
    """Run `cancel` with the soft stop; peers have none."""
    return _stop(wishes, cancel.Wishes(runs=5, ways=cancel.ENGINES, command="pause"))


def measure_downloads(wishes: Wishes) -> Printable:
    """Run `downloads`; `--runs` are rounds, `--only` numbers of jobs."""
    loads = [x for x in downloads.LOADS if not wishes.only or str(x.jobs) in wishes.only]
    if wishes.runs is not None:
        loads = [replace(load, rounds=wishes.runs) for load in loads]
    return downloads.measure(downloads.Wishes(loads, wishes.ways or downloads.WAYS))


def measure_store(wishes: Wishes) -> Printable:
    """Run `store`; `--runs` are rounds, `--only` numbers of stored jobs."""
    stored = [n for n in store.STORED if not wishes.only or str(n) in wishes.only]
    wanted = store.Wishes(stored)
    return store.measure(wanted if wishes.runs is None else replace(wanted, rounds=wishes.runs))


def _stop(wishes: Wishes, wanted: cancel.Wishes) -> Printable:
    if wishes.runs is not None:
        peers = min(wishes.runs, wanted.peer_runs)
        wanted = replace(wanted, runs=wishes.runs, peer_runs=peers)
    return cancel.measure(replace(wanted, only=wishes.only, ways=wishes.ways or wanted.ways))


SCENARIOS: Final[Mapping[str, Callable[[Wishes], Printable]]] = {
    "cancel": measure_cancel,
    "downloads": measure_downloads,
    "hub": measure_hub,
    "pause": measure_pause,
    "store": measure_store,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the scenarios that are named."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("scenarios", nargs="+", choices=sorted(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--save", action="store_true", help="also write bench/results/SCENARIO.*")
    parser.add_argument("--runs", type=int, help="runs or rounds of each")
    parser.add_argument("--only", default="", help="parts of what is measured, by comma")
    parser.add_argument("--ways", default="", help="ways to measure, by comma")
    chosen = parser.parse_args(arguments)
    wishes = Wishes(chosen.runs, _split(chosen.only), _split(chosen.ways))
    for name in chosen.scenarios:
        report = SCENARIOS[name](wishes)
        print(report.dump_markdown(), "", report.dump_json(), sep="\n", flush=True)
        if chosen.save:
            save(name, report)


def save(name: str, report: Printable) -> None:
    """Write both forms to `bench/results`, over what is there."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(report.dump_markdown() + "\n", encoding="utf-8")
    (RESULTS / f"{name}.json").write_text(report.dump_json() + "\n", encoding="utf-8")


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


if __name__ == "__main__":
    main()
