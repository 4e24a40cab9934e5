"""Load on several stores of one database that fight for the same sessions, through a proxy that makes
trouble.
"""

import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, NamedTuple

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, OutcomeUnknownError
from server.domain.sessions import Session
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from server.store.postgres.store import PostgresStore
from tests.campaigns.failover.tally import Tally, count
from tests.store.conformance.common import say
from tests.support.cutting_proxy import CuttingProxy
from tests.support.postgres import PostgresServer
from tests.unit.samples import T0, put, session

SESSIONS: Final = 40
SENDERS: Final = 8
STORES: Final = 3
PATIENCE_SECONDS: Final = 60.0
"""After which the campaign gives up on a database that is well again."""


class Target(NamedTuple):
    """A database with an empty store, and the ports of the servers that its URL leads to."""

    url: str
    ports: tuple[int, ...]


@contextmanager
def new_server(**settings: str) -> Iterator[tuple[PostgresServer, Target]]:
    """A server of the campaign's own, which keeps what it promises, and an empty store on it."""
    server = PostgresServer(**settings)
    try:
        yield server, new_store(server)
    finally:
        server.close()


def new_store(server: PostgresServer) -> Target:
    """Makes an empty store, whose time is that of the samples."""
    name = server.make_database()
    prepare(Place(server.url(name)))
    server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", name)
    return Target(server.url(name), (server.port,))


class Load:
    """Senders at several stores, and what they were told."""

    def __init__(self, stores: list[PostgresStore], many: list[Session], tally: Tally) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.refused: set[str] = set()
        self.tally = tally
        self.is_over = False
        self.stores = stores
        self.many = many
        self._choose = random.Random(tally.seed)
        # When the troubles began after which nothing has been acknowledged yet.
        self._since_s: list[float] = []

    def begin_pause(self) -> None:
        """Counts from now on how long it takes to the next acknowledgement."""
        self._since_s.append(time.monotonic())

    async def run(self) -> None:
        """Sends until it is over."""
        await asyncio.gather(*(self._send(store) for store in self.stores for _ in range(SENDERS)))

    async def until_acknowledged(self, more: int = 1) -> float:
        """Waits until so many more are acknowledged; returns for how many seconds."""
        begun_s, wanted = time.monotonic(), len(self.acknowledged) + more
        while len(self.acknowledged) < wanted:
            waited_s = time.monotonic() - begun_s
            if waited_s > PATIENCE_SECONDS:
                raise RuntimeError(f"nothing is acknowledged after {waited_s:.0f} s: {self.tally}")
            await asyncio.sleep(0.001)
        return time.monotonic() - begun_s

    async def _send(self, store: PostgresStore) -> None:
        while not self.is_over:
            one, content = self._choose.choice(self.many), uuid.uuid4().hex
            try:
                outcome = await store.apply(one.id, say(content), scope=EVERYTHING)
            except OutcomeUnknownError:
                self.tally.unknown += 1
            except DomainError:
                self.refused.add(content)
            else:
                assert outcome.entry is not None
                self.acknowledged[content] = one.id, outcome.entry.sequence
                self.tally.pauses_s += [time.monotonic() - since_s for since_s in self._since_s]
                self._since_s.clear()


Trouble = Callable[[Load, list[CuttingProxy]], Awaitable[None]]
"""Makes trouble with the load's ways to the servers, and returns when it is over."""


async def endure(target: Target, trouble: Trouble, seed: int, **settings: Any) -> Tally:
    """Sends while there is trouble, and counts what is in the logs then.

    `settings`: of the stores' Place.
    """
    tally = Tally(seed)
    async with _proxies(target.ports) as proxies:
        url = target.url
        for port, proxy in zip(target.ports, proxies, strict=True):
            url = url.replace(f":{port}", f":{proxy.port}")
        stores = [await PostgresStore.open(Place(url, **settings)) for _ in range(STORES)]
        many = [session() for _ in range(SESSIONS)]
        for one in many:
            await put(stores[0], one)
        load = Load(stores, many, tally)
        sending = asyncio.create_task(load.run())
        try:
            await load.until_acknowledged()
            await trouble(load, proxies)
        finally:
            load.is_over = True
            await sending
            for store in stores:
                await store.close()
    await count(target.url, many, load.acknowledged, load.refused, tally)
    return tally


@asynccontextmanager
async def _proxies(ports: tuple[int, ...]) -> AsyncIterator[list[CuttingProxy]]:
    if not ports:
        yield []
        return
    async with CuttingProxy(ports[0]) as first, _proxies(ports[1:]) as others:
        yield [first, *others]


async def restart_at_random(server: PostgresServer, target: Target, times: int, seed: int) -> Tally:
    """Ends the database at once, as a crash does, and starts it again."""
    choose = random.Random(seed)

    async def trouble(load: Load, _: list[CuttingProxy]) -> None:
        # The sessions are to be there afterwards, even where a server does not keep what it promises.
        server.execute("CHECKPOINT")
        for _number in range(times):
            await asyncio.sleep(0.2 + choose.random())
            how = choose.choice((signal.SIGQUIT, signal.SIGKILL))
            await asyncio.to_thread(server.stop, how)
            load.tally.troubles[f"ended by {how.name}"] += 1
            begun_s = time.monotonic()
            await asyncio.to_thread(server.start)
            await load.until_acknowledged()
            load.tally.pauses_s.append(time.monotonic() - begun_s)

    return await endure(target, trouble, seed)


async def hold_for(target: Target, seconds: float, seed: int, **settings: Any) -> Tally:
    """Lets no packet through for a while. Nobody may wait longer than his deadlines say."""

    async def trouble(load: Load, proxies: list[CuttingProxy]) -> None:
        for proxy in proxies:
            proxy.hold()
        await asyncio.sleep(seconds)
        load.tally.troubles[f"{seconds:g} s without a packet, ended by then"] = (
            len(load.refused) + load.tally.unknown
        )
        for proxy in proxies:
            proxy.release()
        load.tally.pauses_s.append(await load.until_acknowledged())

    return await endure(target, trouble, seed, **settings)
