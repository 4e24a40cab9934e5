"""A store with every kind of row, made by the rules on any back end."""

import json
import uuid
from functools import partial
from random import Random
from typing import Final

from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind, OpenAiSettings, WebhookSettings
from server.domain.idempotency import RequestKey
from server.domain.messages import Draft, Reply
from server.domain.replies import answer as answer_delivery
from server.domain.sessions import Session, fall_due, heartbeat, send_message
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Store
from tests.store.conformance.common import again, agent, expire, give_up, patch, respond, stumble, take
from tests.unit.samples import MINUTE, T0, put, session

ODD: Final = "e\u0301 \U0001f600 \u2028\x7f\t\r\n\\. \\N \\x41 \"'; -- \U0010ffff\ufffd"
"""Text that means something to those that carry it: COPY, JSON, SQL."""
ODD_JSON: Final = json.dumps({"\0": "a\0b\\u0000", ODD: [1.5, None, True, 2**53]})
LEFT: Final = 600
"""More messages than go together with their session: a removed one leaves some for the purge."""
SESSIONS: Final = 13
"""How many sessions `fill` leaves."""
STREAM: Final = str(uuid.UUID(int=2))


async def fill(store: Store) -> None:
    """Adds every kind of row. The store's clock is at T0."""
    await _add_agents(store)
    random = Random(1)
    await _say(store, await _add(store, random, metadata=ODD_JSON), Draft(ODD, ODD_JSON, json.dumps([ODD])))
    await _converse(store, await _add(store, random, tenant="north"))
    await _fail(store, await _add(store, random))
    await _wait(store, await _add(store, random, user_id=str(uuid.UUID(int=77))))
    await _hold(store, await _add(store, random, agent_id=STREAM, tenant="a\u00e9"))
    await _change(store, await _add(store, random))
    await _end(store, await _add(store, random), None)
    await _end(
        store, await _add(store, random, retention_ms=90 * MINUTE, user_id=str(uuid.UUID(int=78))), "m"
    )
    warned = await _add(store, random)
    await store.apply(warned.id, lambda one, now_ms: fall_due(one, one.warn_at_ms), scope=EVERYTHING)
    for _ in range(SESSIONS - 9):
        await _add(store, random)
    left = await _add(store, random)
    for number in range(LEFT):
        await _say(store, left, Draft(f"left {number}"), RequestKey(f"session:{left.id}", str(number), "f"))
    await store.delete_session(left.id, scope=EVERYTHING)


async def _add_agents(store: Store) -> None:
    await store.seed_agent(agent(1, name=ODD[:5], retention_minutes=1.5))
    await store.create_agent(agent(2, kind=AgentKind.STREAM, tenant="north"))
    hook = WebhookSettings("https://example.com/hook", "env:SECRET", 1.25, 3)
    config = PartialTimeoutConfig(31.5, False, None, 5.0)
    await store.create_agent(agent(3, kind=AgentKind.WEBHOOK, settings=hook, timeout=config))
    asked = OpenAiSettings("model", "https://example.com/v1", "env:KEY", ODD)
    await store.create_agent(agent(4, kind=AgentKind.OPENAI, settings=asked))
    gone: Agent = agent(5)
    await store.seed_agent(gone)
    await store.delete_agent(gone.id, scope=EVERYTHING)


async def _add(
    store: Store, random: Random, *, tenant: str = "", retention_ms: int | None = None, **fields: str
) -> Session:
    new = session(session_id=str(uuid.UUID(int=random.getrandbits(128), version=4)), **fields)
    new = new._replace(tenant=tenant, retention_ms=retention_ms)
    await put(store, new, RequestKey(f"user:{new.user_id}", f"create {new.id} {ODD[:4]}", "print"))
    return new


async def _say(store: Store, of: Session, draft: Draft, request: RequestKey | None = None) -> int:
    rule = partial(
        send_message, message_id=str(uuid.uuid4()), draft=draft, max_open=10**6, trace="00-ab-cd-01"
    )
    outcome = await store.apply(of.id, rule, request, scope=EVERYTHING)
    return outcome.session.last_sequence


async def _converse(store: Store, of: Session) -> None:
    """Messages with replies, each with all that a reply can have."""
    for number in range(20):
        key = RequestKey(f"session:{of.id}", f"key {number}", "print")
        sequence = await _say(store, of, Draft(f"{number} {ODD}"), key)
        await store.apply_delivery(of.id, sequence, take, scope=EVERYTHING)
        reply = Reply(Draft(ODD * 3, ODD_JSON), thought=f"a\0b {ODD}", actions=("A\0", ODD))
        answered = partial(answer_delivery, reply_id=str(uuid.uuid4()), reply=reply)
        await store.apply_delivery(of.id, sequence, answered, scope=EVERYTHING)


async def _fail(store: Store, of: Session) -> None:
    """A message that has failed for good, one that is delivered anew, and others behind it."""
    sequences = [await _say(store, of, Draft(f"fails {number}")) for number in range(4)]
    for sequence in sequences[:2]:
        await store.apply_delivery(of.id, sequence, take, scope=EVERYTHING)
        await store.apply_delivery(of.id, sequence, give_up, scope=EVERYTHING)
    await store.apply_delivery(of.id, sequences[1], again, scope=EVERYTHING)


async def _wait(store: Store, of: Session) -> None:
    """A message that rests after an attempt, and one behind it."""
    sequence = await _say(store, of, Draft("rests"))
    await _say(store, of, Draft("waits"))
    await store.apply_delivery(of.id, sequence, take, scope=EVERYTHING)
    lost = partial(stumble, connection_lost=True, detail=ODD)
    await store.apply_delivery(of.id, sequence, lost, scope=EVERYTHING)
    await store.apply_delivery(of.id, sequence, take, scope=EVERYTHING)
    await store.apply_delivery(of.id, sequence, stumble, scope=EVERYTHING)


async def _hold(store: Store, of: Session) -> None:
    """A message that a server has given out, and one behind it."""
    await _say(store, of, Draft("held"))
    await _say(store, of, Draft("behind"))
    (leased,) = await store.lease_due(of.agent_id, T0 + MINUTE, 1, rule=partial(take.func, **_LEASE))
    assert leased.session.id == of.id


_LEASE: Final = {name: value for name, value in take.keywords.items() if name != "message_id"}


async def _change(store: Store, of: Session) -> None:
    await store.apply(of.id, patch(timeout_minutes=45.5, auto_renew=False), scope=EVERYTHING)
    await store.apply(of.id, heartbeat, scope=EVERYTHING)


async def _end(store: Store, of: Session, message: str | None) -> None:
    """A session that has expired, with a message that nobody has answered."""
    if message:
        await _say(store, of, Draft(message))
        sequence = await _say(store, of, Draft(message))
        await store.apply_delivery(of.id, sequence, respond(), scope=EVERYTHING)
    await store.apply(of.id, expire, scope=EVERYTHING)
