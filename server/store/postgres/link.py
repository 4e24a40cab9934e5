"""A connection of a lane: opened when it is needed, opened anew when it is lost, and severed when it is
silent.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
import structlog

from server.domain.errors import ResourceExhaustedError, UnavailableError
from server.store.postgres.place import Link, Place

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""How long to wait between two tries to connect."""

_PASSING: Final = frozenset(
    # Serialization failure, deadlock; what waits for a lock too long; a standby; shutdowns; too many clients.
    ("40001", "40P01", "55P03", "25006", "57014", "57P01", "57P02", "57P03", "57P05", "25P03", "53300")
)
AGAIN: Final = frozenset(("40001", "40P01"))
"""What means: the same once more, at once."""

log = structlog.get_logger()


class KeptLink:
    """See the module. One coroutine uses it at a time, and is never cancelled while it does: the driver would
    cancel a COMMIT, which the server then reports as done.
    """

    def __init__(self, place: Place, purpose: str, *, listens: bool = False) -> None:
        self.place = place
        self._purpose = purpose
        self._listens = listens
        self._link: Link | None = None
        # Whether the server has said something of a commit that makes it less than certain.
        self.has_warned = False
        self.pause_s = FIRST_PAUSE_S

    async def open(self) -> Link:
        """The connection, made if there is none. Raises psycopg.Error."""
        if self._link is None or self._link.closed:
            await self.drop()
            self._link = await self.place.connect(self._purpose, listens=self._listens)
            self._link.add_notice_handler(self._note)
            self.pause_s = FIRST_PAUSE_S
        return self._link

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, or cannot be used any more."""
        return self._link is None or self._link.closed

    async def drop(self) -> None:
        """Lets go of the connection."""
        link, self._link = self._link, None
        if link:
            with suppress(psycopg.Error, OSError):
                await link.close()

    async def pause(self) -> None:
        """Waits before the next try to connect, a little longer each time."""
        await asyncio.sleep(self.pause_s)
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Severs the connection where the block takes longer than an answer may.

        Not by asyncio's timeout, which would cancel: psycopg then asks the silent server to cancel, and waits
        for that, too.
        """
        timer = asyncio.get_running_loop().call_later(self.place.answer_s, self.sever)
        try:
            yield
        finally:
            timer.cancel()

    def sever(self, *, is_expected: bool = False) -> None:
        """Ends the connection as the network would: who waits for an answer on it is told at once."""
        if self._link is None or self._link.closed:
            return
        if not is_expected:
            log.warning("the database does not answer: the connection is given up", purpose=self._purpose)
        with suppress(OSError), socket.socket(fileno=os.dup(self._link.fileno())) as severed:
            severed.shutdown(socket.SHUT_RDWR)

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING" or notice.sqlstate in ("01000", "57P01"):
            self.has_warned = True
            log.warning("the database warns", cause=notice.message_primary, code=notice.sqlstate)


def is_passing(error: psycopg.Error) -> bool:
    """Whether an error may be over soon, and is nobody's fault: the connection, a lock, a server that is
    starting or stopping.
    """
    state = error.sqlstate
    return isinstance(error, psycopg.OperationalError) and (
        state is None or state in _PASSING or state.startswith("08")
    )


def public_error(error: Exception) -> Exception:
    """What a caller gets for an error of the database: a typed one where the database cannot be used now,
    otherwise the error itself.
    """
    if not isinstance(error, psycopg.Error):
        return error
    state: str = error.sqlstate or ""
    if state in ("53100", "53200", "53400"):
        log.error("the store has no room left", cause=str(error))
        return ResourceExhaustedError("The store has no room left")
    if is_passing(error):
        log.error("the store cannot be used", cause=str(error), code=state)
        return UnavailableError("The store cannot be used now")
    return error


async def fetch(link: Link, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
    """The rows of a statement. Raises psycopg.Error."""
    return await (await link.execute(statement, values)).fetchall()
