"""Watchers that resume, and what they see."""

import asyncio
import contextlib
from typing import Any

from eliza.sessions.v1 import log_pb2
from tests.campaigns.traffic.clients import PAUSE_SECONDS, AgainError
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.rest_client import RestClient
from tests.campaigns.traffic.roaming import Roaming
from tests.campaigns.traffic.socket_client import SocketClient

Seen = tuple[int, str, str]
"""An entry as a watcher is told of it: its sequence, its kind, and a message's id."""

_KINDS = {
    "messageBroadcast": "message",
    "sessionRenewed": "renewal",
    "sessionTimeoutChanged": "timeout_change",
}


def seen_entry(entry: log_pb2.LogEntry) -> Seen:
    kind = entry.WhichOneof("event")
    return entry.sequence, kind, entry.message.message_id if kind == "message" else ""


def seen_event(name: str, event: dict[str, Any]) -> Seen:
    return event["sequence"], _KINDS.get(name, name), event["id"] if name == "messageBroadcast" else ""


class Watcher:
    """Follows a session over the lives of the service, from the last entry that it was told of."""

    def __init__(
        self,
        client: GrpcClient | RestClient | SocketClient | Roaming,
        session_id: str,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`pause_seconds`: how long it waits before it connects again."""
        self.client = client
        self._pause_s = pause_seconds
        self.session_id = session_id
        self.seen: list[Seen] = []
        self.resumed = -1

    @property
    def sequence(self) -> int:
        return self.seen[-1][0] if self.seen else 0

    async def follow(self) -> None:
        """Follows until cancelled."""
        while True:
            self.resumed += 1
            with contextlib.suppress(AgainError):
                async with contextlib.aclosing(self.client.watch(self.session_id, self.sequence)) as events:
                    async for event in events:
                        told = (
                            seen_entry(event) if isinstance(event, log_pb2.LogEntry) else seen_event(*event)
                        )
                        # Over Socket.IO a message that renewed is told of by two events.
                        if (*told, self.client.kind) != (
                            self.sequence,
                            "renewal",
                            "",
                            "Socket.IO",
                        ) or self.seen[-1][1] != "message":
                            self.seen.append(told)
            await asyncio.sleep(self._pause_s)
