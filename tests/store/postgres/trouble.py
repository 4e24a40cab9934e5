"""Trouble under the load of several servers that fight for the same sessions: connections cut at random
moments, the database killed at random moments, packets held.

`python -m tests.store.postgres.trouble cuts --times 1000 --seed 7` prints what came of it.
"""

import argparse
import asyncio
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, OutcomeUnknownError
from server.domain.sessions import Session
from server.store.postgres.check import problems
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import history, say
from tests.support.cutting_proxy import CuttingProxy, Verdict, let_pass
from tests.support.postgres import PostgresServer
from tests.support.waiting import eventually
from tests.unit.samples import T0, put, session

SESSIONS = 40
SENDERS = 8
STORES = 3


@dataclass
class Tally:
    """What came of it.

    `lost`: acknowledged and not there; `twice`: there more than once; `ghosts`: refused and there; `gaps`:
    sessions whose log has not every sequence. `unknown`: of which nobody was told how they ended.
    `pauses_s`: from the end of the trouble to the first new acknowledgement.
    """

    cuts: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    lost: int = 0
    twice: int = 0
    gaps: int = 0
    ghosts: int = 0
    problems: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.twice or self.gaps or self.ghosts or self.problems)


class Load:
    """Senders at several stores, and what they were told."""

    def __init__(self, stores: list[PostgresStore], many: list[Session], seed: int) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.refused: set[str] = set()
        self.tally = Tally()
        self.is_over = False
        self._stores = stores
        self._many = many
        self._choose = random.Random(seed)

    async def run(self) -> None:
        """Sends until it is over."""
        await asyncio.gather(*(self._send(store) for store in self._stores for _ in range(SENDERS)))

    async def until_acknowledged(self) -> float:
        """Waits until something more is acknowledged; returns for how many seconds."""
        begun_s, before = time.monotonic(), len(self.acknowledged)
        await eventually(lambda: len(self.acknowledged) > before)
        return time.monotonic() - begun_s

    async def _send(self, store: PostgresStore) -> None:
        while not self.is_over:
            one, content = self._choose.choice(self._many), uuid.uuid4().hex
            try:
                outcome = await store.apply(one.id, say(content), scope=EVERYTHING)
            except OutcomeUnknownError:
                self.tally.unknown += 1
            except DomainError:
                self.refused.add(content)
            else:
                assert outcome.entry is not None
                self.acknowledged[content] = one.id, outcome.entry.sequence


Trouble = Callable[[Load, CuttingProxy], Awaitable[None]]
"""Makes trouble, and returns when it is over."""


async def endure(url: str, port: int, trouble: Trouble, seed: int, **settings: Any) -> Tally:
    """Sends while there is trouble, and counts what is in the logs then."""
    async with CuttingProxy(port) as proxy:
        place = Place(url.replace(f":{port}/", f":{proxy.port}/"), **settings)
        stores = [await PostgresStore.open(place) for _ in range(STORES)]
        many = [session() for _ in range(SESSIONS)]
        for one in many:
            await put(stores[0], one)
        load = Load(stores, many, seed)
        sending = asyncio.create_task(load.run())
        try:
            await trouble(load, proxy)
        finally:
            load.is_over = True
            await sending
            for store in stores:
                await store.close()
    await _count(url, many, load.acknowledged, load.refused, load.tally)
    return load.tally


async def cut_at_random(url: str, port: int, cuts: int, seed: int) -> Tally:
    """Cuts so many connections, before some bytes or behind them."""
    choose = random.Random(seed)

    def rule(data: bytes, is_clients: bool) -> Verdict:
        if choose.random() < 0.02:
            return choose.choice((Verdict.CUT, Verdict.PASS_AND_CUT))
        return Verdict.PASS

    async def trouble(load: Load, proxy: CuttingProxy) -> None:
        proxy.rule = rule
        while proxy.cuts < cuts:  # noqa: ASYNC110 - for as long as it takes
            await asyncio.sleep(0.01)
        proxy.rule = let_pass
        load.tally.cuts = proxy.cuts
        load.tally.pauses_s.append(await load.until_acknowledged())

    return await endure(url, port, trouble, seed)


async def restart_at_random(server: PostgresServer, url: str, times: int, seed: int) -> Tally:
    """Ends the database at once, as a crash does, and starts it again."""
    choose = random.Random(seed)

    async def trouble(load: Load, proxy: CuttingProxy) -> None:
        for _ in range(times):
            await asyncio.sleep(0.2 + choose.random())
            await asyncio.to_thread(server.stop, choose.choice((signal.SIGQUIT, signal.SIGKILL)))
            load.tally.cuts += 1
            await asyncio.to_thread(server.start)
            load.tally.pauses_s.append(await load.until_acknowledged())

    return await endure(url, server.port, trouble, seed)


async def hold_for(url: str, port: int, seconds: float, seed: int) -> Tally:
    """Lets no packet through for a while."""

    async def trouble(load: Load, proxy: CuttingProxy) -> None:
        await load.until_acknowledged()
        proxy.hold()
        await asyncio.sleep(seconds)
        proxy.release()
        load.tally.cuts = 1
        load.tally.pauses_s.append(await load.until_acknowledged())

    return await endure(url, port, trouble, seed, answer_s=3.0, wait_s=3.0)


async def _count(
    url: str, many: list[Session], acknowledged: dict[str, tuple[str, int]], refused: set[str], tally: Tally
) -> None:
    store = await PostgresStore.open(Place(url))
    there: dict[str, tuple[str, int]] = {}
    met: Counter[str] = Counter()
    for one in many:
        log = await history(store, one)
        tally.gaps += [entry.sequence for entry in log] != list(range(1, len(log) + 1))
        for entry in log:
            assert entry.message is not None
            met[entry.message.content] += 1
            there[entry.message.content] = one.id, entry.sequence
    await store.close()
    tally.acknowledged, tally.refused = len(acknowledged), len(refused)
    tally.lost = sum(there.get(content) != place for content, place in acknowledged.items())
    tally.twice = sum(count > 1 for count in met.values())
    tally.ghosts = len(refused & there.keys())
    with Place(url).connect_now("check") as link:
        tally.problems = list(problems(link))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trouble", choices=["cuts", "restarts", "held"])
    parser.add_argument(
        "--times", type=int, default=20, help="How often; of held packets, for how many seconds."
    )
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    server = PostgresServer()
    try:
        name = server.make_database()
        url = server.url(name)
        prepare(Place(url))
        server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", name)
        begun_s = time.monotonic()
        match asked.trouble:
            case "cuts":
                work = cut_at_random(url, server.port, asked.times, asked.seed)
            case "restarts":
                work = restart_at_random(server, url, asked.times, asked.seed)
            case _:
                work = hold_for(url, server.port, asked.times, asked.seed)
        tally = asyncio.run(work)
        print(f"seed {asked.seed}: {tally}, {time.monotonic() - begun_s:.1f} s")
    finally:
        server.close()
    raise SystemExit(0 if tally.is_sound else 1)


if __name__ == "__main__":
    main()
