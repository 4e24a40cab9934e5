"""Many clients that watch one session: `python watchers.py grpc|rest ADDRESS SESSION COUNT`, in a process of
their own.

The session has one message when they come. Each time that all of them have heard a further message, a line
says so.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Final

import grpc
import uvloop

from eliza.sessions.v1 import session_service_pb2, session_service_pb2_grpc

SESSIONS: Final = "/api/messaging/sessions"
WATCHES_OF_A_CHANNEL: Final = 100
OPENING: Final = 50
"""How many watches are being opened at a time: gRPC cancels calls that come too many at once."""

Hear = Callable[[], None]


class Watchers:
    """The clients. `watch` calls its argument for each message."""

    def __init__(self, watch: Callable[[Hear], Awaitable[None]]) -> None:
        self._watch = watch
        self._heard = 0
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._ended: list[asyncio.Future[None]] = []

    async def run(self, count: int) -> None:
        """Opens the watches, and tells of messages until one of them ends: raises what ended
        it, or EOFError.
        """
        while len(self._tasks) < count:
            for _ in range(min(OPENING, count - len(self._tasks))):
                task = asyncio.ensure_future(self._watch(self._note))
                task.add_done_callback(self._note_end)
                self._tasks.append(task)
            await self._hear(1)
        messages = 1
        while True:
            print(messages, flush=True)
            messages += 1
            await self._hear(messages)

    async def _hear(self, messages: int) -> None:
        while self._heard < messages * len(self._tasks):
            self._changed.clear()
            await self._changed.wait()
            for task in self._ended:
                task.result()
                raise EOFError("a watch has ended")

    def _note(self) -> None:
        self._heard += 1
        self._changed.set()

    def _note_end(self, task: "asyncio.Future[None]") -> None:
        self._ended.append(task)
        self._changed.set()


async def watch_stream(address: str, session_id: str, hear: Hear) -> None:
    """Watches from the first message on, over REST: an event stream."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {SESSIONS}/{session_id}/events HTTP/1.1\r\nHost: {address}\r\nLast-Event-ID: 0\r\n\r\n".encode()
    )
    while line := await reader.readline():
        if line.startswith(b"event: messageBroadcast"):
            hear()


async def watch_rpc(channel: grpc.aio.Channel, session_id: str, hear: Hear) -> None:
    """The same over gRPC."""
    stub = session_service_pb2_grpc.SessionServiceStub(channel)
    async for response in stub.WatchSession(
        session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=0)
    ):
        if response.entry.HasField("message"):
            hear()


async def watch(surface: str, address: str, session_id: str, count: int) -> None:
    if surface == "rest":
        await Watchers(lambda hear: watch_stream(address, session_id, hear)).run(count)
        return
    # Channels of one process share connections, unless they are told not to: and a connection has so many
    # streams.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(address, options=options) for _ in range(-(-count // WATCHES_OF_A_CHANNEL))
    ]
    turns = cycle(channels)
    await Watchers(lambda hear: watch_rpc(next(turns), session_id, hear)).run(count)


if __name__ == "__main__":
    uvloop.run(watch(*sys.argv[1:4], int(sys.argv[4])))
