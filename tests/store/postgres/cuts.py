"""Connections cut at random moments, under load of several servers that fight for the same sessions.

`python -m tests.store.postgres.cuts --cuts 1000 --seed 7` prints what came of it.
"""

import argparse
import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

from server.domain.access import EVERYTHING
from server.domain.errors import DomainError, OutcomeUnknownError
from server.domain.sessions import Session
from server.store.postgres.check import problems
from server.store.postgres.place import Place
from server.store.postgres.schema import prepare
from server.store.postgres.store import PostgresStore
from tests.store.conformance.common import history, say
from tests.support.cutting_proxy import CuttingProxy, Verdict
from tests.support.postgres import PostgresServer
from tests.unit.samples import T0, put, session

SESSIONS = 40
SENDERS = 8
STORES = 3


@dataclass
class Tally:
    """What came of it.

    `lost`: acknowledged and not there; `twice`: there more than once; `ghosts`: refused and there; `gaps`:
    sessions whose log has not every sequence. `unknown`: of which nobody was told how they ended.
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

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.twice or self.gaps or self.ghosts or self.problems)


async def cut_at_random(url: str, port: int, cuts: int, seed: int) -> Tally:
    """Sends until so many connections were cut, and counts what is in the logs."""
    choose = random.Random(seed)
    tally = Tally()
    acknowledged: dict[str, tuple[str, int]] = {}
    refused: set[str] = set()
    async with CuttingProxy(port) as proxy:
        stores = [
            await PostgresStore.open(Place(url.replace(f":{port}/", f":{proxy.port}/")))
            for _ in range(STORES)
        ]
        many = [session() for _ in range(SESSIONS)]
        for one in many:
            await put(stores[0], one)

        def rule(data: bytes, is_clients: bool) -> Verdict:
            if choose.random() < 0.02:
                return choose.choice((Verdict.CUT, Verdict.PASS_AND_CUT))
            return Verdict.PASS

        async def send(store: PostgresStore) -> None:
            while proxy.cuts < cuts:
                one, content = choose.choice(many), uuid.uuid4().hex
                try:
                    outcome = await store.apply(one.id, say(content), scope=EVERYTHING)
                except OutcomeUnknownError:
                    tally.unknown += 1
                except DomainError:
                    refused.add(content)
                else:
                    assert outcome.entry is not None
                    acknowledged[content] = one.id, outcome.entry.sequence

        proxy.rule = rule
        await asyncio.gather(*(send(store) for store in stores for _ in range(SENDERS)))
        proxy.rule = lambda data, is_clients: Verdict.PASS
        for store in stores:
            await store.close()
        tally.cuts = proxy.cuts
    await _count(url, many, acknowledged, refused, tally)
    return tally


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
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    server = PostgresServer()
    try:
        name = server.make_database()
        prepare(Place(server.url(name)))
        server.execute(f"INSERT INTO test_clock VALUES (true, {T0}, 0)", name)
        begun_s = time.monotonic()
        tally = asyncio.run(cut_at_random(server.url(name), server.port, asked.cuts, asked.seed))
        print(f"seed {asked.seed}: {tally}, {time.monotonic() - begun_s:.1f} s")
    finally:
        server.close()
    raise SystemExit(0 if tally.is_sound else 1)


if __name__ == "__main__":
    main()
