"""A delivery in an agent's hands: the agent is asked, and what comes of it is written down."""

import asyncio
import random
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from server.agents.connector import Connector, NoReplyError, Slot, Work
from server.clock import Clock
from server.delivery.attempt import Attempt, read_history
from server.delivery.statuses import AgentStatuses
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import RetryPolicy
from server.domain.errors import (
    STORE_TROUBLE,
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.ids import new_id
from server.domain.log import Piece, message_of
from server.domain.messages import Message, Reply
from server.domain.replies import answer, fail, put_off
from server.domain.sessions import is_answered_by
from server.store.contract import PUT_OFF_MS, Store
from server.store.values import OpenDelivery
from server.telemetry.telemetry import OFF, Telemetry
from server.telemetry.traces import NO_SPAN, NO_TRACES, Span, Traces

STORE_TROUBLE_SECONDS: Final = 1.0
"""How long a delivery rests when the store could not be read or written."""

_CLOSED: Final = (
    DeliveryNotLeasedError,
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    SessionNotFoundError,
)
"""What the rules raise where somebody else has closed the delivery."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class Means:
    """What all deliveries are given with.

    `on_piece` is told the first piece of every reply, further ones of the sessions for which `is_heard`, and
    where pieces are void. `concurrency` bounds the deliveries of one agent that are in hand. `is_stopping`:
    nothing is given out any more. `is_troubled`: the store could not be used, and that is logged.
    `longest_rest_ms`: the longest that an attempt led to.
    """

    store: Store
    clock: Clock
    connectors: Mapping[AgentKind, Connector]
    on_piece: Callable[[Piece], None]
    is_heard: Callable[[str], bool]
    policy: RetryPolicy
    lease_s: float
    concurrency: int
    telemetry: Telemetry = OFF
    traces: Traces = NO_TRACES
    statuses: AgentStatuses = field(default_factory=AgentStatuses)
    is_stopping: bool = False
    is_troubled: bool = False
    longest_rest_ms: int = 0

    def lease_seconds(self, agent: Agent) -> float:
        """How long an agent has for a reply."""
        return agent.settings.timeout_seconds if agent.settings else self.lease_s

    def note_trouble(self, cause: DomainError) -> None:
        """Logs that the store cannot be used, once."""
        if not self.is_troubled:
            log.warning("deliveries are held up", cause=str(cause))
        self.is_troubled = True


class Turn:
    """One delivery in hand, for one attempt.

    `is_closed`: a commit has closed it. `has_next`: the session has another delivery to give then.
    """

    def __init__(self, means: Means, head: OpenDelivery, agent: Agent | None) -> None:
        """`head` is leased, or is claimed in memory where the agent is part of this process.

        `agent` is None where it has been removed.
        """
        self.head = head
        self.is_closed = False
        self.has_next = False
        self.attempt: Attempt | None = None
        # Whether a failure is being stored, whose commit closes the delivery and must not end its report.
        self._is_recording = False
        self._means = means
        self._agent = agent
        self.task: asyncio.Task[int | None] | None = None

    def start(self, on_end: Callable[["Turn", int | None], None]) -> None:
        """Begins; `on_end` is told when the delivery may be tried again, in ms of the clock, if it rests."""
        self.task = asyncio.create_task(self._run())
        # Called also where the task is cancelled before it has begun.
        self.task.add_done_callback(lambda task: on_end(self, None if task.cancelled() else task.result()))

    def close(self, reply: Message | None, *, has_next: bool) -> None:
        """Ends the attempt: a commit has closed the delivery, with a reply or without one."""
        self.is_closed, self.has_next = True, has_next
        if self.attempt:
            self.attempt.close(reply)
        elif not self._is_recording:
            self.cancel()

    def drop(self) -> None:
        """Lets go of the delivery: its session has ended, and gets no replies any more."""
        self.is_closed = True
        if self.attempt:
            self.attempt.end()
        self.cancel()

    def cancel(self) -> None:
        """Ends the attempt, and writes nothing down of it."""
        if self.task:
            self.task.cancel()

    async def _run(self) -> int | None:
        """Gives out the delivery; returns when it may be tried again, in ms, if it rests."""
        try:
            due_ms = await self._give()
        except STORE_TROUBLE as error:
            self._means.note_trouble(error)
        except Exception:
            log.exception("a delivery is held up", error_id=uuid.uuid4().hex, session_id=self.head.session.id)
        else:
            self._means.is_troubled = False
            return due_ms
        # As long as this takes, its session is not looked at again. A stop does not wait for it.
        self.end_attempt()
        await asyncio.sleep(STORE_TROUBLE_SECONDS)
        return None

    async def _give(self) -> int | None:
        try:
            return await self._ask_agent()
        except _CLOSED:
            return None
        except SessionExpiredError:
            # Its expiry is about to be written, and closes the delivery.
            with suppress(*_CLOSED, SessionExpiredError):
                await self.put_off(PUT_OFF_MS)
            return None

    async def _ask_agent(self) -> int | None:
        """Asks the agent and stores its reply, or that there is none."""
        agent, is_claimed = self._agent, False
        try:
            if agent is None or not is_answered_by(self.head.session, agent):
                raise NoReplyError("the agent has been removed", final=True)
            connector = self._means.connectors[agent.kind]
            is_claimed = connector.is_inside
            async with connector.slot(agent) as slot:
                await self._attempt(agent, slot, is_claimed=is_claimed)
        except (*STORE_TROUBLE, *_CLOSED, SessionExpiredError):
            raise
        except NoReplyError as error:
            failure = error
        except DomainError as error:
            failure = NoReplyError(f"the agent's reply cannot be stored: {error}", final=True)
        else:
            return None
        return await self._record_failure(failure, is_claimed=is_claimed)

    async def _attempt(self, agent: Agent, slot: Slot, *, is_claimed: bool) -> None:
        """Asks for the reply and stores it; returns also where a commit has closed the delivery meanwhile.

        `is_claimed`: nothing is written down of the claim, because the agent is in this process: who restarts
        asks it again.

        :raises NoReplyError: there is no reply
        :raises DomainError: the reply cannot be stored
        """
        means, session, delivery = self._means, self.head.session, self.head.delivery
        if is_claimed:
            delivery = delivery._replace(attempts=delivery.attempts + 1)
        history = await read_history(means.store, session, delivery.sequence, slot.history_messages(agent))
        span = self._start_span(agent, delivery.attempts)
        work = Work(agent, session, self.head.entry, delivery, new_id(), history, span.context)
        lease_s = means.lease_seconds(agent)
        self.attempt = attempt = Attempt(work, lease_s, means.on_piece, means.is_heard)
        means.statuses.count_in_hand(agent.id, 1)
        outcome, reason = "cancelled", ""
        try:
            with span:
                reply = await attempt.ask(slot)
                if reply:
                    await self._store_reply(reply, work.reply_id, asyncio.get_running_loop().time() + lease_s)
            outcome = "answered" if reply else "closed"
        except (NoReplyError, DomainError) as error:
            outcome = "closed" if isinstance(error, (*_CLOSED, SessionExpiredError)) else "failed"
            reason = str(error)
            raise
        finally:
            means.telemetry.end_attempt(agent.kind.value, agent.id, outcome)
            span.end(outcome, reason)
            # Before anything is written down of the failure; there is none where the reply is stored.
            attempt.take_back()

    def _start_span(self, agent: Agent, number: int) -> Span:
        """Begins the span of an attempt."""
        if not self._means.traces.is_on:
            return NO_SPAN
        facts: dict[str, str | int] = {
            "eliza.session_id": self.head.session.id,
            "eliza.message_id": message_of(self.head.entry).id,
            "eliza.agent_id": agent.id,
            "eliza.agent_kind": agent.kind.value,
            "eliza.attempt": number,
        }
        return self._means.traces.start_attempt(facts, self.head.delivery.trace)

    def end_attempt(self) -> None:
        """Notes that the agent no longer has the delivery."""
        if self.attempt:
            self._means.statuses.count_in_hand(self.attempt.work.agent.id, -1)
        self.attempt = None

    async def _store_reply(self, reply: Reply, reply_id: str, give_up_s: float) -> None:
        """Stores a reply. While the store is in trouble it tries again, until the loop's time `give_up_s` or
        the stop.

        Otherwise the agent would be asked once more, which would use up an attempt. Raises DomainError.
        """
        session_id, sequence = self.head.session.id, self.head.delivery.sequence
        rule = partial(answer, reply_id=reply_id, reply=reply)
        while True:
            try:
                await self._means.store.apply_delivery(session_id, sequence, rule, scope=EVERYTHING)
            except STORE_TROUBLE:
                if self._means.is_stopping or asyncio.get_running_loop().time() >= give_up_s:
                    raise
                await asyncio.sleep(STORE_TROUBLE_SECONDS)
            else:
                return

    async def _record_failure(self, failure: NoReplyError, *, is_claimed: bool) -> int | None:
        """Writes down that an attempt came to nothing; returns when the next one may be made, in ms, if there
        is one.
        """
        message, delivery, policy = message_of(self.head.entry), self.head.delivery, self._means.policy
        made = max(delivery.attempts + is_claimed, 1)
        # Lost connections make it rest longer, too: a message that kills who takes it must not do so every
        # second.
        backoff_ms = policy.backoff_ms(made + delivery.lost_connections, random.random())
        backoff_ms = max(backoff_ms, round(failure.retry_after_s * 1000))
        self._means.longest_rest_ms = max(self._means.longest_rest_ms, backoff_ms)
        rule = partial(
            fail,
            message_id=message.id,
            reason=failure.reason,
            final=failure.final,
            backoff_ms=backoff_ms,
            policy=policy,
            detail=failure.detail,
            connection_lost=failure.connection_lost,
            charged=failure.charged,
            last_reply_id=self.attempt.work.reply_id if self.attempt else "",
            is_claimed=is_claimed,
        )
        self._is_recording = True
        outcome = await self._means.store.apply_delivery(
            delivery.session_id, delivery.sequence, rule, scope=EVERYTHING
        )
        assert outcome.delivery is not None
        self._means.statuses.note_failure(outcome.session.agent_id, message.id, outcome.delivery, failure)
        return outcome.delivery.due_at_ms

    async def put_off(self, rest_ms: int) -> None:
        """Has the delivery rest, and gives its lease back. Raises DomainError."""
        delivery = self.head.delivery
        rule = partial(put_off, rest_ms=rest_ms)
        await self._means.store.apply_delivery(delivery.session_id, delivery.sequence, rule, scope=EVERYTHING)
