"""Parses the bytes of a connection in slices, so that others are served in between."""

import asyncio
import time
from collections import deque
from typing import Final

SLICE_BYTES: Final = 4096
"""How many bytes are parsed at a time.

A single read brings 256 KiB: 10,000 requests, or 40,000 chunks or frames.
"""

PARSE_SECONDS: Final = 0.001
"""How long the bytes of one connection are parsed before others are served.

One slice is parsed even where that takes longer.
"""


class Turns:
    """The connections whose bytes wait, in order.

    In each turn of the loop one goes on, however many there are.
    """

    def __init__(self) -> None:
        self._waiting: deque[SlicedInput] = deque()

    def add(self, connection: "SlicedInput") -> None:
        """Queues a connection for its turn."""
        self._waiting.append(connection)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._take_next)

    def _take_next(self) -> None:
        try:
            self._waiting[0].take_turn()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._take_next)


class SlicedInput:
    """The received bytes of a connection. A protocol mixes this in and calls `take_in`.

    It reads no more while some wait, so that it holds one read at most.
    """

    transport: asyncio.Transport

    turns: Turns
    """The turns of all connections."""

    is_reading_paused = False
    """Whether reading has stopped until the received bytes are parsed."""

    _received = b""
    _parsed_bytes = 0
    """How much of it has been parsed."""

    _is_parsing = _is_turn_due = False

    def parse(self, data: bytes) -> None:
        raise NotImplementedError

    def may_parse(self) -> bool:
        """Whether another slice may be parsed now. `parse_soon` has to be called when that changes."""
        raise NotImplementedError

    def note_held(self) -> None:
        """Called when the number of held bytes may have changed."""
        raise NotImplementedError

    @property
    def unparsed_bytes(self) -> int:
        """How many bytes wait."""
        return len(self._received) - self._parsed_bytes

    def take_in(self, data: bytes) -> None:
        """Parses received bytes, or queues them behind those that wait."""
        is_waiting = self.unparsed_bytes > 0
        self._received = self._received[self._parsed_bytes :] + data if is_waiting else data
        self._parsed_bytes = 0
        if is_waiting:
            self.note_held()
        else:
            self._parse_on()

    def take_over(self, before: "SlicedInput", data: bytes) -> None:
        """Goes on in place of another on its connection, with `data` and the bytes that wait there."""
        data += before._received[before._parsed_bytes :]
        before.drop_input()
        self.is_reading_paused, before.is_reading_paused = before.is_reading_paused, False
        if not self.transport.is_closing():
            self.take_in(data)

    def parse_soon(self) -> None:
        """Goes on, if parsing or reading has stopped and may go on. Parsing waits for a turn of the loop."""
        if not self.is_reading_paused or self.transport.is_closing() or not self.may_parse():
            return
        if not self.unparsed_bytes:
            self.is_reading_paused = False
            self.transport.resume_reading()
        elif not self._is_turn_due:
            self._is_turn_due = True
            self.turns.add(self)

    def take_turn(self) -> None:
        """Goes on. Called when the turn that was asked for has come."""
        self._is_turn_due = False
        if not self.transport.is_closing():
            self._parse_on()

    def drop_input(self) -> None:
        """Drops the bytes that wait."""
        self._received, self._parsed_bytes = b"", 0

    def _parse_on(self) -> None:
        if self._is_parsing:
            return
        self._is_parsing = True
        stop_by_s = time.monotonic() + PARSE_SECONDS
        try:
            while self.unparsed_bytes and self.may_parse():
                begin = self._parsed_bytes
                self._parsed_bytes = min(begin + SLICE_BYTES, len(self._received))
                self.parse(self._received[begin : self._parsed_bytes])
                if self.transport.is_closing():
                    self.drop_input()
                elif time.monotonic() >= stop_by_s:
                    break
        finally:
            self._is_parsing = False
        if not self.unparsed_bytes:
            self.drop_input()
        if (
            (self.unparsed_bytes or not self.may_parse())
            and not self.is_reading_paused
            and not self.transport.is_closing()
        ):
            self.is_reading_paused = True
            self.transport.pause_reading()
        self.parse_soon()
        self.note_held()
