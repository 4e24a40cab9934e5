"""A queue of deliveries while a transaction that is left open keeps PostgreSQL from removing dead rows.

Each delivery leaves dead rows and dead entries in the index by which the next one is found. What a claim
costs is told as the pages it reads, which says the same on a busy machine, and as its time.
"""

import asyncio
import statistics
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import psycopg

from server.domain.access import EVERYTHING
from server.domain.replies import lease
from server.domain.sessions import Session
from server.store.postgres.check import problems
from server.store.postgres.deliveries import STATEMENTS
from server.store.postgres.place import Place
from server.store.postgres.store import PostgresStore
from tests.campaigns.failover.store_load import Target
from tests.store.conformance.common import RETRIES, history, respond, say
from tests.support.inside_postgres import fronts_of
from tests.support.postgres import PostgresServer
from tests.unit.samples import AGENT, put, session

STORES: Final = 2
SESSIONS: Final = 4000
"""So many that no session has many dead rows of its own, which each look at it would read."""
SENDERS: Final = 32
CLAIMED: Final = 20
MOST_WAITING: Final = 400
"""How many messages wait at most: senders wait for the queue, not the queue for them."""
LEASE_MS: Final = 600_000
MOST_PAGES: Final = 500
"""How many pages a claim of 20 deliveries may read, at most: 20 sessions, deliveries, and the way to them."""
GROWTH: Final = 3.0
"""How much more than at the start a claim may read in the end."""
_FAR_MS: Final = 2**53


@dataclass(frozen=True)
class Interval:
    """What was measured in a part of the campaign. `pages`: read by one claim; `all_pages`: by one that
    begins at the very start, as it does every few seconds.
    """

    until_s: float
    delivered: int
    median_ms: float
    slowest_ms: float
    pages: int
    claim_ms: float
    all_pages: int
    all_ms: float
    dead_rows: int

    def __str__(self) -> str:
        return (
            f"{self.until_s:6.1f} s: {self.delivered:6} delivered, a claim with its commit "
            f"{self.median_ms:6.1f} ms in the median, {self.slowest_ms:7.1f} ms at most; by itself "
            f"{self.claim_ms:5.2f} ms, {self.pages:5} pages, from the start {self.all_ms:6.2f} ms, "
            f"{self.all_pages} pages; dead rows {self.dead_rows}"
        )


