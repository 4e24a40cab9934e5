"""A process whose files cannot grow for a while: `python -m tests.store.small_disk PATH ROOM`.

ROOM is how many bytes the write-ahead log may still grow; a negative one forbids every write. Prints what it
saw as JSON.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.errors import DomainError
from server.store.sqlite.store import SqliteStore
from tests.store.conformance.common import contents, history, say
from tests.unit.samples import T0, put, session

CALLERS = 32


async def main(path: Path, room: int) -> None:
    clock = TestClock()
    clock.set_ms(T0)
    store = await SqliteStore.open(path, clock)
    sessions = [session() for _ in range(4)]
    for one in sessions:
        await put(store, one)
    acknowledged: dict[str, list[str]] = {one.id: [] for one in sessions}
    refused: list[str] = []

    async def write(number: int) -> None:
        of, content = sessions[number % len(sessions)], f"{number} " + "x" * 2000
        try:
            await store.apply(of.id, say(content), scope=EVERYTHING)
        except DomainError as error:
            refused.append(error.reason)
        else:
            acknowledged[of.id].append(content)

    async def write_all(first: int, count: int) -> None:
        await asyncio.gather(*(write(first + n) for n in range(count)))

    await write_all(0, CALLERS)
    before = sum(map(len, acknowledged.values()))
    log_size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (max(0, log_size + room) if room >= 0 else 0, resource.RLIM_INFINITY)
    )
    first = CALLERS
    while len(refused) < 4 * CALLERS:
        await write_all(first, CALLERS)
        first += CALLERS
    try:
        await store.check_writable()
        unhealthy = None
    except DomainError as error:
        unhealthy = error.reason
    readable = [contents(await history(store, one)) == acknowledged[one.id] for one in sessions]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.check_writable()
    refusals = len(refused)
    await write_all(first, CALLERS)
    sequences = [[entry.sequence for entry in await history(store, one)] for one in sessions]
    await store.close()
    print(
        json.dumps(
            {
                "before": before,
                "acknowledged": acknowledged,
                "reasons": sorted(set(refused)),
                "unhealthy": unhealthy,
                "readable": all(readable),
                "refusedAfterwards": len(refused) - refusals,
                "gapless": all(one == list(range(1, len(one) + 1)) for one in sequences),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
