"""Turns the refusals of the Engine.IO library into errors of this API, logged in one line."""

import orjson
import structlog

from eliza.sessions.errors import truncate
from rest_facade.front_door.origins import ALWAYS
from rest_facade.shapes.asgi import Message, Send
from rest_facade.shapes.errors import ApiError

_log = structlog.get_logger(__name__)


def unreadable(reason: str) -> ApiError:
    """Makes the error for a request that is not Socket.IO."""
    return ApiError("INVALID_REQUEST", f"Invalid request: {reason}", reason=reason)


async def refuse(send: Send, error: ApiError, kind: str = "http") -> None:
    """Answers an HTTP request, or the handshake of a WebSocket (`kind` websocket), with an error."""
    await _answer(send, error, "websocket.http.response" if kind == "websocket" else "http.response")


def translate_refusals(send: Send) -> Send:
    """Wraps `send`, so that the library's refusals of requests and handshakes become errors of this API."""
    is_open = is_refused = False

    async def tell(message: Message) -> None:
        nonlocal is_open, is_refused
        kind = message["type"]
        if kind == "http.response.start" and message["status"] >= 400:
            is_refused = True
        elif kind == "http.response.body" and is_refused:
            await _refuse(send, message.get("body", b""), "http.response")
        elif kind == "websocket.close" and not is_open:
            # Open or not, nothing comes behind it.
            is_open = True
            await _refuse(send, message.get("reason", "").encode(), "websocket.http.response")
        else:
            is_open = is_open or kind == "websocket.accept"
            await send(message)

    return tell


async def _refuse(send: Send, body: bytes, kind: str) -> None:
    try:
        reason = truncate(orjson.loads(body))
    except ValueError:
        reason = "the connection cannot be had"
    _log.info("refused a request of Socket.IO", reason=reason)
    await _answer(send, unreadable(reason), kind)


async def _answer(send: Send, error: ApiError, kind: str) -> None:
    body = orjson.dumps(error.body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    if kind != "http.response":
        # The server adds them to the answers of HTTP requests.
        headers += ALWAYS
    await send({"type": f"{kind}.start", "status": error.http_status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