@dataclass
class QueueReport:
    """What the campaign came to."""

    intervals: list[Interval] = field(default_factory=list)
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    gaps: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not (self.lost or self.doubled or self.gaps or self.problems) and not self.has_grown

    @property
    def pages(self) -> tuple[float, float]:
        """What a claim reads in the first third and in the last, in the median."""
        third = -(-len(self.intervals) // 3)
        first, last = self.intervals[:third], self.intervals[-third:]
        return statistics.median(one.pages for one in first), statistics.median(one.pages for one in last)

    @property
    def has_grown(self) -> bool:
        """Whether a claim reads more and more."""
        first, last = self.pages
        return last > max(MOST_PAGES, GROWTH * first)

    def __str__(self) -> str:
        first, last = self.pages
        grown = ": it grows" if self.has_grown else ""
        return "\n".join(
            [
                f"acknowledged {self.sent}, lost {self.lost}, doubled {self.doubled}, gaps {self.gaps}",
                f"a claim read {first:g} pages in the first third, {last:g} in the last{grown}",
                *self.problems,
            ]
        )


class _Queue:
    """Senders, and servers that claim, answer, and claim again."""

    def __init__(self, stores: list[PostgresStore], many: list[Session]) -> None:
        self.sent: dict[str, list[str]] = {one.id: [] for one in many}
        self.claims_s: list[float] = []
        self.delivered = 0
        self.is_over = False
        self._stores = stores
        self._many = many

    async def run(self) -> None:
        """Goes on until it is over and everything is answered."""
        senders = [self._send(number) for number in range(SENDERS)]
        await asyncio.gather(*senders, *map(self._serve, self._stores))

    def _waiting(self) -> int:
        return sum(map(len, self.sent.values())) - self.delivered

    async def _send(self, number: int) -> None:
        store, mine = self._stores[number % STORES], self._many[number::SENDERS]
        while not self.is_over:
            for one in mine:
                while self._waiting() >= MOST_WAITING:  # noqa: ASYNC110 - two conditions at a time
                    await asyncio.sleep(0.001)
                content = uuid.uuid4().hex
                await store.apply(one.id, say(content), scope=EVERYTHING)
                self.sent[one.id].append(content)

    async def _serve(self, store: PostgresStore) -> None:
        rule = partial(lease, lease_ms=LEASE_MS, policy=RETRIES)
        while not self.is_over or self._waiting() > 0:
            begun_s = time.monotonic()
            found = await store.lease_due(AGENT, _FAR_MS, CLAIMED, rule=rule)
            self.claims_s.append(time.monotonic() - begun_s)
            await asyncio.gather(
                *(
                    store.apply_delivery(
                        one.session.id, one.delivery.sequence, respond("answer"), scope=EVERYTHING
                    )
                    for one in found
                )
            )
            self.delivered += len(found)
            if not found:
                await asyncio.sleep(0.002)


async def hold_vacuum_up(
    server: PostgresServer,
    target: Target,
    minutes: float,
    intervals: int = 10,
    *,
    sessions: int = SESSIONS,
) -> QueueReport:
    """Has messages sent, claimed and answered for so long; prints what a claim costs meanwhile."""
    report = QueueReport()
    server.execute("DELETE FROM test_clock", target.url.rsplit("/", 1)[1])
    stores = [await PostgresStore.open(Place(target.url)) for _ in range(STORES)]
    many = [session(time.time_ns() // 1_000_000) for _ in range(sessions)]
    await asyncio.gather(*(put(stores[0], one) for one in many))
    queue = _Queue(stores, many)
    with psycopg.connect(target.url) as outsider:
        # From here on no row that dies is removed.
        outsider.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        outsider.execute("SELECT count(*) FROM sessions")
        running = asyncio.create_task(queue.run())
        begun_s = time.monotonic()
        try:
            for number in range(1, intervals + 1):
                end_s = begun_s + minutes * 60 * number / intervals
                await asyncio.wait([running], timeout=end_s - time.monotonic())
                if running.done():
                    break
                report.intervals.append(
                    await asyncio.to_thread(_measure, queue, stores[0], target.url, begun_s)
                )
                print(report.intervals[-1], flush=True)
        finally:
            queue.is_over = True
            await running
        outsider.rollback()
    await _judge(stores[0], many, queue, report)
    for store in stores:
        await store.close()
    with Place(target.url).connect_now("check") as link:
        report.problems = list(problems(link))
    return report


def _measure(queue: _Queue, store: PostgresStore, url: str, begun_s: float) -> Interval:
    claims_s, queue.claims_s = queue.claims_s, []
    with psycopg.connect(url) as link:
        pages, claim_ms = _explain(link, fronts_of(store)[AGENT].begins_ms)
        all_pages, all_ms = _explain(link, 1)
        ((dead_rows,),) = link.execute(
            "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'deliveries'"
        ).fetchall()
    return Interval(
        until_s=time.monotonic() - begun_s,
        delivered=queue.delivered,
        median_ms=statistics.median(claims_s or [0]) * 1000,
        slowest_ms=max(claims_s, default=0) * 1000,
        pages=pages,
        claim_ms=claim_ms,
        all_pages=all_pages,
        all_ms=all_ms,
        dead_rows=dead_rows,
    )


def _explain(link: "psycopg.Connection[Any]", from_ms: int) -> tuple[int, float]:
    """How many pages a claim reads, and how long it takes, in ms."""
    values = {"agent": AGENT, "held": [], "from": from_ms, "due": _FAR_MS, "rows": CLAIMED}
    explained = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + STATEMENTS["claim"]
    ((told,),) = link.execute(explained.encode(), values).fetchall()
    link.rollback()
    plan = told[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], told[0]["Execution Time"]


async def _judge(store: PostgresStore, many: list[Session], queue: _Queue, report: QueueReport) -> None:
    """Each message is there once, and has one reply."""
    logs = await asyncio.gather(*(history(store, one) for one in many))
    for one, log in zip(many, logs, strict=True):
        report.gaps += [entry.sequence for entry in log] != list(range(1, len(log) + 1))
        replies = Counter(entry.answers for entry in log if entry.answers)
        asked = [entry for entry in log if not entry.answers]
        contents = Counter(entry.message.content for entry in asked if entry.message)
        report.sent += len(queue.sent[one.id])
        report.lost += sum(content not in contents for content in queue.sent[one.id])
        report.lost += sum(entry.sequence not in replies for entry in asked)
        report.doubled += sum(copies > 1 for copies in (*contents.values(), *replies.values()))
