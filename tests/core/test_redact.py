"""What may be shown of a text: no secrets, one line."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vidra_trio.core.redact import escape, one_line, redact

# Few letters, so that secrets overlap, nest, and meet the patterns' own words.
TEXTS = st.text(st.sampled_from("ab*&=: \"'\\/@\n-%token"), max_size=40) | st.lists(
    st.sampled_from(
        ["token=", "Bearer ", "://", "@", "password': '", "***", "Authorization: ", " ", "x", "'"]
    ),
    max_size=12,
).map("".join)
SECRETS = st.lists(
    st.text(st.sampled_from("ab*&=: \"'%token"), min_size=1, max_size=6).filter(
        lambda secret: bool(secret.strip("*"))
    ),
    max_size=3,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /ws/jobs/1?token=s3cret&x=1", "GET /ws/jobs/1?token=***&x=1"),
        ("GET /?access_token=s3cret HTTP/1.1", "GET /?access_token=*** HTTP/1.1"),
        ("VIDRA_SERVER_TOKEN=s3cret", "VIDRA_SERVER_TOKEN=***"),
        ("Authorization: Bearer s3cret", "Authorization: ***"),
        ("authorization: Basic dXNlcjpwYXNz\r\nHost: a", "authorization: ***\r\nHost: a"),
        ("X-API-Token: s3 cret", "X-API-Token: ***"),
        ("[(b'x-api-token', b's3cret'), (b'a', b'b')]", "[(b'x-api-token', b'***'), (b'a', b'b')]"),
        ("{'Cookie': 'sid=1; b=2', 'Host': 'a'}", "{'Cookie': '***', 'Host': 'a'}"),
        ("sent Bearer s3cret, got 401", "sent Bearer ***, got 401"),
        ("sent Basic dXNlcjpwYXNz", "sent Basic ***"),
        ('{"password": "s3 \\" cret", "a": 1}', '{"password": "***", "a": 1}'),
        ("{'video_password': 's3 cret', 'a': 1}", "{'video_password': '***', 'a': 1}"),
        ("proxy http://user:s3cret@host:80/p@th", "proxy http://***@host:80/p@th"),
        ("api_key=s3cret; twofactor=123456", "api_key=***; twofactor=***"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(text: str, shown: str) -> None:
    """Tokens, passwords, credential headers and logins in URLs go; the rest stays."""
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "VIDRA_SERVER_TOKEN: must be set",
        "the token is missing",
        "basic usage of https://example.org/@user",
        "Authorization, please",
        "100 % of a@example.org",
    ],
)
def test_plain_text_stays(text: str) -> None:
    """Talking about a secret is not saying it."""
    assert redact(text) == text


def test_a_given_secret_goes_in_every_spelling() -> None:
    """As it is, and as a URL spells it; the longer one first."""
    text = redact("a b&c / a%20b%26c / a+b%26c / a b", ["a b", "a b&c"])
    assert text == "*** / *** / *** / ***"


def test_a_secret_of_asterisks_stays() -> None:
    """It cannot be told from the mask."""
    assert redact("** and *", ["**", ""]) == "** and *"


@given(TEXTS, SECRETS)
@example("aa***bb", ["a***b"])
@example("token=a b", [" b"])
@example("tokxen=abc", ["x"])
def test_no_given_secret_is_left(text: str, secrets: list[str]) -> None:
    """Whatever the text, whatever the secrets, and doing it twice changes nothing."""
    shown = redact(text, secrets)
    assert not [secret for secret in secrets if secret in shown]
    assert redact(shown, secrets) == shown


@given(st.text(), st.text(min_size=1))
def test_any_text_is_bearable(text: str, secret: str) -> None:
    """Half surrogates and control characters are text like any other."""
    shown = redact(text + secret + text, [secret])
    assert secret not in shown or not secret.strip("*")


@pytest.mark.parametrize(
    "piece", ["token=", 'password": "', "password': '", "://", "a", "bearer ", "cookie: ", "\x1b]"]
)
def test_a_hostile_line_costs_linear_time(piece: str) -> None:
    """Half a megabyte of beginnings without an end is done in a moment."""
    text = piece * (500_000 // len(piece))
    began = time.perf_counter()
    one_line(redact(text, ["s3cret"]))
    escape(text)
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  plain  ", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\x9b31mb", "ab"),
        ("\x1b]0;title\x07rest", "rest"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;no end", "0;no end"),
        ("\x1b(Bx", "x"),
        ("one\r\ntwo\n\nthree\tfour", "one two three four"),
        ("a\u2028b\u0085c", "a b c"),
        ("nul\x00 bell\x07", "nul bell"),
        ("abc\u202egpj.exe", "abcgpj.exe"),
        ("half \ud800", "half \ufffd"),
        ("Título ñ ✓ 👩‍🚀", "Título ñ ✓ 👩‍🚀"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    """No colours, no controls, no direction tricks, no second line."""
    assert one_line(text) == shown


@given(st.text(st.characters() | st.sampled_from("\x1b[]m\x07\\\r\n\x9b\ud800\u202e"), max_size=60))
def test_one_line_is_one_printable_line(text: str) -> None:
    """Whatever came in, a terminal and a UTF-8 file can take what comes out."""
    shown = one_line(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in shown)
    assert shown.splitlines() in ([], [shown])
    assert one_line(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\nb\x1b[0m\x9b", r"a\nb\x1b[0m\x9b"),
        ("\u2028\u202e\ud800 ñ\u200d", "\\u2028\\u202e\\ud800 ñ\u200d"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    """Nothing is lost and nothing works: a log tells what came, on one line."""
    assert escape(text) == shown
