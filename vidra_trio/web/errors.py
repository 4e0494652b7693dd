"""Refusals and defects into responses. The one place where an error becomes a status.

Every 4xx and 5xx is `{"error": code, "detail"?}`. What went wrong inside is for
the log: a 500 says nothing but that it is one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from werkzeug.exceptions import HTTPException

from vidra_trio.core.errors import CommandRefused, DeleteRefused, VidraError
from vidra_trio.web.answers import answer
from vidra_trio.wire import payloads
from vidra_trio.wire.words import status_word

if TYPE_CHECKING:
    from quart import Response
    from quart_trio import QuartTrio

    from vidra_trio.core.errors import Detail

_CODES: Final = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "payload_too_large",
    415: "unsupported_media_type",
}
_BODY_UNREAD: Final = frozenset({408, 413})
"""The rest of the body may still be on its way: the connection is of no further use."""

_logger = logging.getLogger(__name__)


def register(app: QuartTrio) -> None:
    """Make every error of `app` a JSON answer."""
    app.register_error_handler(VidraError, _refused)
    app.register_error_handler(HTTPException, _framework)
    app.register_error_handler(Exception, _defect)


async def _refused(error: VidraError) -> Response:
    if error.status_hint == 500:
        return await _defect(error)
    return answer(payloads.error(error.code, _detail(error)), error.status_hint)


async def _framework(error: HTTPException) -> Response:
    status = error.code or 500
    code = _CODES.get(status, "internal_error" if status >= 500 else "bad_request")
    headers = {"Connection": "close"} if status in _BODY_UNREAD else None
    return answer(payloads.error(code), status, headers)


async def _defect(error: Exception) -> Response:
    _logger.error("a request failed", exc_info=error)
    return answer(payloads.error("internal_error"), 500)


def _detail(error: VidraError) -> Detail | None:
    if isinstance(error, DeleteRefused):
        return None
    return status_word(error.state) if isinstance(error, CommandRefused) else error.detail
