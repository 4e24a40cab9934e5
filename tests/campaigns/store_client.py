"""The load on a store for the campaigns."""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from server.clock import TestClock
from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.deliveries import DeliveryState, RetryPolicy
from server.domain.errors import DomainError
from server.domain.idempotency import request_key
from server.domain.log import Event, ExpirationWarning, Expiry, Renewal, ReplyFailure, TimeoutChange
from server.domain.messages import AgentMessage, Draft, Reply, UserMessage
from server.domain.replies import answer, fail, lease
from server.domain.sessions import (
    Outcome,
    Rule,
    due_at_ms,
    fall_due,
    heartbeat,
    renew,
    send_message,
    update_timeout,
)
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Store
from tests.campaigns.store_model import Asked, Doubt, Model
from tests.unit.samples import MINUTE, POLICY, USER, put
from tests.unit.samples import session as session_of

_Kinds = frozenset[type[Event]]
ROUNDS: Final = RetryPolicy(3, 1000, 60_000)


class Client:
    """Asks the store for one thing after the other, as its random numbers say, and notes what comes of it."""

    def __init__(self, store: Store, clock: TestClock, model: Model, seed: str) -> None:
        self._store, self._clock, self._model = store, clock, model
        self._rng = random.Random(seed)
        self._deeds: Final = {
            self.create: 3,
            self.say: 10,
            self.say_twice: 2,
            self.repeat: 2,
            self.deliver: 8,
            self.keep: 3,
            self.patch: 1,
            self.delete: 0.7,
            self.pass_time: 1,
            self.purge: 0.7,
            self.agent: 1,
            self.probe: 0.3,
        }

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            (deed,) = self._rng.choices(list(self._deeds), list(self._deeds.values()))
            await deed()

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _any(self) -> str | None:
        live = [
            one
            for one, known in self._model.sessions.items()
            if known.session and not known.gone and not known.session.expiry_logged
        ]
        return self._rng.choice(live[-40:]) if live else None

    async def _apply(
        self, session_id: str, doubt: Doubt, call: Callable[[], Awaitable[Outcome]]
    ) -> Outcome | None:
        with self._model.asking(session_id, doubt):
            try:
                outcome = await call()
            except DomainError as error:
                self.refused(error)
                return None
            self._model.take(outcome)
        return outcome

    def refused(self, error: DomainError) -> None:
        """Is told of each refusal."""

    async def create(self) -> None:
        metadata = '{"x":"' + "y" * self._rng.randrange(400) + '"}'
        minutes = self._rng.choice([5.0, 30.0, 60.0])
        session_id = self._uuid()
        timeout = PartialTimeoutConfig(timeout_minutes=minutes, auto_renew=self._rng.random() < 0.5)
        session = session_of(self._clock.now_ms(), timeout, session_id=session_id, metadata=metadata)
        asked = request_key(
            f"user:{USER}", self._uuid() if self._rng.random() < 0.7 else "", metadata, session.id
        )

        def call(store: Store, session_id: str) -> Awaitable[Outcome]:
            # A channel is new whenever its session is.
            return put(store, session._replace(id=session_id, channel_id=session_id), asked)

        if asked:
            self._model.asked[asked.id] = Asked(session.id, call)
        outcome = await self._apply(
            session.id, Doubt(may_be_gone=True), lambda: call(self._store, session.id)
        )
        if asked and outcome:
            self._model.asked[asked.id].answer = outcome.session

    async def say(self, times: int = 1) -> None:
        if not (session_id := self._any()):
            return
        content = self._uuid() + "x" * self._rng.choice([0, 10, 300, 3000])
        asked = request_key(
            f"session:{session_id}", self._uuid() if times > 1 or self._rng.random() < 0.7 else "", content
        )

        def call(store: Store, message_id: str) -> Awaitable[Outcome]:
            return store.apply(
                session_id,
                partial(send_message, message_id=message_id, draft=Draft(content)),
                asked,
                scope=EVERYTHING,
            )

        if asked:
            self._model.asked[asked.id] = Asked(session_id, call, content)
        doubt = Doubt(frozenset({UserMessage}), content)
        ids = [self._uuid() for _ in range(times)]
        outcomes = await asyncio.gather(
            *(self._apply(session_id, doubt, partial(call, self._store, one)) for one in ids)
        )
        done = [outcome for outcome in outcomes if outcome]
        if done and asked:
            self._model.asked[asked.id].answer = done[0].entry
            if (
                any(outcome.entry != done[0].entry for outcome in done)
                or sum(not outcome.replayed for outcome in done) > 1
            ):
                raise AssertionError(f"one request, several answers: {done}")

    async def say_twice(self) -> None:
        await self.say(times=2)

    async def repeat(self) -> None:
        answered = [asked for asked in list(self._model.asked.values())[-60:] if asked.answer]
        if not answered:
            return
        asked, new_id = self._rng.choice(answered), self._uuid()
        session_id, was_gone = asked.session_id, self._model.is_gone(asked)
        of, doubt = (session_id, Doubt()) if asked.content else (new_id, Doubt(may_be_gone=True))
        outcome = await self._apply(of, doubt, lambda: asked.call(self._store, new_id))
        if outcome is None:
            return
        # Somebody else may have made the session anew meanwhile.
        if problem := self._model.wrong_retry(
            asked, outcome, was_gone=was_gone and asked.session_id == session_id
        ):
            raise AssertionError(problem)
        if not outcome.replayed:
            asked.session_id, asked.answer = new_id, outcome.session

    async def deliver(self) -> None:
        if not (session_id := self._any()):
            return
        known = self._model.sessions[session_id]
        open_ones = [
            one
            for one in known.deliveries.values()
            if one.state in (DeliveryState.PENDING, DeliveryState.LEASED)
        ]
        if not open_ones:
            return
        sequence = self._rng.choice(open_ones).sequence
        pending, leased, failed, answered = (
            DeliveryState.PENDING,
            DeliveryState.LEASED,
            DeliveryState.FAILED,
            DeliveryState.ANSWERED,
        )
        failure = frozenset({ReplyFailure})
        deed = self._rng.random()
        if deed < 0.4:
            rule = partial(lease, lease_ms=60_000, message_id=self._uuid(), policy=ROUNDS)
            doubt = Doubt(failure, sequence=sequence, states=frozenset({leased, failed}))
        elif deed < 0.85:
            content = self._uuid() + "z" * self._rng.choice([0, 500, 5000])
            rule = partial(answer, reply_id=self._uuid(), reply=Reply(Draft(content), actions=("GO",)))
            doubt = Doubt(frozenset({AgentMessage}), content, sequence, frozenset({answered}))
        else:
            final = self._rng.random() < 0.5
            rule = partial(
                fail, message_id=self._uuid(), reason="no", final=final, backoff_ms=1000, policy=ROUNDS
            )
            doubt = Doubt(failure, sequence=sequence, states=frozenset({pending, failed}))
        await self._apply(
            session_id,
            doubt,
            lambda: self._store.apply_delivery(session_id, sequence, rule, scope=EVERYTHING),
        )

    async def _rule(
        self,
        session_id: str,
        kinds: frozenset[type[Event]],
        rule: Rule,
        states: frozenset[DeliveryState] = frozenset(),
    ) -> None:
        await self._apply(
            session_id,
            Doubt(kinds, sequence=-1, states=states),
            lambda: self._store.apply(session_id, rule, scope=EVERYTHING),
        )

    async def keep(self) -> None:
        if session_id := self._any():
            await self._rule(session_id, frozenset({Renewal}), self._rng.choice([heartbeat, renew]))

    async def patch(self) -> None:
        if session_id := self._any():
            change = PartialTimeoutConfig(timeout_minutes=float(self._rng.randrange(5, 90)))
            await self._rule(
                session_id, frozenset({TimeoutChange}), partial(update_timeout, change=change, policy=POLICY)
            )

    async def delete(self) -> None:
        if session_id := self._any():
            with self._model.asking(session_id, Doubt(may_be_gone=True)):
                try:
                    await self._store.delete_session(session_id, scope=EVERYTHING)
                except DomainError as error:
                    self.refused(error)
                else:
                    self._model.sessions[session_id].gone = True

    async def pass_time(self) -> None:
        self._clock.set_ms(self._clock.now_ms() + self._rng.randrange(10 * MINUTE))
        kinds = frozenset({ExpirationWarning, Expiry})
        now_ms = self._clock.now_ms()
        known = (one.session for one in self._model.sessions.values() if one.session and not one.gone)
        due = [one.id for one in known if (at_ms := due_at_ms(one)) is not None and at_ms <= now_ms][:20]
        await asyncio.gather(
            *(self._rule(one, kinds, fall_due, frozenset({DeliveryState.FAILED})) for one in due)
        )

    async def purge(self) -> None:
        by_ms = self._clock.now_ms() - 20 * MINUTE
        self._model.purged_by_ms = max(self._model.purged_by_ms, by_ms)
        old = [
            known
            for known in self._model.sessions.values()
            if known.session
            and not known.gone
            and known.session.expiry_logged
            and known.session.expires_at_ms <= by_ms
        ]
        try:
            while await self._store.purge(by_ms, 4):
                self._model.acknowledged += 1
        except DomainError as error:
            self.refused(error)
            return
        for known in old:
            known.gone = True

    async def agent(self) -> None:
        agents = [agent for agent in self._model.agents.values() if agent]
        now_ms = self._clock.now_ms()
        try:
            if len(agents) < 3 or self._rng.random() < 0.3:
                agent = Agent(self._uuid(), "new", AgentKind.STREAM, now_ms, now_ms)
                with self._model.changing_agent(agent.id, agent):
                    await self._store.create_agent(agent)
            else:
                agent = self._rng.choice(agents)
                if any(in_doubt == agent.id for in_doubt, _ in self._model.agents_in_doubt.values()):
                    return
                if self._rng.random() < 0.3:
                    with self._model.changing_agent(agent.id, None):
                        await self._store.delete_agent(agent.id, scope=EVERYTHING)
                else:
                    changed = replace(agent, name=self._uuid()[:8], updated_at_ms=now_ms)
                    with self._model.changing_agent(agent.id, changed):
                        await self._store.update_agent(agent.id, lambda _, __: changed, scope=EVERYTHING)
        except DomainError as error:
            self._model.agents_in_doubt = {
                token: doubt for token, doubt in self._model.agents_in_doubt.items() if doubt[0] != agent.id
            }
            self.refused(error)

    async def probe(self) -> None:
        try:
            await self._store.check_writable()
        except DomainError as error:
            self.refused(error)
