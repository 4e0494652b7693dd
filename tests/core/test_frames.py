"""Frames, with wsproto as the referee: a client's own parser must read what we write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from vidra_trio.wire.frames import text_frame

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
