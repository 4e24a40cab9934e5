"""Bounds the connections of clients: how many there are, what they hold, and how long they make no progress.

One task checks all of them every TICK_SECONDS, because timers would be set and cancelled at each request.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Final

from eliza.sessions.descriptors import quarter_of_descriptors
from rest_facade.front_door import answers
from rest_facade.front_door.answers import Answers
from rest_facade.front_door.clients import Networks, find_address, find_client, is_within, read_address
from rest_facade.front_door.input import Turns
from rest_facade.shapes.credentials import Metadata, of_address

CLIENT: Final = "rest_facade.client"
"""The key of a scope's state under which is the client that the request counts for; see `find_client`."""


MAX_PER_CLIENT: Final = 1000
"""How many connections, and how many sockets of long-polling, one client may have."""

MAX_REFUSED: Final = 256
"""How many connections beyond the bounds wait for a refusal; more are closed without a word."""

TICK_SECONDS: Final = 1.0

HEAD_SECONDS: Final = 10.0
"""How long a request's line and headers may take, from the connection or their first byte on."""

BODY_PAUSE_SECONDS: Final = 10.0
"""How long no byte of a body may come that is waited for."""

BODY_SECONDS: Final = 300.0
"""How long a body may take as a whole: at this pace the largest one comes at 10 KB/s."""

WRITE_SECONDS: Final = 30.0
"""How long no byte may leave while some wait to be sent."""

LATE_SECONDS: Final = 1.0
"""How long a client may lag before its connection may be ended for holding too much."""

MAX_HELD_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of bodies and messages all connections may hold together, parsed or not."""

SMALL_BYTES: Final = 65_536
MAX_HELD_FOR_SMALL_BYTES: Final = MAX_HELD_BYTES + 8 * 1024 * 1024
"""The same bound for a request of less than SMALL_BYTES, so that large requests do not keep it out."""


class Entry(Enum):
    """How a new connection is treated."""

    SERVED = "served"
    REFUSED = "refused"
    CLOSED = "closed"


class Connection:
    """One connection, to be mixed into a protocol of uvicorn. Knows when its client makes no progress."""

    transport: asyncio.Transport
    _connections: "Connections"

    part = b""
    """The part of an answer that goes to the transport, a piece at a time."""

    part_left = 0
    """How many bytes of it have not been handed over."""

    _unsent_bytes = 0
    _sent_s = math.inf
    """When bytes were last seen to leave, or none waited, by the loop's clock."""

    _began_s: float | None = None
    """When the body or message began to come in that is not complete; None: there is none."""

    _came_s = 0.0
    """When a part of it came last."""

    def check(self, now_s: float) -> None:
        """Ends the connection if its client makes no progress."""
        unsent_bytes = self.unsent_bytes()
        if not unsent_bytes or unsent_bytes < self._unsent_bytes or self._sent_s == math.inf:
            self._sent_s = now_s
        self._unsent_bytes = unsent_bytes
        # Over TLS a connection that is closed would wait for the client's goodbye.
        is_over = self.transport.is_closing() and not unsent_bytes
        if is_over or now_s - self._sent_s > WRITE_SECONDS or self._is_late(now_s):
            self.abort()

    def shutdown(self) -> None:
        """Ends the connection once its request under way is over, because the facade stops."""
        raise NotImplementedError

    def abort(self) -> None:
        """Ends the connection at once, whatever waits to be sent."""
        self.transport.abort()

    def unsent_bytes(self) -> int:
        """Counts the bytes that wait to be sent."""
        return self.transport.get_write_buffer_size() + self.part_left

    def is_slow(self, now_s: float) -> bool:
        """Whether a body or message has not come as a whole in a time in which most do."""
        return self._began_s is not None and now_s - self._began_s > BODY_PAUSE_SECONDS

    def _is_late(self, now_s: float) -> bool:
        """Whether a body is overdue."""
        return self._began_s is not None and (
            now_s - self._came_s > BODY_PAUSE_SECONDS or now_s - self._began_s > BODY_SECONDS
        )


