"""What a server writes on a WebSocket, as bytes (RFC 6455, section 5).

1. A server's frames carry no mask, so one frame fits every subscriber: it is
   made once per event, not once per reader.
2. Each message is one frame: FIN is always set, nothing is fragmented, and no
   extension touches it (valid beside a negotiated compression, too).
3. The length has one right spelling: the shortest that holds it.
"""

from __future__ import annotations

from typing import Final

CONNECTION_KEY: Final = "vidra.connection"
"""Where a connection that takes frames puts itself in the scope's `state`."""

_FIN_TEXT: Final = b"\x81"
_LENGTH_IN_7_BITS: Final = 125
_LENGTH_IN_16_BITS: Final = 0xFFFF


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
