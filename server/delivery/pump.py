"""Gives one agent its deliveries: as many at a time as it has places, one of a session.

The store says what is due. In memory is only what is in hand, however many sessions wait or rest.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Final

import structlog

from server.agents.connector import AgentUnavailableError, Connector
from server.delivery import turn as turns
from server.delivery.alarm import Alarm
from server.delivery.attempt import Attempt
from server.delivery.claims import Claims
from server.delivery.turn import Means, Turn
from server.domain.access import EVERYTHING
from server.domain.agents import Agent
from server.domain.deliveries import DeliveryState
from server.domain.errors import STORE_TROUBLE, AgentNotFoundError, DomainError
from server.domain.log import Entry, message_of
from server.domain.sessions import Outcome
from server.store.contract import PUT_OFF_MS
from server.store.pages import ALWAYS_MS
from server.store.values import OpenDelivery

FIRST_WAIT: Final = 0.05
"""Which part of STORE_TROUBLE_SECONDS to wait first where nothing due is given; then twice as long."""

log = structlog.get_logger()


class Pump:
    """See the module.

    It is woken by commits, by a timer for the earliest delivery that rests, by a place that comes free, and
    by `wake`. Each of these is a hint: the store is asked then.
    """

    def __init__(self, agent_id: str, means: Means, on_idle: Callable[[str], None]) -> None:
        """`on_idle` is told the agent's id when it has no open delivery any more."""
        self.agent_id = agent_id
        self._means = means
        self._on_idle = on_idle
        self._turns: dict[str, Turn] = {}
        # First deliveries of sessions that commits have told of: no read is needed to give them.
        self._offered: dict[str, OpenDelivery] = {}
        self._task: asyncio.Task[None] | None = None
        # Whether the store is to be asked what is due, and whether more may be due than there was room for.
        self._must_look = self._is_hinted = False
        self._is_behind = False
        # What commits have closed or ended while a lease was under way; a sequence of 0 stands for all.
        self._ended: set[tuple[str, int]] | None = None
        # Ends when the earliest delivery has rested.
        self._alarm = Alarm(self._look)
        # How often in a row nothing was given of what was due.
        self._passed_over = 0
        self._claims = Claims(agent_id, means)
        # Whether the clock was set back behind all that rests.
        self._is_all_due = False

    @property
    def is_resting(self) -> bool:
        """Whether it waits for a delivery to become due."""
        return self._alarm.is_set

    @property
    def tasks(self) -> "Iterable[asyncio.Task[object]]":
        """All that runs."""
        running = [turn.task for turn in self._turns.values() if turn.task]
        return [*running, *([self._task] if self._task else [])]

    @property
    def attempts(self) -> dict[str, Attempt]:
        """What the agent has in hand, by its session."""
        return {session_id: turn.attempt for session_id, turn in self._turns.items() if turn.attempt}

    def wake(self) -> None:
        """Has the store asked what is due, and an agent that could not be asked tried again."""
        self._claims.end_rest()
        self._look()

    def look(self) -> None:
        """Has the store asked what is due."""
        self._look()

    def hint(self) -> None:
        """Says that another server has stored something that may be given to the agent."""
        self._is_hinted = True
        self._start()

    def add(self, outcome: Outcome, entry: Entry) -> None:
        """Takes note of a message."""
        session, delivery = outcome.session, outcome.delivery
        if delivery is None or session.open_deliveries > 1:
            # An earlier one comes first.
            return
        if turn := self._turns.get(session.id):
            turn.has_next = True
        elif self._is_behind:
            # Others wait for a place, and were there before.
            return
        elif len(self._offered) < self._means.concurrency:
            self._offered[session.id] = OpenDelivery(session, entry, delivery)
            self._start()
        else:
            self._look()

    def add_again(self, session_id: str) -> None:
        """Takes note of a message of a session that is delivered anew, maybe before one that is in hand."""
        if turn := self._turns.get(session_id):
            turn.has_next = True
        self.wake()

    def close(self, outcome: Outcome, entry: Entry, sequence: int) -> None:
        """Takes note of a reply, or of a failure for good."""
        session = outcome.session
        turn, has_next = self._turns.get(session.id), session.open_deliveries > 0
        if turn and turn.head.delivery.sequence == sequence:
            turn.close(entry.message, has_next=has_next)
        elif not turn:
            self._forget(session.id, sequence)
            if has_next:
                self._look()

    def drop(self, session_id: str) -> None:
        """Lets go of a session that has ended."""
        self._forget(session_id, 0)
        if turn := self._turns.get(session_id):
            turn.drop()

    def stop(self) -> None:
        """Gives out nothing more; lets go of what the agent has not been asked for."""
        self._alarm.cancel()
        for turn in list(self._turns.values()):
            if turn.attempt is None:
                turn.cancel()

    def settle(self) -> None:
        """Tells when nothing is left to do."""
        if not (self._turns or self._task or self._means.statuses.status(self.agent_id).open):
            self._alarm.cancel()
            self._on_idle(self.agent_id)

    def _forget(self, session_id: str, sequence: int) -> None:
        self._offered.pop(session_id, None)
        if self._ended is not None:
            self._ended.add((session_id, sequence))

    def _look(self) -> None:
        self._must_look = True
        self._start()

    def _start(self) -> None:
        if self._task is None and not self._means.is_stopping:
            # Not in the context of whoever woke it: what it does is no part of that call, nor of its trace.
            self._task = asyncio.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        """Gives out what it can, until there is no news."""
        try:
            while (self._must_look or self._is_hinted or self._offered) and not self._means.is_stopping:
                try:
                    await self._give_out()
                except STORE_TROUBLE as error:
                    self._means.note_trouble(error)
                    self._alarm.set(turns.STORE_TROUBLE_SECONDS)
                except Exception:
                    log.exception("deliveries are held up", error_id=uuid.uuid4().hex, agent_id=self.agent_id)
                    self._alarm.set(turns.STORE_TROUBLE_SECONDS)
        finally:
            self._task = None
            self.settle()

    async def _give_out(self) -> None:
        """Fills the free places of the agent."""
        must_look, self._must_look = self._must_look, False
        is_hinted, self._is_hinted = self._is_hinted, False
        offered, self._offered = list(self._offered.values()), {}
        if (left_s := self._claims.rest_left_s) > 0:
            self._alarm.set(left_s)
            return
        try:
            agent: Agent | None = await self._means.store.get_agent(self.agent_id, scope=EVERYTHING)
        except AgentNotFoundError:
            agent = None
        connector = self._means.connectors[agent.kind] if agent else None
        places = connector.capacity(self.agent_id) if connector else self._means.concurrency
        free = min(places, self._means.concurrency) - len(self._turns)
        if connector is None or connector.is_inside:
            # The claim is in memory, and what was offered needs no other.
            for head in offered[: max(free, 0)]:
                self._begin(head, agent)
            free -= len(offered)
        else:
            # Who has stored it gives it to an agent that is part of each server.
            must_look = must_look or bool(offered) or is_hinted
        self._is_behind = free <= 0
        if must_look and free > 0:
            await self._take_due(agent, connector, free)

    async def _take_due(self, agent: Agent | None, connector: Connector | None, free: int) -> None:
        """Gives out what the store says is due, up to `free`, and has itself woken for what is due next."""
        due_ms = max(self._means.clock.now_ms(), self._alarm.take_waited_ms())
        if self._is_all_due:
            due_ms, self._is_all_due = ALWAYS_MS, False
        ended: set[tuple[str, int]] = set()
        self._ended = ended
        try:
            found = await self._claims.take(agent, connector, due_ms, free, self._turns)
        except AgentUnavailableError:
            self._alarm.set(max(0.0, self._claims.rest_left_s))
            return
        finally:
            self._ended = None
        self._passed_over = 0 if found else self._passed_over
        begun = 0
        for head in found:
            session_id, sequence = head.session.id, head.delivery.sequence
            if head.delivery.state is DeliveryState.FAILED:
                self._means.statuses.note_failure(self.agent_id, message_of(head.entry).id, head.delivery)
            elif self._means.is_stopping:
                if head.delivery.state is DeliveryState.LEASED:
                    with suppress(DomainError):
                        await Turn(self._means, head, agent).put_off(0)
            elif not {(session_id, sequence), (session_id, 0)} & ended:
                self._begin(head, agent)
                begun += 1
        # What was closed meanwhile has left its place to others.
        self._must_look = self._must_look or begun < len(found)
        self._is_behind = len(found) >= free
        if self._is_behind or self._must_look or self._means.is_stopping:
            return
        next_ms = await self._means.store.next_delivery_ms(self.agent_id, self._turns)
        longest_ms = self._means.clock.now_ms() + self._longest_rest_ms()
        if next_ms is not None and next_ms > max(due_ms, longest_ms):
            # None rests so long: the clock was set back.
            self._is_all_due = self._must_look = True
        elif next_ms is not None and next_ms > due_ms:
            self._rest_until(next_ms)
        elif next_ms is not None and found:
            self._must_look = True
        elif next_ms is not None:
            # Another server has its session locked, as long as a write takes; or it cannot be leased.
            self._alarm.set(turns.STORE_TROUBLE_SECONDS * min(1.0, FIRST_WAIT * 2**self._passed_over))
            self._passed_over = min(self._passed_over + 1, 10)

    def _begin(self, head: OpenDelivery, agent: Agent | None) -> None:
        if current := self._turns.get(head.session.id):
            # Another server has answered what is in hand here, and a commit has told of the next one since.
            current.has_next = True
            return
        turn = self._turns[head.session.id] = Turn(self._means, head, agent)
        turn.start(self._end_turn)

    def _end_turn(self, turn: Turn, due_ms: int | None) -> None:
        """Decides how it goes on once a delivery is no longer in hand."""
        turn.end_attempt()
        del self._turns[turn.head.session.id]
        if due_ms is not None and not self._means.is_stopping:
            self._rest_until(due_ms)
        if self._is_behind or turn.has_next or (due_ms is None and not turn.is_closed):
            self._look()
        self.settle()

    def _rest_until(self, due_ms: int) -> None:
        """Has itself woken when a delivery has rested. A clock that was set back makes no rest longer."""
        rest_ms = min(due_ms - self._means.clock.now_ms(), self._longest_rest_ms())
        self._alarm.set(rest_ms / 1000, due_ms)

    def _longest_rest_ms(self) -> int:
        """How long any delivery rests at most."""
        return max(self._means.policy.longest_backoff_ms, self._means.longest_rest_ms, PUT_OFF_MS)
