"""How many requests may wait for their answers at a time: what comes beyond is refused at once, before it costs anything."""

from typing import Final

import orjson

from rest_facade.bridge import Bridge, Message, Receive, Send
from rest_facade.errors import ApiError
from rest_facade.routes import BASE

_HEALTH: Final = f"{BASE}/health"


class Admission:
    """An ASGI app before the bridge. A request waits from when it is there as a whole, so that slow clients take nobody's place, until
    its response has begun: an event stream, say, waits no longer. Health is never refused.
    """

    def __init__(self, bridge: Bridge, max_requests: int) -> None:
        self._bridge = bridge
        self._max_requests = max_requests
        self._waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one scope, or refuses it with 503 and Retry-After."""
        if scope["type"] != "http" or scope["path"].rstrip("/") == _HEALTH:
            await self._bridge(scope, receive, send)
            return
        if self._waiting >= self._max_requests:
            await _refuse(send)
            return
        counted = begun = False

        def release() -> None:
            nonlocal counted
            self._waiting -= counted
            counted = False

        async def received() -> Message:
            nonlocal counted
            message = await receive()
            if message["type"] == "http.request" and not message["more_body"] and not begun:
                if self._waiting >= self._max_requests:
                    raise _FullError
                self._waiting += 1
                counted = True
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            release()
            await send(message)

        try:
            await self._bridge(scope, received, sent)
        except _FullError:
            await _refuse(send)
        finally:
            release()


class _FullError(Exception):
    """There are too many already."""


async def _refuse(send: Send) -> None:
    error = ApiError("OVERLOADED", "The service has more to do than it can", retryAfterSeconds=1)
    # The connection is closed, because the request's body has not been read.
    body = orjson.dumps(error.body)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        # As Flask would have it: a page must see that, and when, it may try again.
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "Retry-After",
        **error.headers,
    }
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.http_status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
