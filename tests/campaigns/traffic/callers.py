"""Mixed load for the campaigns: callers of all three kinds that repeat their calls until they are
acknowledged, and watchers that resume. What was acknowledged is kept in a model, with which the store and
what the watchers saw are compared.
"""

import asyncio
import itertools
import math
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from tests.campaigns.traffic.check import Check
from tests.campaigns.traffic.clients import PAUSE_SECONDS, AgainError, Client, RefusedError, Sent
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.model import Dropped, Findings, Model
from tests.campaigns.traffic.rest_client import RestClient
from tests.campaigns.traffic.roaming import Roaming
from tests.campaigns.traffic.socket_client import SocketClient
from tests.campaigns.traffic.watcher import Watcher
from tests.support.service import ECHO

T = TypeVar("T")

REPEATED = 0.05
"""The share of acknowledged requests that are made once more, and that are made twice at a time."""


class Traffic:
    """Callers and watchers of every kind against one service, over its lives.

    `attempts` counts how attempts ended, by phase and client. `phase_at`: the phases of those addresses that
    have one of their own.
    """

    def __init__(
        self,
        grpc_addresses: Sequence[str],
        rest_addresses: Sequence[str],
        seed: int,
        *,
        senders: int = 6,
        agents: Sequence[str] = (ECHO,),
        pace_seconds: float = 0,
    ) -> None:
        """Of several addresses each caller takes one at random, and another where that does not answer.

        `senders`: how many callers of each kind send messages, at as many sessions, of these agents in turn.
        `pace_seconds`: how long they rest between two messages, in the mean.
        """
        self.model = Model()
        self.phase = "start"
        self.phase_at: dict[str, str] = {}
        self.on_answer: Callable[[Any, float], None] = lambda client, begun_s: None
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self.watchers: list[Watcher] = []
        # Messages whose connection was dropped, by the phase in which it was.
        self.dropped: dict[str, dict[tuple[str, str], Dropped]] = defaultdict(dict)
        self._grpc, self._rest = grpc_addresses, rest_addresses
        self._agents = agents
        self._pace_s = pace_seconds
        self._seed = seed
        self._senders = senders
        self._stopping = False
        self._callers: list[asyncio.Task[None]] = []
        self._following: list[asyncio.Task[None]] = []
        self._clients: list[Any] = []
        self.reader = self.client("gRPC")

    def client(self, kind: str, address: str = "") -> Any:
        """A client of an address; without one of all of them."""
        makers: dict[str, Callable[[str], Any]] = {
            "gRPC": GrpcClient,
            "REST": RestClient,
            "Socket.IO": SocketClient,
        }
        addresses = self._grpc if kind == "gRPC" else self._rest
        if address or len(addresses) == 1:
            client = makers[kind](address or addresses[0])
        else:
            seed = f"{self._seed}-{len(self._clients)}"
            client = Roaming(kind, makers[kind], addresses, random.Random(seed))
        self._clients.append(client)
        return client

    async def begin(self) -> None:
        """Creates the sessions and starts everything."""
        chats = [
            await self.create(f"chat-{n}", agent_id=self._agents[n % len(self._agents)])
            for n in range(self._senders)
        ]
        kept = [await self.create(f"kept-{n}") for n in range(2)]
        beaten = [await self.create(f"beaten-{n}") for n in range(2)]
        grpc_client = self.client("gRPC")
        callers: list[Awaitable[None]] = []
        for kind in ("gRPC", "REST", "Socket.IO"):
            for n in range(self._senders):
                is_shared = kind == "gRPC" and len(self._grpc) == 1
                client = grpc_client if is_shared else self.client(kind)
                callers.append(self.send_on(client, chats[n % len(chats)], f"{kind}-{n}"))
        for n, session_id in enumerate((*chats, *kept)):
            for client in self._watching(n, grpc_client):
                self.watchers.append(Watcher(client, session_id))
        for kind, keeper, beater in zip(("gRPC", "REST"), kept, beaten, strict=True):
            callers += [
                self.send_on(self.client(kind), chats[0], f"{kind}-wait", wait=True),
                self._creator(self.client(kind), f"{kind}-new"),
                self._keeper(self.client(kind), keeper),
                self._beater(self.client(kind), beater),
            ]
        self.start(callers)

    def start(self, callers: Sequence[Awaitable[None]]) -> None:
        """Starts callers, and the watchers that are new."""
        self._callers = [asyncio.create_task(self.reported(caller)) for caller in callers]
        self._following += [
            asyncio.create_task(self.reported(watcher.follow()))
            for watcher in self.watchers[len(self._following) :]
        ]

    def _watching(self, number: int, grpc_client: Any) -> list[Any]:
        """The clients that watch a session: of one service one of each kind. Of several one at each server,
        and of REST one that stays and one that does not, of each kind.
        """
        kinds = ("REST", "Socket.IO")
        if len(self._grpc) == 1:
            return [grpc_client, *map(self.client, kinds)]
        staying = [self.client(kind, self._rest[number % len(self._rest)]) for kind in kinds]
        return [
            *(self.client("gRPC", address) for address in self._grpc),
            *staying,
            *map(self.client, kinds),
        ]

    @property
    def clients(self) -> list[Any]:
        """All of them, those of the watchers, too."""
        return self._clients

    async def stop(self, seconds: float) -> None:
        """Lets every caller finish what it is at, which needs a running service.

        A caller that takes longer is a finding.
        """
        self._stopping = True
        await self.finish(seconds)

    async def finish(self, seconds: float) -> None:
        """Waits for the callers to end by themselves; one that takes longer is a finding."""
        _, left = await asyncio.wait(self._callers, timeout=seconds)
        if left:
            self.model.findings.other.append(f"{len(left)} callers have no answer after {seconds:g} s")

    async def close(self) -> None:
        """Ends the watchers and the connections."""
        for task in (*self._callers, *self._following):
            task.cancel()
        await asyncio.gather(*self._callers, *self._following, return_exceptions=True)
        for client in self._clients:
            await client.close()

    async def all_kinds(self, seconds: float) -> None:
        """Waits until a call of each kind of client has been acknowledged from now on. That it takes longer
        is a finding; after any finding nothing is waited for, because callers have given up.
        """
        before, give_up_s = Counter(self.done), time.monotonic() + seconds
        while not self.model.findings and any(
            self.done[kind] == before[kind] for kind in ("gRPC", "REST", "Socket.IO")
        ):
            if time.monotonic() > give_up_s:
                self.model.findings.other.append(f"{self.phase}: not everyone is served within {seconds:g} s")
            await asyncio.sleep(0.01)

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
            ends.append(f"{now_ms()} {phase} {again}")
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

    async def _creator(self, client: Any, name: str) -> None:
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

    async def _keeper(self, client: Any, session_id: str) -> None:
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

    async def _beater(self, client: Any, session_id: str) -> None:
        """Heartbeats, which may be done more often than they are acknowledged."""

        async def beat() -> None:
            self.model.tries[session_id] += 1
            await client.heartbeat(session_id)

        choose = random.Random(f"{self._seed}-{client.kind}-beater")
        while not self._stopping:
            await self._pause(choose)
            await self.insist(client, beat)
            self.model.beats[session_id] += 1

    async def check(self, ended_ms: dict[str, int] | None = None) -> Findings:
        """Compares model, store and watchers, once the callers have stopped; the service runs.

        `ended_ms`: when phases ended.
        """
        return await Check(self.model, self.reader, self.watchers, self.dropped).run(ended_ms or {})


def now_ms() -> int:
    """The machine's time, which is the service's."""
    return time.time_ns() // 1_000_000
