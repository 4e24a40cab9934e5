"""Processes that are forked from one that has imported `eliza-sessions`: a start costs a fifth.

They are what `python -m server.cli` is, but for how Python starts. Tests of that ask for a fresh process.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

PROGRAM = Path(__file__).with_name("fork_server.py")
BEFORE_PYTHON = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "TZ")
"""The beginnings of variables that are read when Python starts, so that a fork knows nothing of them."""


class Forked:
    """A forked process, with what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, told: int, stdout: BinaryIO | None) -> None:
        """`told` is the descriptor on which the exit status comes; this object closes it."""
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._told = told
        os.set_blocking(told, False)
        weakref.finalize(self, os.close, told)
        if stdout:
            weakref.finalize(self, stdout.close)

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit status. Raises subprocess.TimeoutExpired."""
        last_s = None if timeout is None else time.monotonic() + timeout
        while (status := self._look(None if last_s is None else max(0.0, last_s - time.monotonic()))) is None:
            if last_s is not None and time.monotonic() >= last_s:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal; none, where the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            try:
                said = os.read(self._told, 4)
            except BlockingIOError:
                # Another thread has read it, and is about to note it.
                return self.returncode
            # The process that forks has ended before, and killed its forks.
            self.returncode = struct.unpack("i", said)[0] if said else -signal.SIGKILL
        return self.returncode


class ForkServer:
    """Starts processes by forks of one, which starts with the first of them. A context manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._control and self._process:
            self._control.close()
            self._process.wait(timeout=30)

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Whether a fork would take all these variables for what they are."""
        return _read_at_start(environment) == _read_at_start(self._environment)

    def start(
        self,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        stderr: BinaryIO,
        stdout: BinaryIO | None = None,
        stdin: BinaryIO | None = None,
    ) -> Forked:
        """Runs `eliza-sessions …` in a directory. Without `stdout`, that of the process is a pipe; without
        `stdin` there is nothing to read.
        """
        control = self._connect()
        request = {
            "arguments": [*map(str, arguments)],
            "directory": str(directory),
            "environment": dict(environment),
        }
        told, teller = os.pipe()
        reader, writer = (None, stdout.fileno()) if stdout else os.pipe()
        with open(os.devnull, "rb") as nothing:
            streams = [(stdin or nothing).fileno(), writer, stderr.fileno()]
            socket.send_fds(control, [json.dumps(request).encode()], [*streams, teller])
        os.close(teller)
        if reader is not None:
            os.close(writer)
        said = os.read(told, 4)
        if not said:
            os.close(told)
            raise RuntimeError("the process that forks has ended")
        return Forked(
            struct.unpack("i", said)[0],
            told,
            None if reader is None else open(reader, "rb"),
        )

    def _connect(self) -> socket.socket:
        with self._lock:
            if self._control is None:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", str(PROGRAM)], stdin=theirs, env=self._environment
                    )
            return self._control


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(BEFORE_PYTHON)}
