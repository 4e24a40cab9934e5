"""The REST facade as a child process of `serve`: started, started anew when it dies, and ended."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import structlog

from server.cli.common import StartError
from server.settings import Settings

READY_SECONDS: Final = 60.0
"""How long a child may take until it answers; a hundred times what it needs on an idle machine."""

RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 30.0
"""How long a start rests after the facade died, and at most after starts that failed."""

HUNG_SECONDS: Final = 1.0
"""How long after its grace a child that was told to end is waited for."""

INHERITED: Final = (
    *("PATH", "HOME", "TMPDIR", "TZ", "TERM", "NO_COLOR", "FORCE_COLOR", "VIRTUAL_ENV"),
    *("LANG", "LANGUAGE", "LC_*", "PYTHON[A-Z]*", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "MALLOC_*"),
    *("GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_POLL_STRATEGY", "GRPC_DNS_RESOLVER"),
)
"""The variables of the environment that a child needs, as patterns: those of Python, its locale, its libraries and gRPC's logs.

It meets strangers first, so it has no secret of ours: no key of an agent, no address of a store. Its settings it is given.
"""

WITHHELD: Final = {"database_url"}
"""The settings that a child is not given: what only the server needs, and may hold a password."""

POLL_SECONDS: Final = 0.02
"""How often a child that is about to end is looked at."""

log = structlog.get_logger()


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child gets of an environment."""
    return {name: value for name, value in environment.items() if any(fnmatchcase(name, pattern) for pattern in INHERITED)}


class _Child(NamedTuple):
    """A process, and the connection over which it gets its settings, says that it is ready, and learns that we are gone."""

    process: subprocess.Popen[bytes]
    answers: asyncio.StreamReader
    control: asyncio.StreamWriter

    async def wait(self) -> int:
        """Waits until the process has ended, which closes its side of the connection; returns its exit status."""
        with contextlib.suppress(ConnectionError):
            while await self.answers.read(4096):
                pass
        # Not in a thread: where there are too many to start one, the facade must still be started anew.
        while (status := self.process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
        return status


class Supervisor:
    """Keeps one child process serving REST on a socket. When we die, however, its connection to us closes, and it ends too."""

    def __init__(
        self, settings: Settings, server: str, listener: socket.socket, report: Callable[[bool], None], *, grace_seconds: float
    ) -> None:
        """`report` is told whether REST is served, whenever that changes; the child may take `grace_seconds` to end."""
        given = settings.model_copy(update={"shutdown_grace_seconds": grace_seconds})
        self._given = f"{server} {given.model_dump_json(exclude=WITHHELD)}\n".encode()
        self._grace_seconds = grace_seconds
        self._listener = listener
        self._report = report

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The facade answers within the block, and is gone after it. Raises StartError where it cannot be started."""
        keeping = asyncio.create_task(self._keep(await self._start()))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    async def _keep(self, child: _Child) -> None:
        """Starts the facade anew whenever it has died, until cancelled; then ends it."""
        while True:
            try:
                status = await child.wait()
            finally:
                await self._end(child)
            self._report(False)
            log.error("the REST facade died and will be started anew", exit_status=status)
            child = await self._restart()
            self._report(True)
            log.info("the REST facade answers again")

    async def _restart(self) -> _Child:
        """Tries until it succeeds, ever more rarely. Logs a reason once, however often it stands in the way."""
        rest_seconds, logged = RETRY_SECONDS, ""
        while True:
            await asyncio.sleep(rest_seconds)
            try:
                return await self._start()
            except StartError as error:
                if str(error) != logged:
                    logged = str(error)
                    log.error(logged)  # noqa: TRY400 # the text says it all
            rest_seconds = min(2 * rest_seconds, MAX_RETRY_SECONDS)

    async def _start(self) -> _Child:
        """A child that has said itself that it is ready. Raises StartError."""
        try:
            child = await self._spawn()
        except OSError as error:
            raise StartError(f"the REST facade cannot be started: {sys.executable}: {error.strerror or error}") from error
        try:
            async with asyncio.timeout(READY_SECONDS):
                child.control.write(self._given)
                answer = ""
                # A child that ends before it has read that resets the connection.
                with contextlib.suppress(ConnectionError):
                    answer = (await child.answers.readline()).decode().strip()
                if answer != "ready":
                    why = answer or f"its process ended with status {await child.wait()}"
                    raise StartError(f"the REST facade cannot be started: {why}")
        except TimeoutError as error:
            await self._end(child)
            raise StartError(f"the REST facade cannot be started: not ready within {READY_SECONDS:g} seconds") from error
        except BaseException:
            await self._end(child)
            raise
        return child

    async def _spawn(self) -> _Child:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                descriptors = [theirs.fileno(), self._listener.fileno()]
                # -P: what lies in the working directory is none of ours, whatever it is called.
                command = [sys.executable, "-P", "-m", "server.cli.worker", *map(str, descriptors)]
                nothing = subprocess.DEVNULL
                # Not asyncio's: with uvloop that leaks a descriptor at each start that fails for want of descriptors.
                process = subprocess.Popen(  # noqa: ASYNC220
                    command, stdin=nothing, stdout=nothing, pass_fds=descriptors, env=inherited(os.environ)
                )
            return _Child(process, *await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            # A process that runs already ends when this closes.
            ours.close()
            raise

    async def _end(self, child: _Child) -> None:
        """Ends a child in an orderly way, or kills it where it takes too long."""
        child.process.terminate()
        try:
            async with asyncio.timeout(self._grace_seconds + HUNG_SECONDS):
                await child.wait()
        except TimeoutError:
            log.warning("the REST facade did not end in time, and was killed")
            child.process.kill()
            await child.wait()
        child.control.close()
