"""A worker of the Python client that runs beside a test."""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from eliza_sessions_client import Worker


@contextmanager
def working(function: Any, service: str, **options: Any) -> Iterator[Callable[[], None]]:
    """A worker in a thread, as long as the block lasts; yields what tells it to stop."""
    made = queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, Worker]]()
    ended: list[Exception] = []

    async def serve() -> None:
        worker = Worker(function, service, **options)
        made.put((asyncio.get_running_loop(), worker))
        await worker.serve()

    def work() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:  # noqa: BLE001 - a test looks at it
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    loop, worker = made.get(timeout=30)

    def stop() -> None:
        loop.call_soon_threadsafe(worker.stop)
        thread.join(60)
        assert not thread.is_alive()
        assert ended == []

    try:
        yield stop
    finally:
        if thread.is_alive():
            stop()
