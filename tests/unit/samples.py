"""What the tests of rules and stores start from: a policy, a session, and strategies for what clients may
ask.
"""

import math
import uuid
from collections.abc import Coroutine
from typing import Any

from hypothesis import strategies as st

from server.agents.connector import History, Work
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import Delivery, DeliveryState
from server.domain.idempotency import RequestKey
from server.domain.log import Entry
from server.domain.messages import Draft, Reply
from server.domain.replies import answer
from server.domain.sessions import Outcome, Rule, Session, create, send_message
from server.domain.timeouts import NOTHING_NAMED, PartialTimeoutConfig, TimeoutConfig, TimeoutPolicy
from server.store.contract import Store

T0 = 1_769_850_300_000
"""2026-01-31T09:05:00.000Z."""
MINUTE = 60_000
POLICY = TimeoutPolicy(TimeoutConfig(30.0, True, 720.0, 5.0), 5.0, 1440.0)
"""The documented defaults and bounds."""
AGENT = "00000000-0000-4000-8000-0000000000aa"
USER = "11111111-1111-4111-8111-111111111111"

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
"""Text that a store must keep: all of Unicode but NUL and surrogates."""

MINUTES = st.one_of(
    st.floats(5, 1440),
    st.integers(1, 3000).map(float),
    st.sampled_from([0.0, -1.0, 4.999, 5.0, 1440.0, 1440.1, 2880.0, 1e9, math.inf, -math.inf]),
)
"""Minutes as a client may ask for them, in range and out of it, but not NaN."""


def partials(minutes: st.SearchStrategy[float] = MINUTES) -> st.SearchStrategy[PartialTimeoutConfig]:
    """Timeout settings, each of them named or not."""
    maybe = st.none() | minutes
    return st.builds(PartialTimeoutConfig, maybe, st.none() | st.booleans(), maybe, maybe)


def session(
    now_ms: int = T0,
    timeout: PartialTimeoutConfig = NOTHING_NAMED,
    *,
    agent: PartialTimeoutConfig = NOTHING_NAMED,
    session_id: str | None = None,
    agent_id: str = AGENT,
    user_id: str = USER,
    metadata: str = "{}",
) -> Session:
    """A session as `create` makes it."""
    made_for = Agent(agent_id, "sample", AgentKind.ECHO, now_ms, now_ms, agent)
    return create(
        made_for,
        now_ms,
        session_id=session_id or str(uuid.uuid4()),
        channel_id=str(uuid.uuid4()),
        agent_id=agent_id,
        user_id=user_id,
        metadata=metadata,
        policy=POLICY,
        timeout=timeout,
    )


def put(store: Store, new: Session, request: RequestKey | None = None) -> Coroutine[Any, Any, Outcome]:
    """Has a store create a session that is made already."""
    return store.create_session(new.agent_id, lambda agent, now_ms: new, request, scope=EVERYTHING)


def answering(reply: Reply, reply_id: str | None = None) -> Rule:
    """The rule `answer`, for a delivery of the latest entry, as a rule of the session alone."""
    reply_id = reply_id or str(uuid.uuid4())

    def rule(start: Session, now_ms: int) -> Outcome:
        state = DeliveryState.LEASED if start.open_deliveries else DeliveryState.FAILED
        delivery = Delivery(start.id, start.last_sequence, state, 1, None)
        return answer(start, delivery, now_ms, reply_id=reply_id, reply=reply)

    return rule


def logged(outcome: Outcome) -> list[Entry]:
    """What a rule has appended to the log."""
    return [outcome.entry] if outcome.entry else []


def work(content: str) -> Work:
    """What the echo is asked to answer: the first message of a session."""
    outcome = send_message(session(), T0, message_id=str(uuid.uuid4()), draft=Draft(content))
    assert outcome.entry
    assert outcome.delivery
    agent = Agent(AGENT, "echo", AgentKind.ECHO, T0, T0)
    return Work(agent, outcome.session, outcome.entry, outcome.delivery, str(uuid.uuid4()), History([]))
