"""A connection of a lane: opened when it is needed, opened anew when it is lost, and severed when it is
silent.
"""

import asyncio
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
import structlog

from server.store.postgres.errors import is_away, public_error
from server.store.postgres.place import Link, Place

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
"""How long to wait between two tries to connect."""

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
        # The number of a trouble that was logged and goes on.
        self._trouble = ""

    async def open(self) -> Link:
        """The connection, made if there is none. Raises psycopg.Error."""
        if self._link is None or self._link.closed:
            await self.drop()
            self._link = await self.place.connect(self._purpose, listens=self._listens)
            self._link.add_notice_handler(self._note)
        return self._link

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, or cannot be used any more."""
        return self._link is None or self._link.closed

    @property
    def is_idle(self) -> bool:
        """Whether the connection can be used, and is in no transaction."""
        return (
            self._link is not None and self._link.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        )

    async def drop(self) -> None:
        """Lets go of the connection."""
        link, self._link = self._link, None
        if link:
            with suppress(psycopg.Error, OSError):
                await link.close()

    async def pause(self) -> None:
        """Waits before the next try, a little longer each time until something was answered."""
        await asyncio.sleep(self.pause_s)
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)

    def note_trouble(self, error: Exception) -> None:
        """Logs an error, and no other until something was answered again."""
        if not self._trouble:
            self._trouble = uuid.uuid4().hex
            told = {"purpose": self._purpose, "place": self.place.named(listens=self._listens)}
            cause = " ".join(str(error).split()) or type(error).__name__
            log.warning("a connection cannot be used", error_id=self._trouble, cause=cause, **told)

    def refuse(self, error: Exception) -> Exception:
        """What callers get for an error that ends what they asked for. A database that is away is logged
        once, and once when it is back.
        """
        if is_away(error):
            self.note_trouble(error)
        return public_error(error)

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
        self.pause_s = FIRST_PAUSE_S
        if self._trouble:
            log.info("a connection can be used again", error_id=self._trouble, purpose=self._purpose)
            self._trouble = ""

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


async def end_of(task: "asyncio.Task[None]") -> None:
    """Waits for a task that uses a connection.

    Who is cancelled meanwhile does not cancel the task, and with it a COMMIT.
    """
    await asyncio.wait([task])
    task.result()
