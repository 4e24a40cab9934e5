"""What single callers do: they repeat their calls until they are acknowledged, and tell the model."""

import asyncio
import itertools
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tests.campaigns.traffic.clients import PAUSE_SECONDS, AgainError, Client, RefusedError, Sent
from tests.campaigns.traffic.model import Dropped, Model
from tests.support.service import ECHO

T = TypeVar("T")

REPEATED = 0.05
"""The share of acknowledged requests that are made once more, and that are made twice at a time."""


class Calling:
    """Callers of every kind, over the lives of the service.

    `attempts` counts how attempts ended, by phase and client. `phase_at`: the phases of those addresses that
    have one of their own. `on_answer` is told of each acknowledgement: the client, and when the attempt
    began. `reader` is a client of gRPC that all share.
    """

    reader: Any

    def __init__(self, seed: int, pace_seconds: float) -> None:
        """`pace_seconds`: how long they rest between two calls, in the mean."""
        self.model = Model()
        self.phase = "start"
        self.phase_at: dict[str, str] = {}
        self.on_answer: Callable[[Any, float], None] = lambda client, begun_s: None
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.done: Counter[str] = Counter()
        # Messages whose connection was dropped, by the phase in which it was.
        self.dropped: dict[str, dict[tuple[str, str], Dropped]] = defaultdict(dict)
        self._seed = seed
        self._pace_s = pace_seconds
        self._stopping = False

    async def reported(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - a caller or a watcher that fails is a finding
            self.model.findings.other.append(f"{type(error).__name__}: {error}")

    async def insist(
        self,
        client: Client,
        call: Callable[[], Awaitable[T]],
        on_again: Callable[[AgainError], None] | None = None,
    ) -> T:
        """Makes a call until it is acknowledged."""
        pause = random.Random(self._seed)
        while True:
            phase, begun_s = self.phase, time.monotonic()
            try:
                answer = await call()
            except AgainError as again:
                # Where the phase has changed meanwhile, it counts for the one in which it ended.
                self.attempts[self._phase_of(again), client.kind, again.how] += 1
                if on_again:
                    on_again(again)
                await asyncio.sleep(pause.uniform(0.2, 1) * PAUSE_SECONDS)
            else:
                self.attempts[phase, client.kind, "ok"] += 1
                self.done[client.kind] += 1
                self.on_answer(client, begun_s)
                return answer

    def _phase_of(self, again: AgainError) -> str:
        return self.phase_at.get(again.address, self.phase)

    async def create(self, mark: str, client: Any = None, agent_id: str = ECHO) -> str:
        client = client or self.reader
        session_id = await self.insist(client, lambda: client.create(mark, mark, agent_id=agent_id))
        self.model.created[mark] = session_id
        return session_id

    async def send_on(
        self, client: Client, session_id: str, name: str, *, wait: bool = False, count: int | None = None
    ) -> None:
        """Sends messages into a session until it is told to stop, or so many."""
        choose = random.Random(f"{self._seed}-{name}")
        for n in itertools.count() if count is None else range(count):
            if self._stopping:
                return
            content = f"{name}-{n}"
            twice = choose.random() < REPEATED
            calls = [self._send(client, session_id, content, wait=wait)]
            if twice:
                calls.append(self._send(self.reader, session_id, content))
            answers = await asyncio.gather(*calls)
            if twice or answers[0].replayed is False:
                # It was not stored by the attempt whose connection was dropped, or nobody knows by which.
                for dropped in self.dropped.values():
                    dropped.pop((session_id, content), None)
            self.model.sent[session_id][content] = answers[0]
            if choose.random() < REPEATED:
                again = await self.insist(
                    client, lambda content=content: client.send(session_id, content, content, wait=wait)
                )
                if again.replayed is False:
                    self.model.findings.doubled.append(f"{content}: answered before, and not replayed")
                answers.append(again)
            if (
                len({answer.message_id for answer in answers}) > 1
                or len({answer.reply_id for answer in answers} - {None}) > 1
            ):
                self.model.findings.doubled.append(f"{content}: its answers differ: {answers}")
            await self._pause(choose)

    async def _pause(self, choose: random.Random) -> None:
        if self._pace_s:
            await asyncio.sleep(choose.uniform(0, 2 * self._pace_s))

    async def _send(self, client: Client, session_id: str, content: str, *, wait: bool = False) -> Sent:
        told, first_drop = False, ""
        begun_ms = 0
        ends: deque[str] = deque(maxlen=5)

        async def attempt() -> Sent:
            nonlocal begun_ms
            begun_ms = now_ms()
            return await client.send(session_id, content, content, wait=wait)

        def note(again: AgainError) -> None:
            nonlocal told, first_drop
            phase = self._phase_of(again)
            where = f" at {again.address}" if again.address else ""
            ends.append(f"{now_ms()} {phase}{where} {again}")
            # Whoever waits in vain for a reply hears that the message is kept.
            told = told or again.how == "AGENT_REPLY_TIMEOUT"
            if again.how in ("dropped", "cancelled", "late"):
                # Where there was one in an earlier phase, it may have been that attempt which stored the
                # message.
                first_drop = first_drop or phase
                if again.how != "late" and first_drop == phase and not told:
                    dropped_ms = now_ms() if again.address else math.inf
                    self.dropped[phase][session_id, content] = Dropped(begun_ms, list(ends), dropped_ms)

        return await self.insist(client, attempt, note)

    async def create_on(self, client: Any, name: str) -> None:
        """Creates sessions, and deletes two of three."""
        choose = random.Random(f"{self._seed}-{name}")
        for n in itertools.count():
            if self._stopping:
                return
            await self._pause(choose)
            session_id = await self.create(f"{name}-{n}", client)
            if n % 3:
                tried = 0

                async def delete(session_id: str = session_id) -> None:
                    nonlocal tried
                    tried += 1
                    try:
                        await client.delete(session_id)
                    except RefusedError as error:
                        # Done by an attempt that had no answer.
                        if error.reason != "SESSION_NOT_FOUND" or tried == 1:
                            raise

                await self.insist(client, delete)
                self.model.deleted.add(session_id)

    async def keep(self, client: Any, session_id: str) -> None:
        """Renews and changes a session of its own, each step under the tag of the state before, so that it is
        done once.
        """
        session = await self.insist(self.reader, lambda: self.reader.get(session_id))
        sequence, etag = session.last_sequence, session.etag
        choose = random.Random(f"{self._seed}-{client.kind}-keeper")
        for n in itertools.count():
            if self._stopping:
                return
            await self._pause(choose)
            kind = "timeout_change" if n % 2 else "renewal"
            tried = 0

            async def step(etag: str = etag, kind: str = kind, n: int = n) -> tuple[int, str] | None:
                nonlocal tried
                tried += 1
                try:
                    return await (
                        client.renew(session_id, etag)
                        if kind == "renewal"
                        else client.patch(session_id, etag, 30 + n % 100)
                    )
                except RefusedError as error:
                    if error.reason != "ETAG_MISMATCH" or tried == 1:
                        raise
                    return None

            state = await self.insist(client, step)
            if state is None:
                session = await self.insist(self.reader, lambda: self.reader.get(session_id))
                state = session.last_sequence, session.etag
            if state[0] != sequence + 1:
                self.model.findings.doubled.append(
                    f"{kind} of {session_id}: the log went from {sequence} to {state[0]}"
                )
            sequence, etag = state
            self.model.kept[session_id].append((sequence, kind))

    async def beat_on(self, client: Any, session_id: str) -> None:
        """Heartbeats, which may be done more often than they are acknowledged."""

        async def beat() -> None:
            self.model.tries[session_id] += 1
            await client.heartbeat(session_id)

        choose = random.Random(f"{self._seed}-{client.kind}-beater")
        while not self._stopping:
            await self._pause(choose)
            await self.insist(client, beat)
            self.model.beats[session_id] += 1


def now_ms() -> int:
    """The machine's time, which is the service's."""
    return time.time_ns() // 1_000_000
