"""A dispatcher in this process, over a store that can fail, with agents that do what a test says."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from server.agents.connector import UNBOUNDED, Emit, Work
from server.agents.echo import Echo
from server.clock import TestClock
from server.delivery.dispatcher import Dispatcher
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, RetryPolicy
from server.domain.errors import UnavailableError
from server.domain.log import Chunk, Entry, Piece, ReplyFailure
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.sessions import Outcome, Session, fall_due, send_message
from server.lifecycle.watches import Watches
from server.store.sqlite.store import SqliteStore
from tests.support.realtime.echo_dispatcher import delivered
from tests.unit.samples import AGENT, T0, put, session

OTHER = "00000000-0000-4000-8000-0000000000bb"
LONG_S = 3600.0
RETRIES = RetryPolicy(5, 10, 100)

Script = Callable[[Work, Emit], Awaitable[Reply]]


async def echo(work: Work, emit: Emit) -> Reply:
    return Reply(Draft(work.message.content))


async def hang(work: Work, emit: Emit) -> Reply:
    return await asyncio.Future()


class Scripted:
    """An agent that replies as its script says; it keeps what it was asked, what was cancelled, and how many
    it had at once.
    """

    is_inside = False

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.asked: list[Work] = []
        self.cancelled: list[str] = []
        self.in_hand: Counter[str] = Counter()
        self.most = 0

    @property
    def contents(self) -> list[str]:
        return [work.message.content for work in self.asked]

    def check(self, agent: Agent) -> None: ...

    async def check_secret(self, agent: Agent) -> None: ...

    def capacity(self, agent_id: str) -> int:
        return UNBOUNDED

    async def check_ready(self, agent: Agent) -> None: ...

    @asynccontextmanager
    async def slot(self, agent: Agent) -> AsyncIterator["Scripted"]:
        yield self

    def history_messages(self, agent: Agent) -> int:
        return 0

    async def reply(self, work: Work, emit: Emit) -> Reply:
        self.asked.append(work)
        self.in_hand[work.session.id] += 1
        assert self.in_hand[work.session.id] == 1, "two deliveries of a session are under way"
        self.most = max(self.most, self.in_hand.total())
        try:
            return await self.script(work, emit)
        except asyncio.CancelledError:
            self.cancelled.append(work.message.content)
            raise
        finally:
            self.in_hand[work.session.id] -= 1


class FlakyStore(SqliteStore):
    """A store whose methods named in `down` cannot be used, nor the deliveries of sessions in `down_for`.

    `after_lease` is run once a lease is stored and before anyone knows.
    """

    down: frozenset[str] = frozenset()
    refused = 0
    down_for: AbstractSet[str] = frozenset()
    after_lease: Callable[[Delivery], Awaitable[object]] | None = None

    def _used(self, method: str) -> None:
        if method in self.down:
            self.refused += 1
            raise UnavailableError("The store is away")

    async def lease_due(self, *args: Any) -> Any:
        self._used("lease_due")
        return await super().lease_due(*args)

    async def get_agent(self, *args: Any, **named: Any) -> Any:
        self._used("get_agent")
        return await super().get_agent(*args, **named)

    async def apply_delivery(self, session_id: str, sequence: int, rule: Any, **named: Any) -> Outcome:
        name = rule.func.__name__
        self._used(name)
        if session_id in self.down_for:
            raise UnavailableError("The store is away")
        outcome = await super().apply_delivery(session_id, sequence, rule, **named)
        if name == "lease" and self.after_lease:
            delivery = outcome.delivery
            await self.after_lease(delivery)
        return outcome


class World:
    """A store with two agents, and a dispatcher, which can be restarted."""

    def __init__(self, path: Path, agent: Scripted) -> None:
        self.path = path
        self.agent = agent
        self.clock = TestClock()
        self.clock.set_ms(T0)
        self.pieces: list[Piece] = []
        self.connectors: dict[AgentKind, Any] = {
            AgentKind.ECHO: Echo(),
            AgentKind.WEBHOOK: agent,
            AgentKind.STREAM: agent,
        }
        self.settings: dict[str, Any] = {"policy": RETRIES, "lease_seconds": LONG_S, "concurrency": 100}

    async def open(self, **settings: Any) -> None:
        self.settings |= settings
        self.store = await FlakyStore.open(self.path, self.clock)
        await self.store.seed_agent(Agent(AGENT, "scripted", AgentKind.STREAM, T0, T0))
        await self.store.seed_agent(Agent(OTHER, "echo", AgentKind.ECHO, T0, T0))
        self.signals = Watches()
        self.store.add_listener(self.signals.on_commit)
        self.dispatcher = Dispatcher(self.store, self.clock, self.connectors, self._tell, **self.settings)
        self.store.add_listener(self.dispatcher.on_commit)
        await self.dispatcher.start()

    def _tell(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.signals.piece(piece)

    async def close(self) -> None:
        """Ends as a service does whose grace is over at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self.dispatcher.stop()
        await self.dispatcher.abandon()
        await self.store.close()

    async def session(self, agent_id: str = AGENT) -> Session:
        new = session(T0, agent_id=agent_id)
        await put(self.store, new)
        return new

    @property
    def chunks(self) -> list[Chunk]:
        return [piece for piece in self.pieces if isinstance(piece, Chunk)]

    async def send(self, one: Session, *contents: str) -> None:
        await asyncio.gather(
            *(self.store.apply(one.id, say(content), scope=EVERYTHING) for content in contents)
        )

    async def delete(self, one: Session) -> None:
        await self.store.delete_session(one.id, scope=EVERYTHING)

    async def expire(self, one: Session) -> None:
        self.clock.set_ms(one.expires_at_ms + 1_000_000_000)
        await self.store.apply(one.id, lambda stored, now_ms: fall_due(stored, now_ms), scope=EVERYTHING)

    async def log(self, one: Session) -> list[Entry]:
        found: list[Entry] = []
        while page := await self.store.list_entries(
            one.id, after_sequence=len(found), limit=100, scope=EVERYTHING
        ):
            found += page
        return found

    async def exchanged(self, one: Session) -> list[tuple[str, str | None]]:
        """Once nothing is open: what the user said and what was replied, in the order of the replies; then
        what got no reply (None).
        """
        await delivered(self.store)
        messages = {entry.sequence: entry.message for entry in await self.log(one) if entry.message}
        answered = [
            (messages[m.answers].content, m.content)
            for m in messages.values()
            if isinstance(m, AgentMessage) and m.answers
        ]
        silent = {m.content for m in messages.values() if isinstance(m, UserMessage)} - {
            asked for asked, _ in answered
        }
        return [*answered, *((content, None) for content in sorted(silent))]

    async def failures(self, one: Session) -> list[tuple[int, str, int]]:
        """Of the failures in the log: the sequence of the message, the reason and the attempts."""
        await delivered(self.store)
        found = [entry.event for entry in await self.log(one) if isinstance(entry.event, ReplyFailure)]
        return [(e.message_sequence, e.reason, e.attempts) for e in found]


def say(content: str, message_id: str = "") -> Any:
    return partial(send_message, message_id=message_id or str(uuid.uuid4()), draft=Draft(content))
