"""The look for what other servers have written: every few seconds, whatever is announced meanwhile."""

import asyncio
from collections.abc import Mapping

from server.lifecycle.other_servers import WAITS_PER_READ, OtherServers
from server.lifecycle.watches import Watches
from server.store.hints import Hint
from tests.support.waiting import eventually


class Other:
    """A store in which nothing has happened."""

    def __init__(self) -> None:
        self.looks = 0
        self.reads = self.most_reads = 0

    async def find_grown(self, sequences: Mapping[str, int]) -> Mapping[str, int | None]:
        self.looks += 1
        return {}

    async def find_answer(self, session_id: str, sequence: int, **scope: object) -> None:
        self.reads += 1
        self.most_reads = max(self.most_reads, self.reads)
        await asyncio.sleep(0)
        self.reads -= 1

    async def get_session(self, session_id: str, **scope: object) -> object:
        return Session()


class Session:
    expiry_logged = False
    expires_at_ms = 0


class Watch:
    def wake(self, session_id: str, *, has_grown: bool = True) -> None: ...

    def wake_up(self) -> None: ...

    def mark_deleted(self, session_id: str) -> None: ...


async def test_hints_of_one_session_do_not_keep_it_from_looking_at_all() -> None:
    """A hint that was lost is found, however many others come."""
    store, watches = Other(), Watches()
    watches.add("watched", Watch())
    watches.reply_waits.join("awaited", "m").follow(1)
    others = OtherServers(store, watches, look_s=0.05)  # type: ignore[arg-type]
    running = asyncio.create_task(others.run())
    await eventually(lambda: store.looks >= 1)

    async def hint() -> None:
        while True:
            others.on_hint(Hint(grown={"awaited": 1}))
            await asyncio.sleep(0.001)

    hinting = asyncio.create_task(hint())
    try:
        await eventually(lambda: store.looks >= 4)
    finally:
        for task in (running, hinting):
            task.cancel()
        await asyncio.gather(running, hinting, return_exceptions=True)


async def test_many_waits_are_read_together_and_not_all_at_once() -> None:
    store, watches = Other(), Watches()
    for number in range(10 * WAITS_PER_READ):
        watches.reply_waits.join(f"s{number}", "m").follow(1)
    others = OtherServers(store, watches)  # type: ignore[arg-type]
    await others.look()
    assert store.most_reads == WAITS_PER_READ
