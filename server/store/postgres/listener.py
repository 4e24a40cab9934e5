"""Hears what other servers announce, on a connection of its own."""

import asyncio
import uuid

import structlog

from server.store.hints import Hint, HintListener
from server.store.postgres.announcer import CHANNEL
from server.store.postgres.frames import FrameReader
from server.store.postgres.link import KeptLink, end_of
from server.store.postgres.place import Place

log = structlog.get_logger()


class Listener:
    """See the module. After each break it has everybody look at everything: hints may have been lost."""

    def __init__(self, place: Place, replica_id: str, listeners: list[HintListener]) -> None:
        self._link = KeptLink(place, "listens", listens=True)
        self._frames = FrameReader(replica_id)
        self._listeners = listeners
        self._is_closed = False
        self.is_listening = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Hears no more."""
        self._is_closed = True
        self._link.sever(is_expected=True)
        await end_of(self._task)

    async def _run(self) -> None:
        while not self._is_closed:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - without this task nothing would be heard any more
                self.is_listening.clear()
                await self._link.drop()
                if not self._is_closed:
                    self._link.note_trouble(error)
                    await self._link.pause()
        await self._link.drop()

    async def _listen(self) -> None:
        """Hears until the connection ends. Raises psycopg.Error."""
        link = await self._link.open()
        with self._link.bounded():
            await link.execute(f"LISTEN {CHANNEL}".encode())
        self._frames.clear()
        self.is_listening.set()
        self._tell(Hint(all=True))
        if self._is_closed:
            return
        async for notice in link.notifies():
            if hint := self._frames.read(notice.payload):
                self._tell(hint)

    def _tell(self, hint: Hint) -> None:
        for listener in self._listeners:
            try:
                listener(hint)
            except Exception:
                # The others hear of it, and of the next.
                log.exception("a listener failed", error_id=uuid.uuid4().hex)
