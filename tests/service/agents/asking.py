"""A store, the connectors of all kinds and a dispatcher in this process, and how to ask an agent something
through them.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from server.agents.connector import History, NoReplyError, Work
from server.agents.connectors import Connectors, build_connectors
from server.clock import SystemClock
from server.delivery.dispatcher import Dispatcher
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind, OpenAiSettings, WebhookSettings
from server.domain.deliveries import AttemptFailure, DeliveryState, RetryPolicy
from server.domain.log import Chunk, Entry, ReplyFailure
from server.domain.messages import Draft, Message
from server.domain.sessions import send_message
from server.lifecycle.watch import Watch
from server.lifecycle.watches import Watches
from server.store import build_clock, open_store
from server.store.contract import Store
from tests.store.conformance.common import first_open
from tests.support.service import direct_url
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import POLICY, put, session

ATTEMPTS = 2


@dataclass
class Answer:
    """What came of a message: its pieces, and the entry that ended it, a reply or a failure."""

    entry: Entry
    chunks: list[str] = field(default_factory=list)

    @property
    def message(self) -> Message:
        assert self.entry.message is not None, self.entry
        return self.entry.message

    @property
    def failed(self) -> tuple[str, int]:
        """Why there is no reply, and after how many attempts."""
        assert isinstance(self.entry.event, ReplyFailure), self.entry
        return self.entry.event.reason, self.entry.event.attempts


@dataclass
class Asking:
    """Agents are registered unchecked, so that also what a registration refuses can be tried."""

    directory: Path
    store: Store
    connectors: Connectors
    dispatcher: Dispatcher
    signals: Watches

    async def session(self, settings: WebhookSettings | OpenAiSettings, metadata: str = "{}") -> str:
        """A session with a new agent that has these settings."""
        return await self.session_with(await self.agent(settings), metadata)

    async def agent(self, settings: WebhookSettings | OpenAiSettings) -> str:
        made = agent(settings)
        await self.store.create_agent(made)
        return made.id

    async def session_with(self, agent_id: str, metadata: str = "{}") -> str:
        made = session(SystemClock().now_ms(), agent_id=agent_id, metadata=metadata)
        await put(self.store, made)
        return made.id

    async def ask(
        self,
        session_id: str,
        content: str = "hello",
        metadata: str = "{}",
        attachments: str | None = None,
        *,
        seen: Callable[[str], object] = len,
    ) -> Answer:
        """Sends a message and waits for what comes of it; `seen` is told each piece as it comes."""
        message_id = str(uuid.uuid4())
        chunks: list[str] = []
        with closing(Watch(self.store, self.signals, scope=EVERYTHING)) as watch:
            await watch.join(session_id, None)
            rule = partial(send_message, message_id=message_id, draft=Draft(content, metadata, attachments))
            sent = (await self.store.apply(session_id, rule, scope=EVERYTHING)).entry
            while items := await watch.next(PATIENCE_SECONDS):
                for item in items:
                    match item:
                        case (_, Chunk() as chunk) if chunk.answers == sent.sequence:
                            chunks.append(chunk.text)
                            seen(chunk.text)
                        case (_, Entry() as entry) if entry.answers == sent.sequence:
                            failure = entry.event
                            assert not isinstance(failure, ReplyFailure) or failure.message_id == message_id
                            return Answer(entry, chunks)
        raise AssertionError("nothing came of the message")


def agent(settings: WebhookSettings | OpenAiSettings) -> Agent:
    """An agent of the kind that has these settings."""
    kind = AgentKind.WEBHOOK if isinstance(settings, WebhookSettings) else AgentKind.OPENAI
    now_ms = SystemClock().now_ms()
    return Agent(str(uuid.uuid4()), f"a {kind}", kind, now_ms, now_ms, settings=settings)


async def rests(asked: Asking, session_id: str) -> int:
    """Waits until the first attempt at a session's delivery has come to nothing; returns when the next is
    due, in ms.
    """
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = await first_open(asked.store, await asked.store.get_session(session_id, scope=EVERYTHING))
            if (
                found
                and found.delivery.attempts
                and found.delivery.state is DeliveryState.PENDING
                and found.delivery.due_at_ms
            ):
                return found.delivery.due_at_ms
            await asyncio.sleep(0.002)


async def fails(asked: Asking, settings: WebhookSettings | OpenAiSettings) -> NoReplyError:
    """What one attempt at a message comes to, as its connector tells the dispatcher."""
    made, now_ms = agent(settings), SystemClock().now_ms()
    sent = send_message(
        session(now_ms, agent_id=made.id), now_ms, message_id=str(uuid.uuid4()), draft=Draft("hello")
    )
    work = Work(made, sent.session, sent.entry, sent.delivery, str(uuid.uuid4()), History([]))
    async with asked.connectors.by_kind[made.kind].slot(made) as slot:
        with pytest.raises(NoReplyError) as raised:
            await slot.reply(work, len)
    return raised.value


async def cannot_be_asked(asked: Asking, session_id: str, times: int = ATTEMPTS * 3) -> AttemptFailure:
    """Waits until a session's agent could not even be asked, so often that all attempts would be used up;
    returns why.
    """
    agent_id = (await asked.store.get_session(session_id, scope=EVERYTHING)).agent_id
    seen: dict[int, AttemptFailure] = {}
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(seen) < times:
            last = asked.dispatcher.statuses.status(agent_id).last_failure
            if last and last.session_id == session_id and not last.failure.attempt:
                assert not last.final
                seen[last.failure.at_ms] = last.failure
            await asyncio.sleep(0.002)
    found = await first_open(asked.store, await asked.store.get_session(session_id, scope=EVERYTHING))
    assert found is not None
    assert (found.delivery.state, found.delivery.attempts) == (DeliveryState.PENDING, 0)
    return max(seen.values(), key=lambda failure: failure.at_ms)


@asynccontextmanager
async def asking(
    directory: Path,
    *,
    allowed_hosts: Sequence[str] = ("127.0.0.1",),
    first_backoff_ms: int = 5,
    attempts: int = ATTEMPTS,
) -> AsyncIterator[Asking]:
    """All of it, running. Secrets may be in the directory."""
    url = direct_url(directory)
    clock = build_clock(url, is_test=False)
    store = await open_store(url, clock)
    allowed_secrets = [f"{directory}/*", "AGENT_SECRET_*", "AGENT_SECRET_*@127.0.0.1"]
    connectors = build_connectors(POLICY, allowed_hosts=allowed_hosts, allowed_secrets=allowed_secrets)
    policy = RetryPolicy(attempts, first_backoff_ms, first_backoff_ms * 10)
    signals = Watches()
    dispatcher = Dispatcher(
        store, clock, connectors.by_kind, signals.piece, policy=policy, lease_seconds=60, concurrency=100
    )
    store.add_listener(signals.on_commit)
    store.add_listener(dispatcher.on_commit)
    await dispatcher.start()
    try:
        yield Asking(directory, store, connectors, dispatcher, signals)
    finally:
        await dispatcher.abandon()
        await connectors.client.aclose()
        await store.close()
