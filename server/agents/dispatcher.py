"""Gives deliveries to agents: one of a session at a time, in order; sessions do not wait for each other, nor agents for one another.

The store has every delivery; in memory there is one small record for each session that has something open. Nothing polls: a commit tells
what is new, a timer what has rested long enough, a slot when an agent has time.
"""

import asyncio
import random
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

import structlog

from eliza.sessions.v1.errors import forget_frames
from eliza.sessions.v1.limits import MAX_REPLY_CODE_POINTS
from server.agents.kinds import AgentChangedError, AgentUnavailableError, Connector, Emit, NoReplyError, Slot, Work
from server.clock import Clock
from server.domain.agent_text import TextJoiner
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import AttemptFailure, Delivery, DeliveryState, RetryPolicy, parse_delivery_id
from server.domain.errors import (
    STORE_TROUBLE,
    AgentNotFoundError,
    AgentReplyError,
    AgentReplyTimeoutError,
    DeliveryAnsweredError,
    DeliveryNotFoundError,
    DeliveryNotLeasedError,
    DomainError,
    InvalidContentError,
    InvalidMetadataError,
    OverloadedError,
    SessionExpiredError,
    SessionNotFoundError,
)
from server.domain.events import Abort, Chunk, Entry, Piece
from server.domain.ids import new_id
from server.domain.messages import Reply
from server.domain.replies import answer, fail, lease
from server.domain.sessions import Outcome
from server.store.contract import Commit, OpenDelivery, Store

STORE_TROUBLE_SECONDS: Final = 1.0
"""How long a session rests when the store could not be read or written."""

MAX_AGENTS_NOTED: Final = 1000
"""Of how many agents the last failure is kept: of those that failed last."""

log = structlog.get_logger()

WAITING_CHUNKS: Final = 1000
"""How many chunks of a reply are kept for a follower that reads slowly."""

Progress: TypeAlias = Piece | Entry | DomainError
"""A piece of a reply, or that its pieces are void; and at the end the reply as it was stored, or why there is none."""


@dataclass(eq=False, slots=True)
class _Attempt:
    """An attempt at a reply, and how many pieces of it were sent ahead."""

    work: Work
    pieces: int = 0


