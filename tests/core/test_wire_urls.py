"""Which URLs are fetched at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.wire.urls import MAX_URL_BYTES, OwnAddress, objection

OWN = OwnAddress("box.home", 5000)


@pytest.mark.parametrize(
    "url",
    [
        "http://h/x",
        "HTTPS://Example.ORG:8443/a?b=c#d",
        "http://h/x?key=ñandú ✓&x=%25",
        "http://[2001:db8::1]/x",
        "http://192.168.1.5:5000/",
        "http://localhost/",
        "http://127.0.0.1:5001/",
        "http://bücher.example/",
        "http://h/@user:pass",
        "http://1.2.3.4.5:5000/",
        "http://256.1:5000/",
        "http://1.2.70000:5000/",
        "http://0888:5000/",
        "http://h:0/",
        "http://" + "h/".ljust(MAX_URL_BYTES - 7, "x"),
    ],
)
def test_what_the_web_offers_is_fetched(url: str) -> None:
    """Any http or https address but this server's own; spaces and accents are fine."""
    assert objection(url, OWN) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("--help", "dash"),
        ("-x", "dash"),
        ("--exec=id", "dash"),
        ("file:///etc/passwd", "http"),
        ("data:text/plain,x", "http"),
        ("ftp://h/x", "http"),
        ("javascript:alert(1)", "http"),
        ("ytsearch:words", "http"),
        ("words", "http"),
        ("", "http"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://./x", "no host"),
        ("http://:80/", "no host"),
        ("http://[::1", "not a URL"),
        ("http://h:99999/", "not a URL"),
        ("http://h:x/", "not a URL"),
        ("http://u@h/", "user name"),
        ("http://u:p@h/", "user name"),
        ("http://h\\@other/", "user name"),
        ("http://a\\b/", "host name"),
        ("http://a b/", "host name"),
        ("http://a%62/", "host name"),
        ("http://h/\x00", "control"),
        ("http://h/\r\nX: y", "control"),
        ("http://h/\x1b[2J", "control"),
        ("http://h/\x85", "control"),
        ("http://h/\ud800", "control"),
        ("http://h/#__youtubedl_smuggle=x", "hidden"),
        ("http://" + "h/".ljust(MAX_URL_BYTES - 6, "x"), "longer"),
        ("http://h/" + "ñ" * MAX_URL_BYTES, "longer"),
        ("http://0.0.0.0/", "never"),
        ("http://0/", "never"),
        ("http://0x/", "never"),
        ("http://169.254.169.254/latest", "never"),
        ("http://0xA9FEA9FE/", "never"),
        ("http://[::]/", "never"),
        ("http://[fe80::1]/", "never"),
        ("http://[fd00:ec2::254]/", "never"),
        ("http://[::ffff:169.254.1.1]/", "never"),
        ("http://localhost:5000/", "itself"),
        ("http://LOCALHOST.:5000/", "itself"),
        ("http://sub.localhost:5000/", "itself"),
        ("http://127.0.0.1:5000/", "itself"),
        ("http://127.9.9.9:5000/", "itself"),
        ("http://127.1:5000/", "itself"),
        ("http://0177.0.0.1:5000/", "itself"),
        ("http://0x7f000001:5000/", "itself"),
        ("http://2130706433:5000/", "itself"),
        ("http://\uff11\uff12\uff17.0.0.1:5000/", "itself"),
        ("http://127。0。0。1:5000/", "itself"),
        ("http://[::1]:5000/", "itself"),
        ("http://[::ffff:127.0.0.1]:5000/", "itself"),
        ("http://box.home:5000/", "itself"),
        ("http://BOX.home.:5000/", "itself"),
    ],
)
def test_what_is_never_fetched(url: str, why: str) -> None:
    """Each refusal says why; other spellings of an address are the address."""
    reason = objection(url, OWN)
    assert reason is not None
    assert why in reason


def test_a_server_on_a_number_is_itself_there() -> None:
    """The address it listens on is its own, whichever way it is written."""
    own = OwnAddress("192.168.1.5", 80)
    assert objection("http://0xC0A80105/", own) == "this server itself"
    assert objection("https://192.168.1.5/", own) is None


def test_without_an_own_address_nothing_is_itself() -> None:
    """The rule about this server needs to know where it is."""
    assert objection("http://127.0.0.1:5000/") is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """Whatever a client sends as a URL, there is an answer."""
    for url in (text, f"http://{text}", f"http://h/{text}"):
        objection(url, OWN)
