"""Gives deliveries to agents: one of a session at a time, in order; sessions do not wait for each other, nor
agents for one another.

Each agent with open deliveries has a pump (`pump`), and each delivery in hand a turn (`turn`). The store has
all others.
"""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from server.agents.connector import Connector
from server.clock import Clock
from server.delivery.attempt import Attempt
from server.delivery.pump import Pump
from server.delivery.turn import Means
from server.domain.access import Scope
from server.domain.agents import AgentKind
from server.domain.deliveries import RetryPolicy, parse_delivery_id
from server.domain.errors import STORE_TROUBLE
from server.domain.ids import new_id
from server.domain.log import Piece
from server.domain.messages import Reply, UserMessage
from server.domain.replies import answer
from server.domain.sessions import Outcome
from server.store.contract import Store
from server.store.hints import Hint
from server.store.values import Commit
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_TRACES, Traces

LOOK_SECONDS: Final = 5.0
"""How long a delivery waits at most that another server has stored and not announced."""

MOST_LOOKING: Final = 20
"""How many times as long as a look took it is until the next one."""

log = structlog.get_logger()


class Dispatcher:
    """See the module.

    To be started once the store has its listeners, and stopped before the store is closed.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        connectors: Mapping[AgentKind, Connector],
        on_piece: Callable[[Piece], None],
        *,
        policy: RetryPolicy,
        lease_seconds: float,
        concurrency: int,
        telemetry: Telemetry = OFF,
        traces: Traces = NO_TRACES,
        is_heard: Callable[[str], bool] = lambda session_id: True,
    ) -> None:
        """`on_piece` is told the first piece of every reply, further ones of the sessions of which somebody
        hears by `is_heard`, and where pieces are void.

        `concurrency` bounds the deliveries of one agent that are in hand.
        """
        self._store = store
        self._means = Means(
            store,
            clock,
            connectors,
            on_piece,
            is_heard,
            policy,
            lease_seconds,
            concurrency,
            telemetry,
            traces,
        )
        self.statuses = self._means.statuses
        self._pumps: dict[str, Pump] = {}
        self._must_look = asyncio.Event()

    async def start(self) -> None:
        """Takes up what an earlier run has left open. Its leases are void: nobody is connected yet."""
        for agent_id, count in (await self._store.count_open()).items():
            self.statuses.count_open(agent_id, count)
            self._pump(agent_id).wake()

    async def stop(self) -> None:
        """Gives out nothing more, and waits for what is in the agents' hands.

        The rest is taken up at the next start.
        """
        self._means.is_stopping = True
        for pump in list(self._pumps.values()):
            pump.stop()
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """Lets go of what `stop` has waited for long enough, or was not waited for; it is given again at the
        next start.
        """
        self._means.is_stopping = True
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self, agent_id: str) -> None:
        """Says that an agent has more room, or was changed."""
        if self._store.is_shared:
            # Another server may have stored what it has to answer.
            self._pump(agent_id).wake()
        elif pump := self._pumps.get(agent_id):
            pump.wake()

    def on_hint(self, hint: Hint) -> None:
        """Takes up what another server says it has stored."""
        if not self._means.is_stopping:
            for agent_id in hint.due:
                self._pump(agent_id).hint()
        if hint.all:
            self._must_look.set()

    async def look(self) -> None:
        """Takes up whatever other servers have stored, or left when they ended. Raises the store's errors."""
        counts = await self._store.count_open()
        self.statuses.set_open(counts)
        for agent_id in counts:
            self._pump(agent_id).look()
        for pump in list(self._pumps.values()):
            pump.settle()

    async def watch_others(self) -> None:
        """Looks every few seconds, and where hints were lost, until cancelled.

        A look that takes long, because very many deliveries are open, is made more seldom. Not where it took
        long once alone: the database may have been away.
        """
        loop, took_s = asyncio.get_running_loop(), [0.0, 0.0]
        while not self._means.is_stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(LOOK_SECONDS, MOST_LOOKING * min(took_s))):
                    await self._must_look.wait()
            self._must_look.clear()
            begun_s = loop.time()
            try:
                await self.look()
            except STORE_TROUBLE as error:
                self._means.note_trouble(error)
                took_s = [0.0, 0.0]
            except Exception:
                log.exception("deliveries are held up", error_id=uuid.uuid4().hex)
                took_s = [0.0, 0.0]
            else:
                took_s = [took_s[1], loop.time() - begun_s]

    def on_commit(self, commit: Commit) -> None:
        """Takes up the messages of users that a commit has stored, and ends the attempts that it has made
        superfluous.
        """
        for outcome in commit.outcomes:
            entry, session = outcome.entry, outcome.session
            if entry is None and not outcome.opened:
                continue
            self.statuses.count_open(session.agent_id, outcome.opened)
            if entry is None:
                # A message that is delivered anew.
                self._pump(session.agent_id).add_again(session.id)
                continue
            # Told by the message: a delivery is also pending, and without attempts, after one that was not
            # charged to it.
            if isinstance(entry.event, UserMessage):
                self._pump(session.agent_id).add(outcome, entry)
            elif pump := self._pumps.get(session.agent_id):
                if session.expiry_logged:
                    pump.drop(session.id)
                elif entry.answers is not None:
                    pump.close(outcome, entry, entry.answers)
                pump.settle()
        for session in commit.deleted:
            self.statuses.count_open(session.agent_id, -session.open_deliveries)
            if pump := self._pumps.get(session.agent_id):
                pump.drop(session.id)
                pump.settle()

    async def answer(
        self,
        delivery_id: str,
        reply: Reply,
        *,
        scope: Scope,
        agent_id: str | None = None,
        reply_id: str | None = None,
    ) -> Outcome:
        """Stores the reply to a delivery, whoever gives it and whatever has become of the lease.

        :raises SessionNotFoundError: there is no such session in the scope
        :raises DeliveryNotFoundError: it has no such delivery, or is another agent's than `agent_id`
        :raises DomainError: what the rule `answer` raises
        """
        session_id, sequence = parse_delivery_id(delivery_id)
        rule = partial(answer, reply_id=reply_id or new_id(), reply=reply, agent_id=agent_id)
        return await self._store.apply_delivery(session_id, sequence, rule, scope=scope)

    def in_hand(self, agent_id: str) -> dict[str, Attempt]:
        """What an agent has in hand, by its session: as many as it may have at a time, at most."""
        pump = self._pumps.get(agent_id)
        return pump.attempts if pump else {}

    def is_idle(self) -> bool:
        """Whether nothing is open."""
        return not self._pumps

    def is_resting(self) -> bool:
        """Whether a delivery waits for its next attempt."""
        return any(pump.is_resting for pump in self._pumps.values())

    def _pump(self, agent_id: str) -> Pump:
        if agent_id not in self._pumps:
            self._pumps[agent_id] = Pump(agent_id, self._means, self._drop_pump)
        return self._pumps[agent_id]

    def _drop_pump(self, agent_id: str) -> None:
        self._pumps.pop(agent_id, None)

    def _tasks(self) -> "list[asyncio.Task[object]]":
        return [task for pump in self._pumps.values() for task in pump.tasks]
