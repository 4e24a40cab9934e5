"""The processes of the REST facade, as children of the process that supervises them."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Final

import structlog

from server.settings import Settings

RESTART_SECONDS: Final = 1.0

HUNG_SECONDS: Final = 1.0
"""How long after its grace a worker that was told to end is waited for."""

log = structlog.get_logger()


class Workers:
    """Runs some facades on one listening socket, starts those anew that die, and ends them all.

    A worker reads from a pipe that only we hold open: when we die, however, the pipe closes and the worker ends too.
    """

    def __init__(self, settings: Settings, server: str, listener: socket.socket, *, grace_seconds: float) -> None:
        """`grace_seconds`: how long each may take to end."""
        self._settings = settings
        self._grace_seconds = grace_seconds
        self._server = server
        self._listener = listener
        self._ready = asyncio.Semaphore(0)
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All workers, ready to answer within the block, and gone after it."""
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(self._settings.rest_workers)]
        try:
            for _ in self._tasks:
                await self._ready.acquire()
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self) -> None:
        """Keeps one worker alive until cancelled, then ends it in an orderly way."""
        while True:
            process = await self._start()
            try:
                assert process.stdout is not None
                if await process.stdout.readline():
                    self._ready.release()
                await process.wait()
                log.error("a REST worker died", exit_status=process.returncode)
                await asyncio.sleep(RESTART_SECONDS)
            finally:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
                    try:
                        async with asyncio.timeout(self._grace_seconds + HUNG_SECONDS):
                            await process.wait()
                    except TimeoutError:
                        log.warning("a REST worker did not end in time, and was killed")
                        process.kill()
                        await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        descriptor = self._listener.fileno()
        command = (sys.executable, "-m", "server.cli", "rest", "--server", self._server, "--worker-of", str(descriptor))
        environment = {
            **os.environ,
            "REST_DEADLINE_SECONDS": str(self._settings.rest_deadline_seconds),
            "REPLY_DEADLINE_SECONDS": str(self._settings.reply_deadline_seconds),
            "REST_MAX_REQUESTS": str(self._settings.rest_max_requests),
            "SHUTDOWN_GRACE_SECONDS": str(self._grace_seconds),
        }
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=[descriptor], env=environment
        )
