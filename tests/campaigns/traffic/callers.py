"""Mixed load for the campaigns: callers of all three kinds that repeat their calls until they are
acknowledged, and watchers that resume. What was acknowledged is kept in a model, with which the store and
what the watchers saw are compared.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tests.campaigns.traffic.calling import Calling
from tests.campaigns.traffic.check import Check
from tests.campaigns.traffic.clients import PAUSE_SECONDS
from tests.campaigns.traffic.grpc_client import GrpcClient
from tests.campaigns.traffic.model import Findings
from tests.campaigns.traffic.rest_client import RestClient
from tests.campaigns.traffic.roaming import Roaming
from tests.campaigns.traffic.socket_client import SocketClient
from tests.campaigns.traffic.watcher import Watcher
from tests.support.service import ECHO


class Traffic(Calling):
    """Callers and watchers of every kind against one service, or several of one store, over their lives."""

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
        """
        super().__init__(seed, pace_seconds)
        self.watchers: list[Watcher] = []
        self._grpc, self._rest = grpc_addresses, rest_addresses
        self._agents = agents
        self._senders = senders
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
                # Those that stay at a server that is away ask for it all the time.
                pause_s = PAUSE_SECONDS if len(self._grpc) == 1 or isinstance(client, Roaming) else 0.3
                self.watchers.append(Watcher(client, session_id, pause_s))
        for kind, keeper, beater in zip(("gRPC", "REST"), kept, beaten, strict=True):
            callers += [
                self.send_on(self.client(kind), chats[0], f"{kind}-wait", wait=True),
                self.create_on(self.client(kind), f"{kind}-new"),
                self.keep(self.client(kind), keeper),
                self.beat_on(self.client(kind), beater),
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

    async def check(self, ended_ms: dict[str, int] | None = None) -> Findings:
        """Compares model, store and watchers, once the callers have stopped; the service runs.

        `ended_ms`: when phases ended.
        """
        return await Check(self.model, self.reader, self.watchers, self.dropped).run(ended_ms or {})
