"""Hosts and origins, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.web.hosts import Host, Origin, bound_host, parse_host, parse_origin


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", Host("localhost")),
        ("LocalHost:5000", Host("localhost", 5000)),
        ("127.0.0.1:65535", Host("127.0.0.1", 65535)),
        ("[::1]", Host("::1")),
        ("[0:0:0:0:0:0:0:1]:80", Host("::1", 80)),
        ("my-box_1.example:1", Host("my-box_1.example", 1)),
    ],
)
def test_a_host_is_a_name_and_a_port(text: str, host: Host) -> None:
    """Names are lower case, numbers have one spelling."""
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "", ":5000", "localhost:", "localhost:0", "localhost:05", "localhost:65536",
        "localhost:80:80", "localhost:x", "localhost:+80", "localhost ", " localhost",
        "localhost.", ".localhost", "a..b", "user@localhost", "localhost/x", "localhost?",
        "localhost#", "localhost\\x", "localhost, evil", "[::1", "::1", "[::1]x", "[::1]:",
        "[127.0.0.1]", "[fe80::1%1]", "[]", "loc%61lhost", "münchen", "a\x00b",
    ],
)  # fmt: skip
def test_anything_else_is_no_host(text: str) -> None:
    """A lenient parser would let somebody else's name in."""
    assert parse_host(text) is None


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.1", False),
    ],
)
def test_only_this_machine_is_loopback(name: str, loopback: bool) -> None:
    """Equality, never a beginning."""
    assert Host(name).is_loopback is loopback


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost", Origin("http", "localhost", 80)),
        ("HTTPS://Example.org", Origin("https", "example.org", 443)),
        ("http://[::1]:5000", Origin("http", "::1", 5000)),
    ],
)
def test_an_origin_always_has_a_port(text: str, origin: Origin) -> None:
    """The scheme's own when none is written."""
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["", "null", "localhost", "http:localhost", "http://", "http://h/", "ftp://h", "http://h:0",
     "file://", "http://u@h", "http://a http://b", "moz-extension://x"],
)  # fmt: skip
def test_anything_else_is_no_origin(text: str) -> None:
    """`null` above all."""
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("127.0.0.1", "127.0.0.1"), ("0:0::1", "::1"), ("Box", "box"), ("odd host", "odd host")],
)
def test_the_bound_address_is_written_as_clients_write_it(text: str, name: str) -> None:
    """Whatever the setting looks like."""
    assert bound_host(text) == Host(name)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """A header may hold anything."""
    parse_host(text)
    parse_origin(f"http://{text}")
