"""Frames, with wsproto as the referee: a client's own parser must read what we write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from vidra_trio.wire.frames import MAX_CLOSE_REASON, close_frame, text_frame

SIZES = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, 200_000]


def read_texts(received: bytes) -> list[str]:
    """Return the whole text messages that a client gets out of `received`."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(received)
    texts, parts = [], []
    for event in client.events():
        assert isinstance(event, TextMessage), event
        parts.append(event.data)
        if event.message_finished:
            texts.append("".join(parts))
            parts.clear()
    assert not parts, "the last message is whole"
    return texts


def read_close(received: bytes) -> tuple[int, str]:
    """Return code and reason of the close frame that `received` is."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(received)
    (event,) = client.events()
    assert isinstance(event, CloseConnection)
    return event.code, event.reason or ""


@pytest.mark.parametrize("size", SIZES)
def test_a_text_of_any_size_reads_back(size: int) -> None:
    """Each of the three length forms, and both sides of each boundary, is understood."""
    assert read_texts(text_frame(b"x" * size)) == ["x" * size]


@pytest.mark.parametrize(("size", "head"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_the_length_is_spelled_as_short_as_it_can_be(size: int, head: int) -> None:
    """The header is 2, 4 or 10 bytes: never a longer form than is needed, and no mask."""
    assert len(text_frame(bytes(size))) == head + size


@settings(deadline=None)
@given(texts=st.lists(st.text(max_size=300), max_size=5))
def test_joined_frames_read_back_as_the_same_messages(texts: list[str]) -> None:
    """Frames can be joined into one write: the client sees the messages apart, in order."""
    joined = b"".join(text_frame(text.encode()) for text in texts)
    assert read_texts(joined) == texts


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1009, 1011, 1013, 3000, 4999])
def test_a_close_reads_back(code: int) -> None:
    """A client learns the code and the reason."""
    assert read_close(close_frame(code, "see you")) == (code, "see you")


def test_a_close_without_a_reason() -> None:
    """The reason may be left out."""
    assert read_close(close_frame(1000)) == (1000, "")


@pytest.mark.parametrize(
    "code", [-1, 0, 999, 1004, 1005, 1006, 1010, 1015, 1016, 2999, 5000, 70000]
)
def test_a_code_that_no_server_may_send(code: int) -> None:
    """A reserved code is our mistake and never reaches the wire."""
    with pytest.raises(ValueError, match=f"cannot close with {code}"):
        close_frame(code)


@settings(deadline=None)
@given(reason=st.text(max_size=200))
def test_a_long_reason_is_cut_between_characters(reason: str) -> None:
    """Whatever the reason, the frame is valid and holds as much of it as fits."""
    frame = close_frame(1001, reason)
    _, seen = read_close(frame)
    assert reason.startswith(seen)
    assert len(frame) <= 2 + 2 + MAX_CLOSE_REASON
    left = len(reason.encode()) - len(seen.encode())
    assert left == 0 or len(seen.encode()) > MAX_CLOSE_REASON - 4


def test_a_reason_that_utf8_cannot_hold() -> None:
    """A lone surrogate costs that character, not the goodbye."""
    assert read_close(close_frame(1001, "a\ud800b")) == (1001, "a?b")
