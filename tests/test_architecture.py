"""The house's shape: who may import what, who may write, what is public.

`import-linter` holds the floors (pyproject.toml); here is what it cannot see.
Every exception has its reason beside it: a new one is a decision, not a detail.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import vidra_trio

PACKAGE = Path(vidra_trio.__file__).parent

PUBLIC = {
    "Client",
    "Engine",
    "JobSpec",
    "JobState",
    "Server",
    "Settings",
    "Snapshot",
    "VidraError",
    "__version__",
    "run",
    "serve",
}

IMPORTERS = {
    "threading": {"engine/"},
    "multiprocessing": set[str](),
    "concurrent": {"engine/hooks.py"},  # loads it before anything forks, uses nothing of it
    "asyncio": set[str](),
    "subprocess": {
        "engine/",
        "demo.py",  # its clip, and `ps`
    },
    "signal": {
        "engine/",  # process groups
        "interrupts.py",
    },
    "yt_dlp": {"engine/ytdlp/"},
    "tempfile": {
        "engine/",
        "get.py",  # the private server's folder
        "demo.py",  # its clip
    },
    "dotenv": {"surroundings.py"},  # a library reads no `.env`
    "click": {"cli.py"},
}
"""Module -> the only files (or folders) that import it."""

WRITERS = {
    "storage/",
    "engine/",  # work directories, publishing
    "log.py",  # the log file
    "demo.py",  # its clip
}
"""Who changes what is on disk."""

WRITES = {
    "write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "removedirs",
    "rename", "renames", "rmtree", "symlink", "symlink_to", "hardlink_to", "link", "truncate",
    "ftruncate", "copyfile", "copytree", "copy2", "fsync",
}  # fmt: skip
"""Names of calls that change the disk, whatever they are called on; `open` is looked at closer."""

LAZY = {"cli.py"}
"""Who may import inside functions: the command line, so that `--help` needs no web server."""

CATCHERS = {
    "runner.py",  # a job fails, its siblings do not
    "supervisor.py",  # a start that failed is undone, and raised on
    "net/",  # a peer goes, the server stays
    "web/",  # the error handler
    "engine/",  # the yt-dlp adapter
    "server.py",  # keeps an error of the caller's block out of our nurseries, and raises it
}
"""Who may catch `Exception` or all."""


class Module:
    """One file of the package, parsed."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(PACKAGE).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=str(path))

    def among(self, places: Iterable[str]) -> bool:
        """Whether this file is one of `places`, or in one that ends with a slash."""
        return any(
            self.name.startswith(place) if place.endswith("/") else self.name == place
            for place in places
        )

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)


MODULES = [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def violations(
    find: Callable[[Module], Iterator[ast.stmt | ast.expr | ast.ExceptHandler]],
    *,
    allowed: Iterable[str] = (),
) -> list[str]:
    """Return `file:line` of everything that `find` finds outside of `allowed`."""
    return [
        f"{module.name}:{node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for module in MODULES
        if not module.among(allowed)
        for node in find(module)
    ]


def imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node, node.module


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: all but the insides of functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*child.decorator_list, child.args):
                yield from at_import(part)
        elif not isinstance(child, ast.Lambda):
            yield from at_import(child)


def test_public_names() -> None:
    """The package offers these names, each can be had, and there is no other."""
    assert set(vidra_trio.__all__) == PUBLIC == set(dir(vidra_trio))
    assert all(hasattr(vidra_trio, name) for name in PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = vidra_trio.nothing


@pytest.mark.parametrize("wanted", IMPORTERS)
def test_importers(wanted: str) -> None:
    """Threads, processes, signals, yt-dlp and temporary files are where they belong."""

    def find(module: Module) -> Iterator[ast.stmt]:
        yield from (n for n, name in imports(module.tree) if name.partition(".")[0] == wanted)

    assert not violations(find, allowed=IMPORTERS[wanted])


def test_no_import_inside_functions() -> None:
    """An import in a function is a floor plan that leaks."""

    def find(module: Module) -> Iterator[ast.stmt]:
        for node in module.nodes():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from (statement for statement, _ in imports(node))

    assert not violations(find, allowed=LAZY)


def test_writers() -> None:
    """Files change in storage and in work directories; the exceptions are listed."""

    def find(module: Module) -> Iterator[ast.expr]:
        for node in module.nodes():
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                modes = {a.value for a in node.args if isinstance(a, ast.Constant)}
                if (
                    name.rpartition(".")[2] in WRITES
                    or name in {"open", "os.open", "io.open"}
                    or (name.endswith(".open") and modes & {"w", "wb", "a", "ab", "x", "xb", "r+b"})
                ):
                    yield node

    assert not violations(find, allowed=WRITERS)


def test_catchers() -> None:
    """`except Exception` stands at the boundaries only."""

    def find(module: Module) -> Iterator[ast.ExceptHandler]:
        for node in module.nodes():
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            ):
                yield node

    assert not violations(find, allowed=CATCHERS)


def test_nothing_happens_at_import() -> None:
    """A module may be imported in any process: neither environment nor folders are asked."""
    asking = {"os.environ", "os.getenv", "os.getcwd", "os.getpid", "Path.home", "Path.cwd"}

    def find(module: Module) -> Iterator[ast.expr]:
        for node in at_import(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in asking:
                yield node

    assert not violations(find)


def test_oldest_syntax() -> None:
    """Every file is Python 3.11, whatever runs the tests."""
    for module in MODULES:
        ast.parse(module.text, filename=module.name, feature_version=(3, 11))


def test_annotations_cost_nothing() -> None:
    """Every module with code of its own begins with `from __future__ import annotations`."""

    def find(module: Module) -> Iterator[ast.stmt]:
        code = [node for node in module.tree.body if not isinstance(node, ast.Expr)]
        if code and ast.unparse(code[0]) != "from __future__ import annotations":
            yield code[0]

    assert not violations(find, allowed={"__main__.py"})
