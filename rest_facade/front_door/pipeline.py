"""The requests on one connection that have no answer yet: the first is worked on, those behind it wait."""

import asyncio
from collections import deque
from typing import Any

import structlog

from rest_facade.front_door.canned import refusal_of
from rest_facade.front_door.exchange import Door, Exchange
from rest_facade.shapes.errors import ApiError

_log = structlog.get_logger(__name__)


class Pipeline:
    """The requests of one connection, in order. To be mixed into a protocol."""

    transport: asyncio.Transport

    environ: dict[str, Any]
    """What the environs of all its requests have."""

    is_write_paused = False
    """Whether more waits to be sent than should."""

    _door: Door
    _loop: asyncio.AbstractEventLoop
    _exchanges: deque[Exchange]
    _drained: asyncio.Future[None] | None = None
    _is_going_on = False

    _is_last = False
    """Whether the next request is refused, and then the connection closed."""

    _lingers_s: float | None = None
    """Since when a body is read past of which no end is awaited; then the connection is closed."""

    def forget(self, exchange: Exchange) -> None:
        """A request has been read and answered."""
        raise NotImplementedError

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for the answer to another one."""
        return max(0, len(self._exchanges) - 1)

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the connection is closed."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def drained(self) -> asyncio.Future[None]:
        """What is done when the client has read most of what was sent, or has gone."""
        self._drained = self._loop.create_future()
        return self._drained

    def close(self) -> None:
        """Ends the connection when what was written has been sent."""
        self.transport.close()

    def go_on(self) -> None:
        """Goes on with the first of the requests that have no answer yet, and with those behind it, as far as that goes."""
        if self._is_going_on:
            return
        self._is_going_on = True
        while self._exchanges and not self.transport.is_closing() and self._lingers_s is None:
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
            self.forget(first)
        self._is_going_on = False

    def _begin(self, exchange: Exchange) -> None:
        """The head of a request is judged, before anything of its body is waited for."""
        if self._is_last or (not exchange.is_read and not exchange.is_exempt and self._door.admission.is_full):
            exchange.closes = exchange.closes or self._is_last
            exchange.refuse()
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
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hand_over(self, exchange: Exchange) -> None:
        if exchange.is_too_large and not exchange.is_asgi:
            limit = self._door.max_body_bytes
            error = ApiError("REQUEST_TOO_LARGE", f"The body is larger than {limit} bytes", maxBytes=limit)
            _log.info("failed request", method=exchange.method, code=error.row.reason, error=error.message)
            exchange.closes = True
            exchange.answer(refusal_of(error))
        else:
            exchange.hand_over()

    def _close_behind(self, exchange: Exchange) -> None:
        """Closes the connection behind an answer; what comes of the request yet is read past, so that the client sees the answer."""
        if exchange.is_read or exchange.expects_leave:
            self.transport.close()
        else:
            self._lingers_s = self._loop.time()

    def _abandon(self) -> None:
        """Has those who would answer the requests so far know that nobody listens."""
        for exchange in self._exchanges:
            exchange.abandon()
        self._exchanges.clear()
