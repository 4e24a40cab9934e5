"""What the processes of a service take: memory and descriptors, now and at most."""

import threading
import time
from typing import Final, Self

import psutil

from tests.support.service import Serve

_SAMPLE_SECONDS: Final = 0.1
_MIB: Final = 2**20


class ProcessUsage:
    """A context manager: watches a service while its block runs."""

    def __init__(self, service: Serve) -> None:
        parent = psutil.Process(service.process.pid)
        self._processes = [parent, *parent.children(recursive=True)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self.rss_mib, self.descriptors = self._rss_mib(), self._descriptors()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def again(self) -> None:
        """What has come so far is the warm-up: growth is counted from here."""
        self.rss_mib = self._rss_mib()

    def growth_mib(self, allowed: float, patience_seconds: float) -> float:
        """How much memory they have taken in addition, once it is at most so much, or when the patience is at
        its end.
        """
        deadline = time.monotonic() + patience_seconds
        while (growth := self._rss_mib() - self.rss_mib) > allowed and time.monotonic() < deadline:
            time.sleep(_SAMPLE_SECONDS)
        return growth

    def left_descriptors(self, allowed: int, patience_seconds: float) -> int:
        """How many descriptors are open in addition, once there are at most so many, or when the patience is
        at its end.
        """
        deadline = time.monotonic() + patience_seconds
        while (left := self._descriptors() - self.descriptors) > allowed and time.monotonic() < deadline:
            time.sleep(_SAMPLE_SECONDS)
        return left

    def line(self) -> str:
        """Its figures."""
        rss_mib = self._rss_mib()
        return (
            f"memory {self.rss_mib:.0f} MiB, then {rss_mib:.0f} ({rss_mib - self.rss_mib:+.0f}), at most "
            f"{self.peak_mib:.0f}; "
            f"descriptors {self.descriptors}, then {self._descriptors()}"
        )

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            self.peak_mib = max(self.peak_mib, self._rss_mib())

    def _rss_mib(self) -> float:
        return sum(process.memory_info().rss for process in self._processes) / _MIB

    def _descriptors(self) -> int:
        return sum(process.num_fds() for process in self._processes)
