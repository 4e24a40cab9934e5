"""Messages over gRPC of which as much comes as the service takes, and never the end."""

import socket
import struct
import time
from typing import Final

from tests.campaigns.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST,
    SETTINGS,
    START,
    WINDOW,
    frame,
    headers,
    message,
)

WINDOW_BYTES: Final = 65_535
"""HTTP/2's, until somebody says otherwise."""
FRAME_BYTES: Final = 16_384
INITIAL_WINDOW: Final = 4
"""The number of the setting."""
_WAIT_SECONDS: Final = 0.05


class HalfSent:
    """Calls on one connection, each of whose messages is sent but for its last bytes, as fast as HTTP/2's
    windows are opened.
    """

    def __init__(self, connection: socket.socket, path: str, count: int, length: int) -> None:
        self._connection = connection
        self._length = length
        self._windows = dict.fromkeys(range(1, 2 * count, 2), WINDOW_BYTES)
        self._sent = dict.fromkeys(self._windows, 0)
        self._window = self._initial = WINDOW_BYTES
        self._came = b""
        self.ended = 0
        connection.settimeout(_WAIT_SECONDS)
        connection.sendall(
            START + b"".join(frame(HEADERS, END_HEADERS, stream, headers(path)) for stream in self._windows)
        )

    def run(self, seconds: float) -> None:
        """Sends for so long, or until the service closes the connection; counts the calls that it ends."""
        until_s = time.monotonic() + seconds
        try:
            while time.monotonic() < until_s:
                try:
                    if not (came := self._connection.recv(2**16)):
                        return
                    self._came += came
                except TimeoutError:
                    pass
                self._read()
                for stream in list(self._windows):
                    self._send(stream)
        except OSError:
            return

    def _send(self, stream: int) -> None:
        """Sends what may be sent of one message."""
        while (
            size := min(
                self._windows[stream], self._window, FRAME_BYTES, self._length - 100 - self._sent[stream]
            )
        ) > 5:
            content = b"\0" * size if self._sent[stream] else message(b"\0" * (size - 5), length=self._length)
            self._connection.settimeout(10)
            self._connection.sendall(frame(DATA, 0, stream, content))
            self._connection.settimeout(_WAIT_SECONDS)
            self._sent[stream] += size
            self._windows[stream] -= size
            self._window -= size

    def _read(self) -> None:
        """Reads the frames that have come."""
        while len(self._came) >= 9 and len(self._came) >= 9 + (
            length := int.from_bytes(self._came[:3], "big")
        ):
            kind, flags, stream = struct.unpack(">BBI", self._came[3:9])
            content, self._came = self._came[9 : 9 + length], self._came[9 + length :]
            if kind == WINDOW and not stream:
                self._window += int.from_bytes(content, "big")
            elif kind == WINDOW and stream in self._windows:
                self._windows[stream] += int.from_bytes(content, "big")
            elif kind == RST:
                self.ended += self._windows.pop(stream, None) is not None
            elif kind == PING and not flags & ACK:
                self._connection.sendall(frame(PING, ACK, 0, content))
            elif kind == SETTINGS and not flags & ACK:
                for number, value in struct.iter_unpack(">HI", content):
                    if number == INITIAL_WINDOW:
                        self._windows = {
                            each: window + value - self._initial for each, window in self._windows.items()
                        }
                        self._initial = value
                self._connection.sendall(frame(SETTINGS, ACK, 0, b""))
