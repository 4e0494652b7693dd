"""The table of paths."""

from __future__ import annotations

import pytest

from vidra_trio.wire import routes
from vidra_trio.wire.routes import ROUTES, SOCKET, Found, Route, Table

TABLE = Table()


def _names(found: Found | None) -> set[str]:
    return set() if found is None else {row.name for row in found.rows}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_row_is_found_at_its_path(route: Route) -> None:
    """A row's own path leads to it, and a trailing slash means nothing."""
    path = route.path.replace("{job_id}", "some-id")
    for asked in (path, f"{path}/"):
        found = TABLE.find(asked, socket=route.method is SOCKET)
        assert found is not None
        assert route.name in _names(found)
        assert found.path == path


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_sockets_and_requests_do_not_meet(route: Route) -> None:
    """A request to a socket's path finds nothing, nor does a socket to a request's."""
    path = route.path.replace("{job_id}", "some-id")
    assert TABLE.find(path, socket=route.method is not SOCKET) is None


def test_names_are_unique() -> None:
    """One row, one view."""
    assert len({route.name for route in ROUTES}) == len(ROUTES)


def test_fixed_words_win() -> None:
    """`/api/jobs/cancel` is the bulk command for POST and a job's name for everything else."""
    found = TABLE.find("/api/jobs/cancel")
    assert _names(found) == {"cancel_many", "detail", "delete"}
    assert found is not None
    assert found.methods == {"POST", "GET", "HEAD", "DELETE", "OPTIONS"}


def test_methods_of_a_path_without_get() -> None:
    """HEAD is there only where GET is."""
    found = TABLE.find("/api/jobs/x/cancel")
    assert found is not None
    assert found.methods == {"POST", "OPTIONS"}


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/api",
        "/api/jobs/a/b",
        "/api/jobs//cancel",
        "/api/jobs/a/cancel/b",
        "x",
        "/API/jobs",
    ],
)
def test_unknown_paths_are_not_found(path: str) -> None:
    """An id is one segment and not empty, and words are exact."""
    assert TABLE.find(path) is None


@pytest.mark.parametrize(
    ("asked", "fixed"),
    [
        ("/v", "/"),
        ("/v/rest/jobs/x/logs", "/api/jobs/x/logs"),
        ("/v/api/jobs", "/api/jobs"),
        ("/api/jobs", "/api/jobs"),
        ("/", "/"),
    ],
)
def test_configured_prefixes_are_second_names(asked: str, fixed: str) -> None:
    """Both the configured and the fixed paths lead to the same place."""
    table = Table.named([("/v", "/"), ("/v/rest", "/api"), ("/v//ws/all", "/ws/overview")])
    found = table.find(asked)
    assert found is not None
    assert found.path == fixed
    assert table.find("/v/ws/all", socket=True) is not None
    assert table.find("/v/nope") is None


def test_the_default_prefixes_add_nothing() -> None:
    """What is configured as it is anyway makes no second name."""
    assert Table.named([("/", "/"), ("//api", routes.JOBS[:4])]) == TABLE
