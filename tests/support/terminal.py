"""`eliza-sessions …` on a terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.service import start_command

SECONDS = 30
ROWS, COLUMNS = 24, 200


class Terminal:
    """A command whose standard input, output and error are a terminal. A context manager, which kills it."""

    def __init__(self, *arguments: str) -> None:
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with open(inner, "r+b", buffering=0) as streams:
            self._process = start_command(
                arguments, Path.cwd(), stdin=streams, stdout=streams, stderr=streams, TERM="dumb"
            )
        self._unread = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)

    def expect(self, text: str) -> str:
        """Waits until the text is on the screen; returns what came before it, since the last time."""
        last_s = time.monotonic() + SECONDS
        while text not in self._unread:
            ready, _, _ = select.select([self._screen], [], [], max(0, last_s - time.monotonic()))
            if not ready or not (more := self._read()):
                pytest.fail(f"no {text!r} in {self._unread!r}")
            self._unread += more
        before, _, self._unread = self._unread.partition(text)
        return before

    def type(self, text: str) -> None:
        """Types the text."""
        os.write(self._screen, text.encode())

    def interrupt(self) -> None:
        """Does what Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Waits for the end of the command; returns its exit status. What it still writes is read."""
        last_s = time.monotonic() + SECONDS
        while select.select([self._screen], [], [], max(0, last_s - time.monotonic()))[0]:
            if not (more := self._read()):
                break
            self._unread += more
        return self._process.wait(timeout=SECONDS)

    def _read(self) -> str:
        """What the command has written; nothing when it has ended."""
        try:
            return os.read(self._screen, 65536).decode(errors="replace").replace("\r", "")
        except OSError:
            return ""
