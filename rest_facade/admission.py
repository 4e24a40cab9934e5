"""How many requests may wait for their answers at a time: what comes beyond is refused at once, before it costs anything."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from rest_facade import sse
from rest_facade.bridge import RELEASE, Bridge, Message, Receive, Send
from rest_facade.errors import RETRY_AFTER_SECONDS, ApiError
from rest_facade.routes import BASE
from rest_facade.sockets import PATH

ACTIVE_REQUESTS: Final = 128
"""How many of the requests that wait are worked on at a time: enough for the full rate, and few enough that health has its turn soon."""

QUEUE_SECONDS: Final = 0.2
"""How long the first of those that wait for that may have waited before more are refused. A bound on their number alone would have all
those on a slower machine wait past their deadlines.
"""

TURN_SECONDS: Final = 2.0
"""How long a request waits for that at most: where those before it hang, it is refused."""

_HEALTH: Final = f"{BASE}/health"


class Refusal:
    """A response without Flask, ready to be sent."""

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = [
            (name.lower().encode(), value.encode())
            for name, value in {
                "Content-Length": str(len(self.body)),
                # As Flask would have it: a page must see that, and when, it may try again.
                "Access-Control-Allow-Origin": "*",
                "Access-Control-Expose-Headers": "Retry-After",
                **headers,
            }.items()
        ]


def refusal_of(error: ApiError) -> Refusal:
    """The response that tells an error."""
    return Refusal(error.http_status, orjson.dumps(error.body), {"Content-Type": "application/json", **error.headers})


def come_back() -> Refusal:
    """The response to a follower of events in place of a 503."""
    return Refusal(200, sse.come_back(), {"Content-Type": sse.CONTENT_TYPE, **sse.HEADERS})


def is_followed(method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request with such headers, their names in lower case, is a follower's; see `sse.is_followed`."""
    accept = b",".join(value for name, value in headers if name == b"accept")
    return sse.is_followed(method, path, accept.decode("latin-1"))


OVERLOADED: Final = refusal_of(ApiError("OVERLOADED", "The service has more to do than it can", retryAfterSeconds=RETRY_AFTER_SECONDS))
STOPPING: Final = refusal_of(ApiError("UNAVAILABLE", "The service is stopping", retryAfterSeconds=RETRY_AFTER_SECONDS))


class Places:
    """The places in which requests wait, first for their turn and then for their answers. Health and Socket.IO, which has bounds of its
    own, need none.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._turns = asyncio.Semaphore(ACTIVE_REQUESTS)
        # Since when those wait that have no turn yet, in order.
        self._waiting: dict[object, float] = {}
        self.taken = 0

    @property
    def are_full(self) -> bool:
        """Whether one more request has to be refused."""
        first_s = next(iter(self._waiting.values()), None)
        return self.taken >= self._count or (first_s is not None and time.monotonic() - first_s > QUEUE_SECONDS)

    def needed(self, path: str) -> bool:
        """Whether a request for a path needs one."""
        return path.rstrip("/") != _HEALTH and not f"{path}/".startswith(f"{PATH}/")

    async def turn(self) -> None:
        """Waits until one more request may be worked on. Raises TimeoutError after TURN_SECONDS."""
        mine = object()
        self._waiting[mine] = time.monotonic()
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        finally:
            del self._waiting[mine]

    def end_turn(self) -> None:
        """One fewer is worked on."""
        self._turns.release()


class Admission:
    """An ASGI app before the bridge. A request waits from when it is there as a whole, so that slow clients take nobody's place, until
    its response has begun, or until it only waits for an agent: an event stream, say, waits no longer.

    Most refusals are made by the protocol, before there is a request at all; here are those that could not be seen so early.
    """

    def __init__(self, bridge: Bridge, places: Places) -> None:
        self._bridge = bridge
        self._places = places

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one scope, or refuses it with 503 and Retry-After."""
        if scope["type"] != "http" or not self._places.needed(scope["path"]):
            await self._bridge(scope, receive, send)
            return
        counted = begun = active = False

        def release() -> None:
            nonlocal counted, active
            self._places.taken -= counted
            if active:
                self._places.end_turn()
            counted = active = False

        async def received() -> Message:
            nonlocal counted, active
            message = await receive()
            if message["type"] == "http.request" and not message["more_body"] and not begun:
                if self._places.are_full:
                    raise _FullError
                self._places.taken += 1
                counted = True
                try:
                    await self._places.turn()
                except TimeoutError:
                    raise _FullError from None
                active = True
            return message

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            release()
            await send(message)

        scope["state"][RELEASE] = release
        try:
            await self._bridge(scope, received, sent)
        except _FullError:
            is_stream = is_followed(scope["method"], scope["path"], scope["headers"])
            refusal = come_back() if is_stream else OVERLOADED
            headers = [*refusal.headers, *([(b"connection", b"close")] if is_stream else [])]
            await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await send({"type": "http.response.body", "body": refusal.body})
        finally:
            release()


class _FullError(Exception):
    """There are too many already."""
