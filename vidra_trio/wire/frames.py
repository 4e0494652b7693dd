"""What a server writes on a WebSocket, as bytes (RFC 6455, section 5).

1. A server's frames carry no mask, so one frame fits every subscriber: it is
   made once per event, not once per reader.
2. Each message is one frame: FIN is always set, nothing is fragmented, and no
   extension touches it (valid beside a negotiated compression, too).
3. The length has one right spelling: the shortest that holds it.
"""

from __future__ import annotations

from typing import Final

MAX_CLOSE_REASON: Final = 123
"""Bytes. A control frame holds 125, and the code takes two."""

_FIN_TEXT: Final = b"\x81"
_FIN_CLOSE: Final = b"\x88"
_LENGTH_IN_7_BITS: Final = 125
_LENGTH_IN_16_BITS: Final = 0xFFFF

# 1004, 1005, 1006 and 1015 mean something only inside a program; 1010 is the client's.
_SENDABLE: Final = frozenset(
    [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, *range(3000, 5000)]
)


def text_frame(payload: bytes) -> bytes:
    """Frame one text message.

    `payload` must be UTF-8, which is not checked: it comes from our own encoder.
    Any length is fine (the format ends at 2**63 - 1); what a client is willing
    to take is the caller's business.
    """
    size = len(payload)
    if size <= _LENGTH_IN_7_BITS:
        return b"%b%c%b" % (_FIN_TEXT, size, payload)
    if size <= _LENGTH_IN_16_BITS:
        return b"%b\x7e%b%b" % (_FIN_TEXT, size.to_bytes(2, "big"), payload)
    return b"%b\x7f%b%b" % (_FIN_TEXT, size.to_bytes(8, "big"), payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """Frame the goodbye: the last thing a server may write.

    A reason longer than `MAX_CLOSE_REASON` is cut between two characters; a
    character that UTF-8 cannot hold becomes a question mark.

    Raises:
        ValueError: `code` is not one that a server may send.
    """
    if code not in _SENDABLE:
        raise ValueError(f"a server cannot close with {code}")
    words = reason.encode(errors="replace")[:MAX_CLOSE_REASON]
    body = code.to_bytes(2, "big") + words.decode(errors="ignore").encode()
    return b"%b%c%b" % (_FIN_CLOSE, len(body), body)
