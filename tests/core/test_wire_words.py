"""The wire's small words: states, instants, strict JSON in, valid JSON out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidra_trio.core.states import JobState
from vidra_trio.wire.words import MAX_DEPTH, dumps, iso, loads, parse_iso, parse_status, status_word


@pytest.mark.parametrize("state", list(JobState))
def test_every_state_has_a_word_that_clients_know(state: JobState) -> None:
    """A state is spelled as clients know it; the wait for a selection is `starting`."""
    word = status_word(state)
    assert word == ("starting" if state is JobState.SELECTING else state.value)
    read = parse_status(f" {word.upper()} ")
    assert read is (JobState.STARTING if state is JobState.SELECTING else state)


@pytest.mark.parametrize("word", ["", "deleted", "selecting", "who-knows"])
def test_an_unknown_status_word_is_none(word: str) -> None:
    """A word that is no state of a job is None, not an error."""
    assert parse_status(word) is None


def test_instants_have_one_form() -> None:
    """UTC with a Z, microseconds only when there are any, whatever the zone was."""
    moment = datetime(2026, 1, 3, 1, 2, 3, tzinfo=UTC)
    assert iso(moment) == "2026-01-03T01:02:03Z"
    assert iso(moment.replace(microsecond=456789)) == "2026-01-03T01:02:03.456789Z"
    assert iso(moment.astimezone(timezone(timedelta(hours=5)))) == "2026-01-03T01:02:03Z"


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001
def test_an_instant_survives_the_wire(naive: datetime) -> None:
    """What was written is read back as the same instant."""
    moment = naive.replace(tzinfo=UTC)
    assert parse_iso(iso(moment)) == moment


def test_a_naive_instant_is_utc() -> None:
    """The old backend wrote some instants without a zone; they are UTC."""
    assert parse_iso("2026-01-03T01:02:03") == datetime(2026, 1, 3, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01T00:00:00Z", "0001-01-01T00:00+23:00"]
)
def test_rubbish_is_no_instant(text: str) -> None:
    """What is no instant is None, not an error."""
    assert parse_iso(text) is None


def test_json_out_is_compact_and_unescaped() -> None:
    """No spaces, and non-ASCII text as it is."""
    assert dumps({"a": ["ñ", 1.5, None]}) == '{"a":["ñ",1.5,null]}'.encode()


def test_json_out_is_always_valid() -> None:
    """Half a character from a file name and a number that is none do not break a message."""
    odd = {"na\udcffme": ("\ud800x", {"deep": ["\udfff"]}, 1, None), "nan": float("nan")}
    text = dumps(odd)
    assert json.loads(text) == {
        "na\ufffdme": ["\ufffdx", {"deep": ["\ufffd"]}, 1, None],
        "nan": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nan",
        b"NaN",
        b"[Infinity]",
        b"[1e999]",
        b'"\\ud800"',
        b'"\\udc00x"',
        b'"\xff"',
        b'{"\xff":1}',
        b'"a\nb"',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"9" * 5000,
        b"[9223372036854775808]",
        b'{"a":{"b":-9223372036854775809}}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
    ids=lambda body: repr(body[:16]),
)
def test_json_in_is_strict(body: bytes) -> None:
    """What could not be written out again, or is nested beyond reason, is refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - which one is the library's affair
        loads(body)


def test_json_in_takes_what_is_json() -> None:
    """Numbers of 64 bits, any text, the last of two equal keys, and a hundred levels."""
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert dumps(loads(deep)) == deep
    assert loads(b'{"a":1,"a":9223372036854775807}') == {"a": 2**63 - 1}
    assert loads('"ñ✓\\u0000"'.encode()) == "ñ✓\x00"
    assert loads(b"true") is True


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    """Whatever arrives is JSON or a ValueError."""
    try:
        value = loads(body)
    except ValueError:
        return
    assert loads(dumps(value)) == value