@dataclass(frozen=True, slots=True)
class LastFailure:
    """An attempt that came to nothing, of which message, and whether there will be no more."""

    session_id: str
    message_id: str
    failure: AttemptFailure
    final: bool


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How an agent fares: deliveries that are open, those of them that it has in hand, and its last failure since the start."""

    open: int
    in_hand: int
    last_failure: LastFailure | None


@dataclass(eq=False, slots=True)
class _Line:
    """A session with open deliveries: it rests (`timer`), is ready, waits for a slot, or is under way (`task`)."""

    session_id: str
    agent_id: str
    # How many deliveries are open, none of them before the sequence `head`.
    open: int
    head: int
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[float | None] | None = None
    # What came while the task ran: it may have looked before.
    news: bool = False
    # Of the delivery that rests before its next attempt.
    resting: int | None = None
    # How often in a row the agent could not even be asked.
    unavailable: int = 0
    # What was answered or has failed since the task began, maybe in the very commit of its lease.
    closed: set[int] = field(default_factory=set)
    # Of the delivery that is leased: its sequence, the call for its reply, and the loop's time at which the lease ends.
    sequence: int | None = None
    asking: asyncio.Task[Reply] | None = None
    lease_end_s: float = 0
    # While pieces of its reply may come.
    attempt: _Attempt | None = None
    # The id that the reply of the first open delivery's last attempt would have had.
    last_reply_id: str = ""


@dataclass(eq=False, slots=True)
class _Lane:
    """The sessions of one agent: those that are ready, in the order in which they became so, and how many are in hand."""

    ready: OrderedDict[str, _Line] = field(default_factory=OrderedDict)
    in_hand: int = 0


class ReplyProgress(asyncio.Queue[Progress]):
    """What a follower has yet to be told. Of the chunks at most WAITING_CHUNKS are kept, the newest ones."""

    def _init(self, maxsize: int) -> None:
        self._queue: deque[Progress] = deque()
        self._chunks = 0

    def _get(self) -> Progress:
        item = self._queue.popleft()
        self._chunks -= isinstance(item, Chunk)
        return item

    def _put(self, item: Progress) -> None:
        """Keeps an item. An abort takes away the chunks before it, which it voids."""
        if isinstance(item, Abort):
            self._queue = deque(one for one in self._queue if not isinstance(one, Chunk))
            self._chunks = 0
        elif isinstance(item, Chunk):
            self._chunks += 1
            if self._chunks > WAITING_CHUNKS:
                # Only aborts may wait before it, which are few.
                oldest = next(index for index, one in enumerate(self._queue) if isinstance(one, Chunk))
                del self._queue[oldest]
                self._chunks -= 1
        self._queue.append(item)


@dataclass(eq=False, slots=True)
class _Follower:
    """Somebody who waits for the reply to a message, from before it is stored."""

    message_id: str
    progress: ReplyProgress = field(default_factory=ReplyProgress)
    session_id: str = ""
    sequence: int = 0


class Dispatcher:
    """See the module. To be started once the store has its listeners, and stopped before the store is closed."""

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
        max_open: int,
    ) -> None:
        """`on_piece` is told every piece of every reply, and where pieces are void.

        `concurrency` bounds the deliveries of one agent that are in hand, `max_open` those of one session that are open.
        """
        self._store = store
        self._clock = clock
        self._connectors = connectors
        self._on_piece = on_piece
        self._policy = policy
        self._lease_s = lease_seconds
        self._concurrency = concurrency
        self._max_open = max_open
        self._lines: dict[str, _Line] = {}
        self._lanes: dict[str, _Lane] = {}
        self._followers: dict[str, _Follower] = {}
        self._awaited: dict[str, dict[int, list[_Follower]]] = {}
        # By agent: open deliveries, those in hand, the last failure, and why it cannot be asked, as it was logged.
        self._open: Counter[str] = Counter()
        self._in_hand: Counter[str] = Counter()
        self._last_failures: OrderedDict[str, LastFailure] = OrderedDict()
        self._unavailable: dict[str, str] = {}
        self._stopping = False
        self._troubled = False

    async def start(self) -> None:
        """Takes up what an earlier run has left open. Its leases are void: nobody is connected yet."""
        now_ms = self._clock.now_ms()
        for left in await self._store.list_open():
            if left.session_id not in self._lines:
                line = self._lines[left.session_id] = _Line(left.session_id, left.agent_id, 0, left.sequence, resting=left.sequence)
                self._count(line, left.open)
                # A clock that was set back must not make it rest longer than it ever should.
                self._rest(line, min(left.due_at_ms - now_ms, self._policy.longest_backoff_ms) / 1000)

    async def stop(self) -> None:
        """Gives out nothing more, and waits for what is in the agents' hands. The rest is taken up at the next start."""
        self._stopping = True
        for line in list(self._lines.values()):
            if line.timer:
                line.timer.cancel()
            if line.task and line.sequence is None:
                line.task.cancel()
        for session_id, awaited in list(self._awaited.items()):
            in_hand = self._lines[session_id].sequence if session_id in self._lines else None
            for sequence, followers in awaited.items():
                for follower in followers if sequence != in_hand else ():
                    follower.progress.put_nowait(AgentReplyTimeoutError(session_id, follower.message_id))
        if tasks := [line.task for line in self._lines.values() if line.task]:
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """Lets go of what `stop` has waited for long enough, or was not waited for; it is given again at the next start."""
        self._stopping = True
        tasks = [line.task for line in self._lines.values() if line.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def committed(self, commit: Commit) -> None:
        """Takes up the messages of users that a commit has stored, and tells those who wait for replies what it has brought."""
        for outcome in commit.outcomes:
            session = outcome.session
            if session.expired:
                self._ended(session.id, SessionExpiredError(session.id, session.expires_at_ms))
                continue
            for entry in outcome.entries:
                self._tell_entry(entry)
                # Told by the message: a delivery is also pending, and without attempts, after one that was not charged to it.
                if entry.message and not entry.message.is_agent:
                    self._arrived(session.id, session.agent_id, entry.sequence)
        for session_id in commit.deleted:
            self._ended(session_id, SessionNotFoundError(session_id))

    async def answer(self, delivery_id: str, reply: Reply, *, agent_id: str | None = None, reply_id: str | None = None) -> Outcome:
        """Stores the reply to a delivery, whoever gives it and whatever has become of the lease.

        :raises DeliveryNotFoundError: there is no such delivery, or it is another agent's than `agent_id`
        :raises DomainError: what the rule `answer` raises
        """
        session_id, sequence = parse_delivery_id(delivery_id)
        rule = partial(answer, reply_id=reply_id or new_id(), reply=reply, agent_id=agent_id)
        return await self._store.apply_delivery(session_id, sequence, rule)

    @contextmanager
    def following(self, message_id: str) -> Iterator[ReplyProgress]:
        """The progress of the reply to a message of the user, from before it is stored."""
        follower = self._followers[message_id] = _Follower(message_id)
        try:
            yield follower.progress
        finally:
            self._followers.pop(message_id, None)
            self._unfollow(follower)

    async def follow_again(self, message_id: str, stored_id: str, session_id: str, sequence: int) -> None:
        """Has whoever follows `message_id`, which was not stored after all, follow the message `stored_id`, stored before as `sequence`."""
        follower = self._followers.pop(message_id)
        follower.message_id = stored_id
        if self._stopping:
            follower.progress.put_nowait(AgentReplyTimeoutError(session_id, stored_id))
            return
        self._await(follower, session_id, sequence)
        if entry := await self._store.find_answer(session_id, sequence):
            follower.progress.put_nowait(_end(entry))

    def status(self, agent_id: str) -> AgentStatus:
        """How an agent fares. Costs the same whatever is open."""
        return AgentStatus(self._open[agent_id], self._in_hand[agent_id], self._last_failures.get(agent_id))

    def forget(self, agent_id: str) -> None:
        """Forgets what was noted of an agent that has been removed."""
        self._last_failures.pop(agent_id, None)
        self._unavailable.pop(agent_id, None)

    def require_room(self, session_id: str) -> None:
        """Raises OverloadedError when no more messages of a session may wait for its agent."""
        line = self._lines.get(session_id)
        if line and line.open >= self._max_open:
            raise OverloadedError("too many messages of this session wait for its agent")

    def _arrived(self, session_id: str, agent_id: str, sequence: int) -> None:
        if line := self._lines.get(session_id):
            self._count(line, 1)
            line.news = True
        elif not self._stopping:
            line = self._lines[session_id] = _Line(session_id, agent_id, 0, sequence)
            self._count(line, 1)
            self._ready(line)

    def _count(self, line: _Line, more: int) -> None:
        """So many more deliveries of a session are open."""
        line.open += more
        _add(self._open, line.agent_id, more)

    def _ended(self, session_id: str, error: DomainError) -> None:
        """A session that has ended gets no replies any more."""
        for followers in self._awaited.pop(session_id, {}).values():
            for follower in followers:
                follower.progress.put_nowait(error)
        line = self._lines.pop(session_id, None)
        if line is None:
            return
        self._count(line, -line.open)
        if line.timer:
            line.timer.cancel()
        # Whoever follows hears of the end, which is more.
        line.attempt = None
        if line.task:
            line.task.cancel()
        elif lane := self._lanes.get(line.agent_id):
            lane.ready.pop(session_id, None)

    def _tell_entry(self, entry: Entry) -> None:
        message, failure = entry.message, entry.failure
        if message and not message.is_agent:
            if follower := self._followers.pop(message.id, None):
                if self._stopping:
                    follower.progress.put_nowait(AgentReplyTimeoutError(entry.session_id, message.id))
                else:
                    self._await(follower, entry.session_id, entry.sequence)
            return
        closed = message.answers if message else failure.message_sequence if failure else None
        if closed is None:
            return
        line = self._lines.get(entry.session_id)
        if line and line.attempt and line.sequence == closed:
            if message and message.id == line.attempt.work.reply_id:
                line.attempt = None
            else:
                # The reply came by other means, and under another id than the pieces.
                self._abort(line)
        for follower in self._awaited.get(entry.session_id, {}).pop(closed, ()):
            follower.progress.put_nowait(_end(entry))
        if line:
            if closed >= line.head:
                # Not a late reply to a message that had failed: only the first open delivery ever fails.
                self._count(line, -1)
            if failure:
                line.head = closed + 1
            line.closed.add(closed)
            if line.sequence == closed and line.asking:
                # Done already, where the reply came by it.
                line.asking.cancel()
            elif line.timer and line.resting == closed:
                line.timer.cancel()
                self._ready(line)

    def _await(self, follower: _Follower, session_id: str, sequence: int) -> None:
        follower.session_id, follower.sequence = session_id, sequence
        self._awaited.setdefault(session_id, {}).setdefault(sequence, []).append(follower)

    def _unfollow(self, follower: _Follower) -> None:
        awaited = self._awaited.get(follower.session_id, {})
        followers = awaited.get(follower.sequence, [])
        if follower in followers:
            followers.remove(follower)
        if not followers:
            awaited.pop(follower.sequence, None)
        if not awaited:
            self._awaited.pop(follower.session_id, None)

    def _rest(self, line: _Line, seconds: float) -> None:
        if seconds > 0:
            line.timer = asyncio.get_running_loop().call_later(seconds, self._ready, line)
        else:
            self._ready(line)

    def _ready(self, line: _Line) -> None:
        line.timer = line.resting = None
        lane = self._lanes.setdefault(line.agent_id, _Lane())
        lane.ready[line.session_id] = line
        self._pump(lane)

    def _pump(self, lane: _Lane) -> None:
        while lane.ready and lane.in_hand < self._concurrency and not self._stopping:
            _, line = lane.ready.popitem(last=False)
            lane.in_hand += 1
            line.task = asyncio.create_task(self._run(line))
            # Called also where the task is cancelled before it has begun.
            line.task.add_done_callback(partial(self._ran, line, lane))

    async def _run(self, line: _Line) -> float | None:
        """Gives out the next delivery of a session; returns how long the session then rests, in seconds, or None when nothing is open."""
        line.news = False
        line.closed.clear()
        try:
            rest_s = await self._deliver_next(line)
        except STORE_TROUBLE as error:
            if not self._troubled:
                log.warning("deliveries are held up", cause=str(error))
            self._troubled = True
        except Exception:
            log.exception("a delivery is held up", error_id=uuid.uuid4().hex, session_id=line.session_id)
        else:
            self._troubled = False
            return rest_s
        return STORE_TROUBLE_SECONDS

    def _ran(self, line: _Line, lane: _Lane, task: asyncio.Task[float | None]) -> None:
        """Decides how it goes on with a session."""
        if line.sequence is not None:
            _add(self._in_hand, line.agent_id, -1)
        line.task, line.sequence, line.asking, line.attempt = None, None, None, None
        lane.in_hand -= 1
        if self._lines.get(line.session_id) is line:
            rest_s = STORE_TROUBLE_SECONDS if task.cancelled() else task.result()
            if rest_s is not None:
                self._rest(line, rest_s)
            elif line.news:
                self._ready(line)
            else:
                self._count(line, -line.open)
                del self._lines[line.session_id]
        self._pump(lane)
        if not lane.ready and not lane.in_hand and self._lanes.get(line.agent_id) is lane:
            del self._lanes[line.agent_id]

    async def _deliver_next(self, line: _Line) -> float | None:
        """Gives out the first open delivery; returns how long the session then rests, in seconds, or None when nothing is open."""
        head = await self._store.next_delivery(line.session_id)
        if head is None:
            return None
        if not head.delivery.attempts:
            line.last_reply_id = ""
        with suppress(AgentChangedError, DeliveryNotLeasedError, DeliveryAnsweredError):
            try:
                agent = await self._store.get_agent(line.agent_id)
                async with self._connectors[agent.kind].slot(agent) as slot:
                    failure = await self._attempt(line, agent, head, slot)
            except AgentNotFoundError:
                failure = NoReplyError("the agent has been removed", final=True)
            except AgentUnavailableError as unavailable:
                line.resting = head.delivery.sequence
                return self._hold_up(line, head, unavailable)
            except (SessionExpiredError, SessionNotFoundError, DeliveryNotFoundError):
                return None
            if failure:
                rest_s = await self._failed(head, failure, line.last_reply_id)
                line.resting = head.delivery.sequence
                return rest_s
        return 0

    async def _attempt(self, line: _Line, agent: Agent, head: OpenDelivery, slot: Slot) -> NoReplyError | None:
        """Leases a delivery, asks for the reply and stores it. Raises DomainError where the lease cannot be had or the store written."""
        lease_s = agent.settings.timeout_seconds if agent.settings else self._lease_s
        message = head.entry.message
        assert message is not None
        rule = partial(
            lease,
            lease_ms=round(lease_s * 1000),
            message_id=message.id,
            policy=self._policy,
            last_reply_id=line.last_reply_id,
        )
        outcome = await self._store.apply_delivery(line.session_id, head.delivery.sequence, rule)
        (delivery,) = outcome.deliveries
        if delivery.state is not DeliveryState.LEASED:
            self._note_failure(outcome.session.agent_id, message.id, delivery)
            return None
        line.unavailable = 0
        if self._unavailable.pop(agent.id, None):
            log.info("agent can be asked again", agent_id=agent.id)
        work = Work(agent, outcome.session, head.entry, delivery, new_id(), self._store)
        if delivery.sequence in line.closed:
            return None
        line.sequence, line.last_reply_id = delivery.sequence, work.reply_id
        _add(self._in_hand, agent.id, 1)
        line.attempt = attempt = _Attempt(work)
        try:
            reply = await self._ask(line, attempt, slot, lease_s)
            if not isinstance(reply, Reply):
                return reply
            await self.answer(delivery.id, reply, reply_id=work.reply_id)
        except (InvalidContentError, InvalidMetadataError) as error:
            return NoReplyError(f"the agent's reply cannot be stored: {error}", final=True)
        finally:
            # Before anything is written down of the failure; there is none where the reply is stored.
            self._abort(line)
        return None

    async def _ask(self, line: _Line, attempt: _Attempt, slot: Slot, lease_s: float) -> Reply | NoReplyError | None:
        """The reply to a leased delivery, or why there is none; None when it came by other means."""
        loop = asyncio.get_running_loop()
        line.lease_end_s = loop.time() + lease_s
        line.asking = asking = asyncio.create_task(_reply(slot, attempt.work, self._emitter(line, attempt, lease_s)))
        try:
            while not asking.done() and (left_s := line.lease_end_s - loop.time()) > 0:
                await asyncio.wait([asking], timeout=left_s)
            if not asking.done():
                return NoReplyError(f"the agent did not reply within {lease_s:g} seconds", final=False)
            if asking.cancelled():
                return None
            return asking.result()
        except NoReplyError as failure:
            forget_frames(failure)
            return failure
        except DomainError as error:
            if isinstance(error, STORE_TROUBLE):
                raise
            return NoReplyError(f"the agent's reply cannot be stored: {error}", final=True)
        except Exception as error:  # noqa: BLE001 - it is logged with the failure that it becomes
            return _internal(error)
        finally:
            asking.cancel()
            await asyncio.wait([asking])
            if not asking.cancelled():
                # Looked at, lest Python complain that nobody did.
                asking.exception()
            # An error that the task raised here has this frame, which must not have the task.
            del asking

    def _emitter(self, line: _Line, attempt: _Attempt, lease_s: float) -> Callable[[str], None]:
        work, length = attempt.work, 0

        def emit(text: str) -> None:
            nonlocal length
            length += len(text)
            if length > MAX_REPLY_CODE_POINTS:
                raise InvalidContentError(f"a reply must have at most {MAX_REPLY_CODE_POINTS} characters")
            if not text or line.attempt is not attempt:
                # What comes once the attempt is over belongs to nothing.
                return
            if work.agent.settings is None:
                # An agent with a timeout of its own gets no more than that by talking.
                line.lease_end_s = asyncio.get_running_loop().time() + lease_s
            sequence, number, after = work.entry.sequence, work.delivery.attempts, work.session.last_sequence
            self._tell_piece(Chunk(line.session_id, work.agent.id, work.reply_id, text, attempt.pieces, sequence, number, after))
            attempt.pieces += 1

        return emit

    def _abort(self, line: _Line) -> None:
        """Ends the attempt under way, if there is one, and tells that its pieces are void, if there are any."""
        attempt, line.attempt = line.attempt, None
        if attempt and attempt.pieces:
            work = attempt.work
            sequence, number, after = work.entry.sequence, work.delivery.attempts, work.session.last_sequence
            self._tell_piece(Abort(line.session_id, work.agent.id, work.reply_id, sequence, number, after))

    def _tell_piece(self, piece: Piece) -> None:
        self._on_piece(piece)
        for follower in self._awaited.get(piece.session_id, {}).get(piece.answers, ()):
            follower.progress.put_nowait(piece)

    async def _failed(self, head: OpenDelivery, failure: NoReplyError, last_reply_id: str) -> float | None:
        """Writes down that an attempt came to nothing; returns how long the session rests before the next, in seconds."""
        message, delivery = head.entry.message, head.delivery
        assert message is not None
        jitter = random.random()
        # Lost connections make it rest longer, too: a message that kills who takes it must not do so every second.
        backoff_ms = self._policy.backoff_ms(delivery.attempts + delivery.lost_connections + 1, jitter)
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
        )
        try:
            outcome = await self._store.apply_delivery(delivery.session_id, delivery.sequence, rule)
        except (SessionExpiredError, SessionNotFoundError):
            return None
        final = self._note_failure(outcome.session.agent_id, message.id, outcome.deliveries[0], failure)
        return 0 if final else backoff_ms / 1000

    def _note_failure(self, agent_id: str, message_id: str, delivery: Delivery, cause: NoReplyError | None = None) -> bool:
        """Logs an attempt that came to nothing, and keeps it for the agent's status; returns whether it was the last."""
        failure, final = delivery.last_failure, delivery.state is DeliveryState.FAILED
        assert failure is not None
        self._keep_failure(agent_id, LastFailure(delivery.session_id, message_id, failure, final))
        told = {"agent_id": agent_id, "session_id": delivery.session_id, "message_id": message_id, "attempt": failure.attempt}
        told |= {"final": final, "reason": failure.reason, "detail": failure.detail}
        if cause and cause.error_id:
            log.error("no reply", error_id=cause.error_id, **told, exc_info=cause.__cause__)
        elif final:
            log.warning("no reply", **told)
        else:
            log.info("no reply", **told)
        if cause:
            forget_frames(cause)
        return final

    def _keep_failure(self, agent_id: str, failure: LastFailure) -> None:
        self._last_failures[agent_id] = failure
        self._last_failures.move_to_end(agent_id)
        if len(self._last_failures) > MAX_AGENTS_NOTED:
            self._last_failures.popitem(last=False)

    def _hold_up(self, line: _Line, head: OpenDelivery, failure: AgentUnavailableError) -> float:
        """Has a delivery rest whose agent cannot even be asked, which is the operator's to mend; returns how long, in seconds.

        Nothing is written down: it uses up no attempt, and is tried again at once after a restart.
        """
        assert head.entry.message is not None
        line.unavailable += 1
        noted = AttemptFailure(self._clock.now_ms(), 0, failure.reason, failure.detail)
        self._keep_failure(line.agent_id, LastFailure(line.session_id, head.entry.message.id, noted, final=False))
        if self._unavailable.get(line.agent_id) != failure.detail:
            log.warning("agent cannot be asked", agent_id=line.agent_id, cause=failure.detail)
            self._unavailable[line.agent_id] = failure.detail
        return self._policy.backoff_ms(line.unavailable, random.random()) / 1000


async def _reply(slot: Slot, work: Work, emit: Emit) -> Reply:
    """Asks for the reply. Cleans its pieces on their way out, and joins surrogate halves across them."""
    joiner = TextJoiner()
    reply = await slot.reply(work, lambda piece: emit(joiner.add(piece)))
    emit(joiner.flush())
    return reply


def _internal(error: Exception) -> NoReplyError:
    """What an attempt came to that met with something unforeseen."""
    error_id = uuid.uuid4().hex
    fault = NoReplyError(f"internal error {error_id}", final=True, error_id=error_id)
    fault.__cause__ = error
    return fault


def _add(counts: Counter[str], key: str, more: int) -> None:
    """Counts on, and keeps no zeros."""
    counts[key] += more
    if not counts[key]:
        del counts[key]


def _end(entry: Entry) -> Progress:
    """What a follower is told last: the reply, or why there is none."""
    failure = entry.failure
    return AgentReplyError(entry.session_id, failure.message_id, failure.reason) if failure else entry
