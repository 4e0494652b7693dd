"""Values into responses: JSON, and what every answer carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quart_trio.wrappers import TrioResponse

from vidra_trio.wire.words import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CHUNK_BYTES: Final = 64 * 1024
"""A write has a deadline; a slow reader of a long list should meet it per chunk, not per list."""

JSON: Final = "application/json"

EVERY_ANSWER: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def answer(
    body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> TrioResponse:
    """Make a JSON response."""
    return raw_answer([dumps(body)], status, headers)


def raw_answer(
    parts: Sequence[bytes], status: int = 200, headers: Mapping[str, str] | None = None
) -> TrioResponse:
    """Make a response of JSON text that is already written."""
    text = b"".join(parts)
    chunks = [text[at : at + CHUNK_BYTES] for at in range(0, len(text), CHUNK_BYTES)]
    response = TrioResponse(chunks, status, dict(headers or {}), content_type=JSON)
    response.headers["Content-Length"] = str(len(text))
    return response
