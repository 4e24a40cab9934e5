"""The unanswered requests of one connection. Each begins once all before it are answered."""

import asyncio
from collections import deque
from typing import Final

import structlog

from rest_facade.front_door.canned import CannedResponse, refusal_of
from rest_facade.front_door.door import Door
from rest_facade.front_door.exchange import Exchange
from rest_facade.front_door.writable_connection import WritableConnection
from rest_facade.shapes.errors import ApiError

MAX_DISCARDED_BYTES: Final = 16 * 1024 * 1024
"""How much of the body of an answered request is skipped to keep the connection."""

LINGER_SECONDS: Final = 5.0
"""How long a body is skipped before the connection closes.

Closed on unread bytes it is reset, and the client may never see the answer.
"""

_log = structlog.get_logger(__name__)


class Pipeline:
    """The requests of a connection, in order.

    The first is the one that is read, waits or runs; those behind it wait for its end.
    """

    is_last = False
    """Whether the next request is refused, and then the connection closed."""

    _is_going_on = False

    body_bytes = 0
    """How many bytes of bodies are kept here until they have their answers."""

    _discarded_bytes = 0
    """How many bytes of the present body were read past."""

    _lingers_s: float | None = None
    """Since when a body is read past of which no end is awaited; then the connection is closed."""

    def __init__(self, door: Door, connection: WritableConnection) -> None:
        self._door = door
        self._connection = connection
        self._exchanges: deque[Exchange] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._exchanges

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for the answer to another one."""
        return max(0, len(self._exchanges) - 1)

    def add(self, exchange: Exchange) -> None:
        """Adds a request whose head is complete."""
        self._discarded_bytes = 0
        self._exchanges.append(exchange)
        self.go_on()

    def add_body(self, exchange: Exchange, part: bytes) -> None:
        """A part of a request's body has been read. It is kept if it is wanted."""
        if exchange.is_handed_over or exchange.is_too_large:
            self._discarded_bytes += len(part)
            if self._discarded_bytes > MAX_DISCARDED_BYTES and self._lingers_s is None:
                self._connection.close()
            return
        exchange.add_body(part)
        self.body_bytes += len(part)
        if len(exchange.body) > self._door.max_body_bytes:
            exchange.is_too_large = True
            self._drop_body(exchange)
            self.go_on()

    def complete(self, exchange: Exchange) -> None:
        """Notes that a request is complete."""
        exchange.is_read = True
        if self._lingers_s is None:
            self.go_on()
        else:
            self._connection.close()

    def go_on(self) -> None:
        """Goes on with the first request, and with those behind it, as far as that goes."""
        if self._is_going_on:
            return
        self._is_going_on = True
        while self._exchanges and not self._connection.is_closing() and self._lingers_s is None:
            first = self._exchanges[0]
            if not first.is_begun:
                first.is_begun = True
                self._begin(first)
            if not first.is_handed_over and (first.is_read or first.is_too_large):
                self._hand_over(first)
            if not first.is_answered:
                break
            if first.closes or self._door.is_stopping:
                self._close_behind(first)
                break
            if not first.is_read:
                break
            self._exchanges.popleft()
            self._drop_body(first)
            self._connection.note_answer()
        self._is_going_on = False

    def end_with(self, response: CannedResponse, reading: Exchange | None = None) -> None:
        """Answers the first request that has no answer, unless that has begun, and closes the connection.

        `reading` is a request whose head is being read. Later requests get no answer.
        """
        if self._exchanges:
            first = self._exchanges[0]
        else:
            first = reading if reading and not reading.is_started else Exchange(self._door, self._connection)
        self.abandon()
        if not first.is_started:
            first.closes = self._is_going_on = True
            first.answer(response)
        self._connection.close()

    def abandon(self) -> None:
        """Cancels all requests, because nobody listens any more."""
        for exchange in self._exchanges:
            exchange.abandon()
        self._exchanges.clear()

    def leave_connection(self) -> None:
        """Abandons all requests of a connection that is gone, and drops the connection.

        Each holds the other: otherwise only the garbage collector would free them.
        """
        self.abandon()
        del self._connection

    def lingers_too_long(self, now_s: float) -> bool:
        """Whether a body is skipped for too long."""
        return self._lingers_s is not None and now_s - self._lingers_s > LINGER_SECONDS

    def _begin(self, exchange: Exchange) -> None:
        """The head of a request is judged, before anything of its body is waited for."""
        if self.is_last:
            exchange.closes = True
            exchange.refuse()
            return
        if not exchange.is_read and self._door.admission.is_full and not exchange.is_exempt:
            # Its body is not kept.
            exchange.is_handed_over = True
            self._door.admission.refuse(exchange)
            return
        try:
            self._door.origins.check(exchange.headers)
        except ApiError as error:
            exchange.answer(refusal_of(error))
            return
        length = next((int(value) for name, value in exchange.headers if name == b"content-length"), 0)
        if length > self._door.max_body_bytes:
            exchange.is_too_large = True
        elif exchange.expects_leave and not exchange.is_read:
            exchange.expects_leave = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hand_over(self, exchange: Exchange) -> None:
        if not exchange.is_too_large or exchange.is_asgi:
            exchange.hand_over()
            return
        limit = self._door.max_body_bytes
        error = ApiError("REQUEST_TOO_LARGE", f"The body is larger than {limit} bytes", maxBytes=limit)
        _log.info("failed request", method=exchange.method, code=error.row.reason, error=error.message)
        exchange.closes = True
        exchange.answer(refusal_of(error))

    def _drop_body(self, exchange: Exchange) -> None:
        self.body_bytes -= len(exchange.body)
        exchange.body = b""

    def _close_behind(self, exchange: Exchange) -> None:
        """Closes the connection behind an answer, and skips the rest of the body so that the client sees the
        answer.
        """
        if exchange.is_read or exchange.expects_leave:
            self._connection.close()
        else:
            self._lingers_s = asyncio.get_running_loop().time()
