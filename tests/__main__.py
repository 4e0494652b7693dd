"""`python -m tests`: everything a change must pass, in one command.

Lint, format, types, floors, then the tests under branch coverage with its two
floors. Every step runs whatever the others said; pytest's closing line is the
last one printed. Arguments go to pytest: `python -m tests tests/core -x`; with
any, only a part runs and so the coverage is shown but not judged.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

OVERALL = 90
COMPLETE = ("core/*", "wire/*", "hub.py", "runner.py", "supervisor.py")
"""Where 100 % is demanded: what decides, and what everything passes through."""

LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run()"


def main(arguments: list[str]) -> int:
    """Run all steps and return the exit code."""
    complete = ",".join(f"vidra_trio/{part}" for part in COMPLETE)
    failed = [
        name
        for name, command in {
            "ruff check": ["-m", "ruff", "check", "."],
            "ruff format": ["-m", "ruff", "format", "--check", "."],
            "mypy": ["-m", "mypy"],
            "import-linter": ["-c", LINT_IMPORTS],
        }.items()
        if not run(name, command)
    ]
    closing: list[str] = []
    run("coverage erase", ["-m", "coverage", "erase"])
    if not run("pytest", ["-m", "coverage", "run", "-m", "pytest", *arguments], closing):
        failed.append("pytest")
    run("coverage combine", ["-m", "coverage", "combine", "--quiet"])
    judged = not arguments
    for name, command in {
        f"coverage: {OVERALL} % of everything": [f"--fail-under={OVERALL if judged else 0}"],
        "coverage: all of what decides": [
            f"--include={complete}",
            f"--fail-under={100 if judged else 0}",
        ],
    }.items():
        if not run(name, ["-m", "coverage", "report", *command]):
            failed.append(name)
    say(f"failed: {', '.join(failed)}" if failed else "all steps passed")
    say(closing[-1] if closing else "pytest did not get to its end")
    return 1 if failed or not closing else 0


def run(name: str, command: list[str], closing: list[str] | None = None) -> bool:
    """Run one step, show what it says, collect pytest's closing lines; True when it passed."""
    say(f"\n--- {name}")
    started = time.monotonic()
    step = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert step.stdout is not None
    for line in step.stdout:
        say(line.rstrip("\n"))
        if closing is not None and line.startswith("=") and " in " in line:
            closing.append(line.strip())
    code = step.wait()
    verdict = "ok" if code == 0 else f"exit code {code}"
    say(f"--- {name}: {verdict}, {time.monotonic() - started:.1f} s")
    return code == 0


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
