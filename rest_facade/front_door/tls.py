"""TLS in front of HTTP: a connection during its handshake, and the transport that it has afterwards."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Final

from rest_facade.front_door.connections import BODY_SECONDS, Connection, Connections, Entry

HANDSHAKE_SECONDS: Final = 10.0
"""How long a handshake may take."""

WRITE_BUFFER_BYTES: Final = 65_536
"""From how many unsent bytes on writing pauses: as without TLS, where uvloop has 512 KiB for it."""


def start_at_once(work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Runs work until it waits, and goes on with it in a task; None where it did not wait.

    Raises what the work raises before it waits.
    """
    try:
        waits_for = work.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_go_on(work, waits_for))


async def _go_on(work: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _Rest(work, waits_for)


class _Rest:
    """What is left of work that waits for something."""

    def __init__(self, work: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the work is told whatever it is
                step = partial(self._work.throw, error)
            else:
                step = partial(self._work.send, value)
            try:
                waits_for = step()
            except StopIteration:
                return


class TlsTransport(asyncio.Transport):
    """A connection's transport over TLS. It counts and pauses what is below TLS, too.

    Otherwise bytes that a client does not read, or that nobody parses, would be held there unseen.
    """

    def __init__(self, secured: asyncio.Transport, plain: asyncio.Transport) -> None:
        super().__init__()
        self._secured = secured
        self._plain = plain
        secured.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._secured.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._secured.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._secured.get_protocol()

    def is_closing(self) -> bool:
        return self._secured.is_closing()

    def close(self) -> None:
        self._secured.close()

    def abort(self) -> None:
        self._secured.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._secured.write(data)

    def get_write_buffer_size(self) -> int:
        return self._secured.get_write_buffer_size() + self._plain.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._secured.pause_reading()
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        self._plain.resume_reading()
        self._secured.resume_reading()


class TlsEntrance(Connection, asyncio.Protocol):
    """A connection until its handshake is over. It counts among the connections from its begin on."""

    def __init__(
        self,
        context: ssl.SSLContext,
        connections: Connections,
        make_protocol: Callable[[], asyncio.Protocol],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """`make_protocol` makes what goes on after the handshake. `tasks` keeps the handshakes."""
        self._context = context
        self._connections = connections
        self._make_protocol = make_protocol
        self._tasks = tasks
        self._early = b""

    # asyncio calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one that reads and writes
        self.transport = transport
        peer = transport.get_extra_info("peername") or ("", 0)
        if self._connections.add(self, str(peer[0])) is Entry.CLOSED:
            transport.abort()
            return
        # Before anything else happens on the loop: the client's first bytes would come here.
        if task := start_at_once(self._shake_hands()):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)

    def data_received(self, data: bytes) -> None:
        """Keeps what came together with the end of the handshake."""
        self._early += data

    # Connections calls this.

    def shutdown(self) -> None:
        self.abort()

    async def _shake_hands(self) -> None:
        plain = self.transport
        try:
            secured = await asyncio.get_running_loop().start_tls(
                plain,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                # What is sent at the end has the same bounds as before it: see `Connection.check`.
                ssl_shutdown_timeout=BODY_SECONDS,
            )
        except OSError:
            # No TLS, none that we take, or the client has gone: its own business.
            plain.abort()
            return
        finally:
            self._connections.remove(self)
        if secured is None or secured.is_closing():
            return
        protocol = self._make_protocol()
        transport = TlsTransport(secured, plain)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._early and not transport.is_closing():
            protocol.data_received(self._early)
