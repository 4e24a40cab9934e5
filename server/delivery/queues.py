"""Gives deliveries to agents: one of a session at a time, in order; sessions do not wait for each other, nor
agents for one another.

The store has every delivery. In memory there is a small record for each session with an open delivery.
Nothing polls: a commit tells of new messages, a timer when a session has rested long enough, a slot when an
agent has time.
"""

import asyncio
import random
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from server.agents.kinds import AgentChangedError, AgentUnavailableError, Connector, NoReplyError, Slot, Work
from server.clock import Clock
from server.delivery.attempt import Attempt, read_history
from server.delivery.statuses import AgentStatuses
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState, RetryPolicy, parse_delivery_id
from server.domain.errors import (
    STORE_TROUBLE,
    AgentNotFoundError,
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.ids import new_id
from server.domain.log import Entry, Piece, message_of
from server.domain.messages import Reply, UserMessage
from server.domain.replies import answer, fail, lease
from server.domain.sessions import Outcome, Session
from server.store.contract import Commit, OpenDelivery, Store

STORE_TROUBLE_SECONDS: Final = 1.0
"""How long a session rests when the store could not be read or written."""

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class _SessionQueue:
    """A session with open deliveries: it rests (`timer`), is ready, waits for a slot, or is under way
    (`task`).
    """

    session_id: str
    agent_id: str
    # How many deliveries are open.
    open: int = 0
    # The first of them, where the commit that made it has told of it.
    head: OpenDelivery | None = None
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[float | None] | None = None
    # Messages came while the task ran, which may have looked before.
    has_new: bool = False
    # Of the delivery that rests before its next attempt.
    resting: int | None = None
    # How often in a row the agent could not even be asked.
    unavailable: int = 0
    # What was answered or has failed since the task began, maybe in the very commit of its lease.
    finished: set[int] = field(default_factory=set)
    # Of the delivery that is leased.
    attempt: Attempt | None = None
    # The id that the reply of the first open delivery's last attempt would have had.
    last_reply_id: str = ""


@dataclass(eq=False, slots=True)
class _AgentQueue:
    """The sessions of one agent: those that are ready, in the order in which they became so, and how many are
    in hand.
    """

    ready: OrderedDict[str, _SessionQueue] = field(default_factory=OrderedDict)
    in_hand: int = 0


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
    ) -> None:
        """`on_piece` is told every piece of every reply, and where pieces are void.

        `concurrency` bounds the deliveries of one agent that are in hand.
        """
        self.statuses = AgentStatuses()
        self._store = store
        self._clock = clock
        self._connectors = connectors
        self._on_piece = on_piece
        self._policy = policy
        self._lease_s = lease_seconds
        self._concurrency = concurrency
        self._sessions: dict[str, _SessionQueue] = {}
        self._agents: dict[str, _AgentQueue] = {}
        self._stopping = False
        self._troubled = False

    async def start(self) -> None:
        """Takes up what an earlier run has left open. Its leases are void: nobody is connected yet."""
        now_ms = self._clock.now_ms()
        for left in await self._store.list_open():
            if left.session_id not in self._sessions:
                queue = _SessionQueue(left.session_id, left.agent_id, resting=left.sequence)
                self._sessions[left.session_id] = queue
                self._set_open(queue, left.open)
                # A clock that was set back must not make it rest longer than it ever should.
                self._rest(queue, min(left.due_at_ms - now_ms, self._policy.longest_backoff_ms) / 1000)

    async def stop(self) -> None:
        """Gives out nothing more, and waits for what is in the agents' hands.

        The rest is taken up at the next start.
        """
        self._stopping = True
        for queue in list(self._sessions.values()):
            if queue.timer:
                queue.timer.cancel()
            if queue.task and queue.attempt is None:
                queue.task.cancel()
        if tasks := [queue.task for queue in self._sessions.values() if queue.task]:
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """Lets go of what `stop` has waited for long enough, or was not waited for; it is given again at the
        next start.
        """
        self._stopping = True
        tasks = [queue.task for queue in self._sessions.values() if queue.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def on_commit(self, commit: Commit) -> None:
        """Takes up the messages of users that a commit has stored, and ends the attempts that it has made
        superfluous.
        """
        for outcome in commit.outcomes:
            entry = outcome.entry
            if outcome.session.expiry_logged:
                self._drop_session(outcome.session.id)
            # Told by the message: a delivery is also pending, and without attempts, after one that was not
            # charged to it.
            elif entry and isinstance(entry.event, UserMessage):
                self._add_delivery(outcome, entry)
            elif entry:
                self._close_delivery(outcome.session, entry)
        for session_id in commit.deleted:
            self._drop_session(session_id)

    async def answer(
        self, delivery_id: str, reply: Reply, *, agent_id: str | None = None, reply_id: str | None = None
    ) -> Outcome:
        """Stores the reply to a delivery, whoever gives it and whatever has become of the lease.

        :raises DeliveryNotFoundError: there is no such delivery, or it is another agent's than `agent_id`
        :raises DomainError: what the rule `answer` raises
        """
        session_id, sequence = parse_delivery_id(delivery_id)
        rule = partial(answer, reply_id=reply_id or new_id(), reply=reply, agent_id=agent_id)
        return await self._store.apply_delivery(session_id, sequence, rule)

    def is_idle(self) -> bool:
        """Whether nothing is open, as far as is known here."""
        return not self._sessions and not self._agents

    def is_resting(self) -> bool:
        """Whether a delivery waits for its next attempt."""
        return any(queue.timer for queue in self._sessions.values())

    def _add_delivery(self, outcome: Outcome, entry: Entry) -> None:
        session = outcome.session
        if queue := self._sessions.get(session.id):
            self._set_open(queue, session.open_deliveries)
            queue.has_new = True
        elif not self._stopping:
            queue = self._sessions[session.id] = _SessionQueue(session.id, session.agent_id)
            if outcome.delivery and session.open_deliveries == 1:
                queue.head = OpenDelivery(session, entry, outcome.delivery)
            self._set_open(queue, session.open_deliveries)
            self._make_ready(queue)

    def _close_delivery(self, session: Session, entry: Entry) -> None:
        """Takes note of a reply, or of a failure for good."""
        sequence, queue = entry.answers, self._sessions.get(entry.session_id)
        if sequence is None or queue is None:
            return
        self._set_open(queue, session.open_deliveries)
        queue.finished.add(sequence)
        if queue.attempt and queue.attempt.work.entry.sequence == sequence:
            queue.attempt.close(entry.message)
        elif queue.timer and queue.resting == sequence:
            queue.timer.cancel()
            self._make_ready(queue)

    def _drop_session(self, session_id: str) -> None:
        """Lets go of a session that has ended: it gets no replies any more."""
        queue = self._sessions.pop(session_id, None)
        if queue is None:
            return
        self._set_open(queue, 0)
        if queue.timer:
            queue.timer.cancel()
        if queue.attempt:
            queue.attempt.end()
        if queue.task:
            queue.task.cancel()
        elif agent := self._agents.get(queue.agent_id):
            agent.ready.pop(session_id, None)

    def _set_open(self, queue: _SessionQueue, count: int) -> None:
        self.statuses.count_open(queue.agent_id, count - queue.open)
        queue.open = count

    def _rest(self, queue: _SessionQueue, seconds: float) -> None:
        if seconds > 0:
            queue.timer = asyncio.get_running_loop().call_later(seconds, self._make_ready, queue)
        else:
            self._make_ready(queue)

    def _make_ready(self, queue: _SessionQueue) -> None:
        queue.timer = queue.resting = None
        agent = self._agents.setdefault(queue.agent_id, _AgentQueue())
        agent.ready[queue.session_id] = queue
        self._start_ready(agent)

    def _start_ready(self, agent: _AgentQueue) -> None:
        while agent.ready and agent.in_hand < self._concurrency and not self._stopping:
            _, queue = agent.ready.popitem(last=False)
            agent.in_hand += 1
            queue.task = asyncio.create_task(self._run(queue))
            # Called also where the task is cancelled before it has begun.
            queue.task.add_done_callback(partial(self._end_turn, queue, agent))

    async def _run(self, queue: _SessionQueue) -> float | None:
        """Gives out the next delivery of a session; returns its rest, in seconds, or None when nothing is
        open.
        """
        queue.has_new = False
        queue.finished.clear()
        try:
            rest_s = await self._deliver_next(queue)
        except STORE_TROUBLE as error:
            if not self._troubled:
                log.warning("deliveries are held up", cause=str(error))
            self._troubled = True
        except Exception:
            log.exception("a delivery is held up", error_id=uuid.uuid4().hex, session_id=queue.session_id)
        else:
            self._troubled = False
            return rest_s
        return STORE_TROUBLE_SECONDS

    def _end_turn(self, queue: _SessionQueue, agent: _AgentQueue, task: asyncio.Task[float | None]) -> None:
        """Decides how it goes on with a session."""
        if queue.attempt:
            self.statuses.count_in_hand(queue.agent_id, -1)
        queue.task = queue.attempt = None
        agent.in_hand -= 1
        if self._sessions.get(queue.session_id) is queue:
            rest_s = STORE_TROUBLE_SECONDS if task.cancelled() else task.result()
            if rest_s and queue.open:
                self._rest(queue, rest_s)
            elif (rest_s is None and queue.has_new) or (rest_s is not None and queue.open):
                self._make_ready(queue)
            else:
                self._set_open(queue, 0)
                del self._sessions[queue.session_id]
        self._start_ready(agent)
        if not agent.ready and not agent.in_hand and self._agents.get(queue.agent_id) is agent:
            del self._agents[queue.agent_id]

    async def _deliver_next(self, queue: _SessionQueue) -> float | None:
        """Gives out the first open delivery; returns the session's rest, in seconds, or None when nothing is
        open.
        """
        known, queue.head = queue.head, None
        head = known or await self._store.next_delivery(queue.session_id)
        if head is None:
            return None
        if not head.delivery.attempts:
            queue.last_reply_id = ""
        is_claimed = False
        try:
            agent = await self._store.get_agent(queue.agent_id)
            connector = self._connectors[agent.kind]
            is_claimed = connector.is_inside
            async with connector.slot(agent) as slot:
                await self._attempt(queue, agent, head, slot, is_claimed=is_claimed)
            return 0
        except STORE_TROUBLE:
            raise
        except AgentNotFoundError:
            failure = NoReplyError("the agent has been removed", final=True)
        except NoReplyError as error:
            if isinstance(error, AgentUnavailableError) and not queue.attempt:
                return self._put_off(queue, head, error)
            failure = error
        except (AgentChangedError, DeliveryNotLeasedError, DeliveryAnsweredError):
            return 0
        except (SessionExpiredError, SessionNotFoundError, DeliveryNotFoundError):
            return None
        except DomainError as error:
            failure = NoReplyError(f"the agent's reply cannot be stored: {error}", final=True)
        rest_s = await self._record_failure(head, failure, queue.last_reply_id, is_claimed=is_claimed)
        queue.resting = head.delivery.sequence
        return rest_s

    async def _attempt(
        self, queue: _SessionQueue, agent: Agent, head: OpenDelivery, slot: Slot, *, is_claimed: bool
    ) -> None:
        """Leases a delivery, asks for the reply and stores it; returns also where there is nothing to do any
        more.

        `is_claimed`: nothing is written down of the lease, because the agent is in this process: who restarts
        asks it again.

        :raises NoReplyError: there is no reply
        :raises DomainError: the lease cannot be had, or the reply cannot be stored
        """
        lease_s = agent.settings.timeout_seconds if agent.settings else self._lease_s
        if is_claimed:
            session, delivery = head.session, head.delivery._replace(attempts=head.delivery.attempts + 1)
        else:
            outcome = await self._lease(queue, head, lease_s)
            if outcome is None:
                return
            session, delivery = outcome
        queue.unavailable = 0
        self.statuses.note_available(agent.id)
        history = await read_history(self._store, session, delivery.sequence, slot.history_messages(agent))
        if delivery.sequence in queue.finished:
            return
        work = Work(agent, session, head.entry, delivery, new_id(), history)
        queue.last_reply_id, queue.attempt = work.reply_id, Attempt(work, lease_s, self._on_piece)
        self.statuses.count_in_hand(agent.id, 1)
        try:
            if reply := await queue.attempt.ask(slot):
                await self._store_reply(
                    delivery.id, reply, work.reply_id, asyncio.get_running_loop().time() + lease_s
                )
        finally:
            # Before anything is written down of the failure; there is none where the reply is stored.
            queue.attempt.take_back()

    async def _store_reply(self, delivery_id: str, reply: Reply, reply_id: str, give_up_s: float) -> None:
        """Stores a reply. While the store is in trouble it tries again, until the loop's time `give_up_s` or
        the stop.

        Otherwise the agent would be asked once more, which would use up an attempt. Raises DomainError.
        """
        while True:
            try:
                await self.answer(delivery_id, reply, reply_id=reply_id)
            except STORE_TROUBLE:
                if self._stopping or asyncio.get_running_loop().time() >= give_up_s:
                    raise
                await asyncio.sleep(STORE_TROUBLE_SECONDS)
            else:
                return

    async def _lease(
        self, queue: _SessionQueue, head: OpenDelivery, lease_s: float
    ) -> tuple[Session, Delivery] | None:
        """Writes down that the agent has a delivery; None where its attempts are used up.

        Raises DomainError.
        """
        message_id = message_of(head.entry).id
        rule = partial(
            lease,
            lease_ms=round(lease_s * 1000),
            message_id=message_id,
            policy=self._policy,
            last_reply_id=queue.last_reply_id,
        )
        outcome = await self._store.apply_delivery(queue.session_id, head.delivery.sequence, rule)
        assert outcome.delivery is not None
        if outcome.delivery.state is DeliveryState.LEASED:
            return outcome.session, outcome.delivery
        self.statuses.note_failure(queue.agent_id, message_id, outcome.delivery)
        return None

    async def _record_failure(
        self, head: OpenDelivery, failure: NoReplyError, last_reply_id: str, *, is_claimed: bool
    ) -> float | None:
        """Writes down that an attempt came to nothing; returns how long the session rests before the next, in
        seconds.
        """
        message, delivery = message_of(head.entry), head.delivery
        # Lost connections make it rest longer, too: a message that kills who takes it must not do so every
        # second.
        backoff_ms = self._policy.backoff_ms(
            delivery.attempts + delivery.lost_connections + 1, random.random()
        )
        backoff_ms = max(backoff_ms, round(failure.retry_after_s * 1000))
        rule = partial(
            fail,
            message_id=message.id,
            reason=failure.reason,
            final=failure.final,
            backoff_ms=backoff_ms,
            policy=self._policy,
            detail=failure.detail,
            connection_lost=failure.connection_lost,
            charged=failure.charged,
            last_reply_id=last_reply_id,
            is_claimed=is_claimed,
        )
        try:
            outcome = await self._store.apply_delivery(delivery.session_id, delivery.sequence, rule)
        except (SessionExpiredError, SessionNotFoundError, DeliveryNotFoundError):
            return None
        except DeliveryNotLeasedError:
            return 0
        assert outcome.delivery is not None
        delivery = outcome.delivery
        self.statuses.note_failure(outcome.session.agent_id, message.id, delivery, failure)
        return 0 if delivery.state is DeliveryState.FAILED else backoff_ms / 1000

    def _put_off(self, queue: _SessionQueue, head: OpenDelivery, cause: AgentUnavailableError) -> float:
        """Has a delivery rest whose agent cannot even be asked, which is the operator's to mend; returns how
        long, in seconds.

        Nothing is written down: it uses up no attempt, and is tried again at once after a restart.
        """
        queue.unavailable += 1
        queue.resting = head.delivery.sequence
        now_ms = self._clock.now_ms()
        self.statuses.note_unavailable(
            queue.agent_id, queue.session_id, message_of(head.entry).id, now_ms, cause
        )
        return self._policy.backoff_ms(queue.unavailable, random.random()) / 1000
