"""Connections cut in every phase of a group.

A rule of the proxy follows each connection: it knows which statement a name on the wire stands for, and so
what the bytes that pass are of.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Final

import psycopg

from tests.campaigns.failover.store_load import Load, Target, endure
from tests.campaigns.failover.tally import Tally
from tests.support.cutting_proxy import CuttingProxy, Rule, Verdict


class Phase(Enum):
    """Where in a group a connection is cut."""

    BEFORE = "before anything arrives"
    LOCKING = "while it locks and loads"
    BETWEEN = "what it loaded is on its way"
    WRITING = "what it writes does not arrive"
    HALF = "half of what it writes arrives"
    COMMITTING = "while it commits"
    ANSWER = "the answer to COMMIT is on its way"
    SETTLING = "while doubt is settled"
    ELSEWHERE = "reads and announcements"


IN_A_GROUP: Final = [Phase.BEFORE, Phase.LOCKING, Phase.BETWEEN, Phase.WRITING, Phase.HALF, Phase.COMMITTING]
"""Those that each group goes through, and whose turn comes by chance; ANSWER besides."""

_PARSE: Final = re.compile(rb"P.{4}(_pg3_[0-9]+)\0(BEGIN|COMMIT|UPDATE sessions|INSERT INTO commits)", re.S)
_BIND: Final = re.compile(rb"B.{4}[^\0]*\0(_pg3_[0-9]+)\0", re.S)
_WORDS: Final = (b"BEGIN", b"COMMIT", b"UPDATE sessions", b"INSERT INTO commits")
_HELD_SECONDS: Final = 0.03
_HELD_SESSIONS: Final = 5


class Cutter:
    """Chooses which phase is next and cuts there, until there were so many cuts."""

    def __init__(self, cuts: int, seed: int, load: Load) -> None:
        self._left = cuts
        self._load = load
        self._choose = random.Random(seed)
        self._next = self._choose_next()
        self.is_done = asyncio.Event()

    def _choose_next(self) -> Phase:
        return self._choose.choice([*IN_A_GROUP, Phase.ANSWER, Phase.ELSEWHERE])

    def wants(self, phase: Phase) -> bool:
        """Whether a connection in this phase is to be cut; it counts as cut then."""
        # Only a cut leads to doubt, so its turn does not come by itself.
        chance = 0.1 if phase is Phase.SETTLING else 0.3 * (phase is self._next)
        if self._left <= 0 or self._choose.random() >= chance:
            return False
        self._left -= 1
        self._load.tally.troubles[phase.value] += 1
        self._load.begin_pause()
        self._next = self._choose_next()
        if self._left == 0:
            self.is_done.set()
        return True

    def choose(self, ways: tuple[Verdict, ...]) -> Verdict:
        return self._choose.choice(ways)

    def rule(self) -> Rule:
        """The rule of one connection."""
        return _Followed(self).judge


class _Followed:
    """What has passed on one connection."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._names: dict[bytes, bytes] = {}
        # What the client has sent last, as far as it is of a group.
        self._sent: Phase | None = None

    def judge(self, data: bytes, is_clients: bool) -> Verdict:
        return self._judge_sent(data) if is_clients else self._judge_answer()

    def _judge_sent(self, data: bytes) -> Verdict:
        words = self._words(data)
        if b"INSERT INTO commits" in words and b"BEGIN" in words:
            self._sent = Phase.SETTLING
            return self._cut(Phase.SETTLING, Verdict.CUT, Verdict.PASS_AND_CUT)
        if b"BEGIN" in words:
            self._sent = Phase.LOCKING
            if self._cutter.wants(Phase.BEFORE):
                return Verdict.CUT
            return self._cut(Phase.LOCKING, Verdict.PASS_AND_CUT)
        if b"COMMIT" in words:
            self._sent = Phase.COMMITTING
            if self._cutter.wants(Phase.WRITING):
                return Verdict.CUT
            if self._cutter.wants(Phase.HALF):
                return Verdict.PASS_HALF_AND_CUT
            return self._cut(Phase.COMMITTING, Verdict.PASS_AND_CUT)
        self._sent = None
        return self._cut(Phase.ELSEWHERE, Verdict.CUT, Verdict.PASS_AND_CUT)

    def _judge_answer(self) -> Verdict:
        sent, self._sent = self._sent, None
        match sent:
            case Phase.LOCKING:
                return self._cut(Phase.BETWEEN, Verdict.CUT, Verdict.PASS_AND_CUT)
            case Phase.COMMITTING:
                return self._cut(Phase.ANSWER, Verdict.CUT, Verdict.PASS_HALF_AND_CUT)
            case Phase.SETTLING:
                return self._cut(Phase.SETTLING, Verdict.CUT)
        return Verdict.PASS

    def _cut(self, phase: Phase, *ways: Verdict) -> Verdict:
        return self._cutter.choose(ways) if self._cutter.wants(phase) else Verdict.PASS

    def _words(self, data: bytes) -> set[bytes]:
        """Which of the statements that tell phases apart these bytes are of."""
        found = {word for word in _WORDS if word in data}
        for name, word in _PARSE.findall(data):
            self._names[name] = word
        return found | {self._names[name] for name in _BIND.findall(data) if name in self._names}


async def cut_in_every_phase(target: Target, cuts: int, seed: int) -> Tally:
    """Cuts so many connections. Somebody else holds some sessions now and then, so that groups wait."""

    async def trouble(load: Load, proxies: list[CuttingProxy]) -> None:
        cutter = Cutter(cuts, seed, load)
        async with _sessions_held(target.url, [one.id for one in load.many], seed):
            for proxy in proxies:
                proxy.make_rule = cutter.rule
                proxy.cut_all()
            await cutter.is_done.wait()
        await load.until_acknowledged()

    return await endure(target, trouble, seed)


@asynccontextmanager
async def _sessions_held(url: str, ids: list[str], seed: int) -> AsyncIterator[None]:
    async def hold() -> None:
        choose = random.Random(f"{seed} held")
        async with await psycopg.AsyncConnection.connect(url) as link:
            while True:
                async with link.transaction():
                    held = sorted(choose.sample(ids, _HELD_SESSIONS))
                    await link.execute(
                        "SELECT 1 FROM sessions WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE", [held]
                    )
                    await asyncio.sleep(_HELD_SECONDS)
                await asyncio.sleep(choose.random() * _HELD_SECONDS)

    holding = asyncio.create_task(hold())
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.wait([holding])
        if not holding.cancelled():
            holding.result()