class Connections:
    """All connections of a facade."""

    def __init__(self, trusted: Networks = (), most: int | None = None, sent: Answers | None = None) -> None:
        """`trusted` are proxies whose X-Forwarded-For counts. `most` replaces the bound on all connections.

        `sent` counts the parts of answers that are being sent.
        """
        self.turns = Turns()
        self._answers = sent or Answers()
        self._trusted = trusted
        self._most = quarter_of_descriptors() if most is None else most
        self._clients: dict[Connection, str | None] = {}
        self._refused: set[Connection] = set()
        self._counts: Counter[str] = Counter()
        # Since when, in order.
        self._lagging: dict[Connection, float] = {}
        self._held: dict[Connection, int] = {}
        self._held_bytes = 0
        self._none: asyncio.Event | None = None

    @property
    def count(self) -> int:
        """How many connections there are."""
        return len(self._clients)

    def shut_down(self) -> None:
        """Ends each connection once its request under way is over."""
        for connection in list(self._clients):
            connection.shutdown()

    async def wait_until_none(self) -> None:
        """Waits until all connections have ended."""
        self._none = asyncio.Event()
        if self._clients:
            await self._none.wait()

    async def watch(self) -> None:
        """Ends the connections that make no progress, until cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for connection in list(self._clients):
                connection.check(now_s())
            self._shed(now_s())

    def is_trusted(self, peer: str) -> bool:
        """Whether a peer's X-Forwarded-For counts."""
        address = read_address(peer)
        return address is not None and is_within(address, self._trusted)

    def add(self, connection: Connection, peer: str) -> Entry:
        """Counts a new connection. `remove` is due for it unless it is CLOSED."""
        client = find_client(peer, (), self._trusted)
        is_full = len(self._clients) - len(self._refused) >= self._most or self._is_full_for(client)
        if is_full and len(self._refused) >= MAX_REFUSED:
            return Entry.CLOSED
        self._clients[connection] = None
        if is_full:
            self._refused.add(connection)
            return Entry.REFUSED
        self._charge(connection, client)
        return Entry.SERVED

    def remove(self, connection: Connection) -> None:
        if connection in self._clients:
            self._charge(connection, None)
            del self._clients[connection]
            self._refused.discard(connection)
            if self._none and not self._clients:
                self._none.set()
        self._lagging.pop(connection, None)
        self.end_part(connection)
        self._held_bytes -= self._held.pop(connection, 0)

    def replace(self, connection: Connection, by: Connection) -> None:
        """Counts another one in its place: the same connection, which now speaks another protocol."""
        self._clients[by] = self._clients.pop(connection, None)
        self.remove(connection)

    def attribute(self, connection: Connection, peer: str, forwarded: Iterable[bytes]) -> bool:
        """Counts a connection for the client behind a proxy's request, until the next request.

        Returns whether that client may have one more.
        """
        client = find_client(peer, forwarded, self._trusted)
        if connection not in self._clients or client == self._clients[connection]:
            return True
        if self._is_full_for(client):
            return False
        self._charge(connection, client)
        return True

    def find_address(self, peer: str, forwarded: Iterable[bytes]) -> Metadata:
        """Returns the address of a request's client as metadata; none for loopback and trusted proxies."""
        address = find_address(peer, forwarded, self._trusted)
        return () if address is None else of_address(str(address))

    def client(self, connection: Connection) -> str | None:
        """Returns the client that a connection counts for now."""
        return self._clients.get(connection)

    def lag(self, connection: Connection) -> None:
        """Notes that more waits on a connection than it should."""
        now_s = asyncio.get_running_loop().time()
        self._lagging[connection] = now_s
        self._shed(now_s)

    def _shed(self, now_s: float) -> None:
        """Ends connections that are late, those that have lagged longest first, until all hold less."""
        # A part that many are sent is held once.
        buffered_bytes = sum(one.unsent_bytes() - one.part_left for one in self._lagging)
        for connection, since_s in list(self._lagging.items()):
            if (
                buffered_bytes + self._answers.held_bytes < answers.MAX_UNSENT_BYTES
                or now_s - since_s < LATE_SECONDS
            ):
                return
            buffered_bytes -= connection.unsent_bytes() - connection.part_left
            del self._lagging[connection]
            self.end_part(connection)
            # Not at once: it may be in the midst of a write.
            asyncio.get_running_loop().call_soon(connection.abort)

    def catch_up(self, connection: Connection) -> None:
        """Notes that little waits on a connection again."""
        self._lagging.pop(connection, None)

    def begin_part(self, connection: Connection, part: bytes) -> None:
        """Notes which part of an answer a connection sends. There is one at a time."""
        connection.part, connection.part_left = part, len(part)
        self._answers.hold(part)

    def end_part(self, connection: Connection) -> None:
        """Notes that a connection has sent its part, or sends no more of it."""
        if connection.part:
            self._answers.let_go(connection.part)
            connection.part, connection.part_left = b"", 0

    def hold(self, connection: Connection, held_bytes: int) -> bool:
        """Notes how many bytes a connection holds for parsing or work. Returns whether it may keep them.

        Where all hold too much, connections whose bodies have been coming in for long end first. Nothing is
        noted for a connection that is gone, because nobody would ever take that back.
        """
        if connection not in self._clients:
            return True
        self._held_bytes += held_bytes - self._held.pop(connection, 0)
        if held_bytes:
            self._held[connection] = held_bytes
        bound = MAX_HELD_BYTES if held_bytes >= SMALL_BYTES else MAX_HELD_FOR_SMALL_BYTES
        if self._held_bytes > bound:
            now_s = asyncio.get_running_loop().time()
            for slow in [one for one in self._held if one is not connection and one.is_slow(now_s)]:
                self._held_bytes -= self._held.pop(slow)
                slow.abort()
        return self._held_bytes <= bound

    def _is_full_for(self, client: str | None) -> bool:
        return client is not None and self._counts[client] >= MAX_PER_CLIENT

    def _charge(self, connection: Connection, client: str | None) -> None:
        before = self._clients[connection]
        if before is not None:
            self._counts[before] -= 1
            if not self._counts[before]:
                del self._counts[before]
        if client is not None:
            self._counts[client] += 1
        self._clients[connection] = client
