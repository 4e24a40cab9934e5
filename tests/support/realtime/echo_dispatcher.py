"""A Dispatcher in this process with the built-in agent, and how to wait until it has nothing left to do."""

import asyncio

from server.agents.echo import Echo
from server.clock import Clock
from server.delivery.dispatcher import Dispatcher
from server.domain.agents import ECHO_ID, Agent, AgentKind
from server.domain.deliveries import RetryPolicy
from server.lifecycle.watches import Watches
from server.store.contract import Store
from tests.support.waiting import PATIENCE_SECONDS
from tests.unit.samples import T0

ECHO_AGENT = Agent(ECHO_ID, "echo", AgentKind.ECHO, T0, T0)


def echo_dispatcher(store: Store, clock: Clock, signals: Watches) -> Dispatcher:
    """A dispatcher that listens to the store; to be started."""
    policy = RetryPolicy(5, 10, 100)
    echo = {AgentKind.ECHO: Echo()}
    dispatcher = Dispatcher(
        store, clock, echo, signals.piece, policy=policy, lease_seconds=60, concurrency=10
    )
    store.add_listener(dispatcher.on_commit)
    return dispatcher


async def delivered(store: Store) -> None:
    """Waits until no delivery is open."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await store.count_open():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
