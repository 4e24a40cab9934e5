"""Sessions that live for some seconds: each is warned once and expires once, at its time, whichever server is
the first to do it.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from tests.campaigns.traffic.callers import Traffic
from tests.campaigns.traffic.calling import now_ms
from tests.campaigns.traffic.clients import PAUSE_SECONDS, AgainError
from tests.campaigns.traffic.model import Findings

MINUTE_MS: Final = 60_000
# The least that a client may ask for is a minute.
_SHORTEN: Final = (
    "UPDATE sessions SET warning_threshold_minutes = %(gap_ms)s / 60000.0, due_at_ms = now_ms + %(warn_ms)s, "
    "expires_at_ms = now_ms + %(warn_ms)s + %(gap_ms)s "
    "FROM (SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms) AS clock "
    "WHERE id = %(id)s::uuid RETURNING expires_at_ms"
)
_LOG: Final = (
    "SELECT session_id::text, kind, at_ms FROM log WHERE session_id = ANY(%s::uuid[]) ORDER BY 1, sequence"
)
_MARKS: Final = "SELECT metadata, count(*) FROM sessions WHERE metadata LIKE '%\"mortal-%' GROUP BY metadata"
WARNED, EXPIRED = "warning", "expiry"
_STORED_KINDS: Final = {"expiration_warning": WARNED}


@dataclass
class Mortal:
    """A session that ends by itself. `told`: what its watcher was told, as sequence, kind, and when by the
    machine's clock, which is the database's.
    """

    session_id: str
    warned_ms: int
    expires_ms: int
    told: list[tuple[int, str, int]] = field(default_factory=list)

    def due_ms(self, kind: str) -> int:
        return self.warned_ms if kind == WARNED else self.expires_ms


@dataclass
class Lateness:
    """How late warnings and expiries were told, in ms."""

    of: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def __str__(self) -> str:
        return ", ".join(
            f"{len(found)} of {kind}, told {min(found)} to {max(found)} ms after their time"
            for kind, found in sorted(self.of.items())
            if found
        )


class Mortals:
    """Makes such sessions, watches them, and judges in the end. `lateness` is known then."""

    def __init__(self, url: str, seed: int, *, warned_after_s: tuple[float, float], gap_s: float) -> None:
        """`gap_s`: from the warning to the expiry."""
        self.all: list[Mortal] = []
        self.lateness = Lateness()
        self._url = url
        self._choose = random.Random(f"{seed}-mortals")
        self._warned_after_s = warned_after_s
        self._gap_ms = round(gap_s * 1000)
        self._watching: list[asyncio.Task[None]] = []

    async def make(self, traffic: Traffic, client: Any, watcher: Any, mark: str, agent_id: str) -> Mortal:
        """Makes one by a client: it says something, and is watched until it has expired."""
        session_id = await traffic.insist(client, lambda: client.create(mark, mark, agent_id=agent_id))
        await traffic.insist(client, lambda: client.send(session_id, "hello-1", "hello-1"))
        expires_ms = await self._shorten(session_id)
        mortal = Mortal(session_id, expires_ms - self._gap_ms, expires_ms)
        self.all.append(mortal)
        self._watching.append(asyncio.create_task(traffic.reported(follow(watcher, mortal))))
        return mortal

    async def go_on(self, traffic: Traffic, agents: Sequence[str], stop: asyncio.Event) -> None:
        """Makes one after the other, until it is told to stop."""
        while not stop.is_set():
            number = len(self.all)
            await self.make(
                traffic,
                traffic.client(("gRPC", "REST")[number % 2]),
                traffic.client("gRPC"),
                f"mortal-{number}",
                agents[number % len(agents)],
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._choose.uniform(0.2, 1.5))

    async def finish(self, seconds: float) -> Findings:
        """Waits until all have expired, this long beyond their time; compares them with the store."""
        last_ms = max((mortal.expires_ms for mortal in self.all), default=now_ms())
        if self._watching:
            patience_s = max(0, last_ms - now_ms()) / 1000 + seconds
            await asyncio.wait(self._watching, timeout=patience_s)
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        logs: dict[str, list[tuple[str, int]]] = defaultdict(list)
        found = Findings()
        async with await psycopg.AsyncConnection.connect(self._url) as link:
            rows = await link.execute(_LOG, [[mortal.session_id for mortal in self.all]])
            for session_id, kind, at_ms in await rows.fetchall():
                logs[session_id].append((kind, at_ms))
            marks = await (await link.execute(_MARKS)).fetchall()
        found.doubled += [f"{count} sessions of {mark}" for mark, count in marks if count > 1]
        for mortal in self.all:
            judge(mortal, logs[mortal.session_id], found)
            for _, kind, at_ms in mortal.told:
                if kind in (WARNED, EXPIRED):
                    self.lateness.of[kind].append(at_ms - mortal.due_ms(kind))
        return found

    async def _shorten(self, session_id: str) -> int:
        warn_ms = round(self._choose.uniform(*self._warned_after_s) * 1000)
        async with await psycopg.AsyncConnection.connect(self._url) as link:
            done = await link.execute(
                _SHORTEN, {"id": session_id, "warn_ms": warn_ms, "gap_ms": self._gap_ms}
            )
            ((expires_ms,),) = await done.fetchall()
        return int(expires_ms)


async def follow(client: Any, mortal: Mortal) -> None:
    """Watches a session to its end, over the lives of the servers."""
    while not mortal.told or mortal.told[-1][1] != EXPIRED:
        after = mortal.told[-1][0] if mortal.told else 0
        with contextlib.suppress(AgainError):
            async with contextlib.aclosing(client.watch(mortal.session_id, after)) as events:
                async for entry in events:
                    told_ms = time.time_ns() // 1_000_000
                    kind = entry.WhichOneof("event")
                    mortal.told.append((entry.sequence, _STORED_KINDS.get(kind, kind), told_ms))
        await asyncio.sleep(PAUSE_SECONDS)


def judge(mortal: Mortal, log: list[tuple[str, int]], found: Findings) -> None:
    """Compares a session with its log (kinds and times) and with what was told of it."""
    name, kinds = mortal.session_id, Counter(kind for kind, _ in log)
    for kind in (WARNED, EXPIRED):
        if kinds[kind] > 1:
            found.doubled.append(f"{kinds[kind]} entries {kind} of {name}")
        elif not kinds[kind]:
            found.lost.append(f"{kind} of {name}")
    if log and log[-1][0] != EXPIRED:
        found.disordered.append(f"{name} goes on behind its expiry: {log}")
    if kinds["message"] > 2:
        found.doubled.append(f"{kinds['message']} messages of {name}")
    if [kind for _, kind, _ in mortal.told] != [kind for kind, _ in log] or [
        sequence for sequence, _, _ in mortal.told
    ] != list(range(1, len(log) + 1)):
        found.gaps.append(f"the watcher of {name} was told {mortal.told} of {log}")
    stored = [(kind, at_ms, "stored") for kind, at_ms in log]
    told = [(kind, at_ms, "told") for _, kind, at_ms in mortal.told]
    found.other += [
        f"{kind} of {name} was {how} {mortal.due_ms(kind) - at_ms} ms early"
        for kind, at_ms, how in (*stored, *told)
        if kind in (WARNED, EXPIRED) and at_ms < mortal.due_ms(kind)
    ]
