"""A worker of the Python client that runs beside a test."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from eliza_sessions_client import Worker


class Running:
    """A worker in a thread with an event loop of its own."""

    def __init__(self, agent: Any, address: str, options: dict[str, Any]) -> None:
        made = queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Worker]]()
        self._errors: list[Exception] = []

        async def serve() -> None:
            worker = Worker(agent, address, **options)
            made.put((asyncio.get_running_loop(), worker))
            await worker.serve()

        def work() -> None:
            try:
                asyncio.run(serve())
            except Exception as error:  # noqa: BLE001 - `wait` tells it
                self._errors.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        self._loop, self._worker = made.get(timeout=30)

    def tell_to_stop(self) -> None:
        """Returns when the worker takes nothing new any more."""
        told = threading.Event()
        self._loop.call_soon_threadsafe(self._worker.stop)
        self._loop.call_soon_threadsafe(told.set)
        assert told.wait(30)

    def has_ended(self, within: float) -> bool:
        """Whether the worker ends so soon."""
        self._thread.join(within)
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Returns when the worker has ended well."""
        assert self.has_ended(60)
        assert self._errors == []

    def stop(self) -> None:
        """Ends the worker, unless it has ended."""
        if self._thread.is_alive():
            # Its loop may end in this very moment.
            with suppress(RuntimeError):
                self.tell_to_stop()
        self.wait()


@contextmanager
def working(agent: Any, address: str, **options: Any) -> Iterator[Running]:
    """A worker, as long as the block lasts."""
    running = Running(agent, address, options)
    try:
        yield running
    finally:
        running.stop()
