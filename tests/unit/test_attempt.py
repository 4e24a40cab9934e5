"""An attempt at a reply: how asking ends before the agent has replied."""

import asyncio

import pytest

from server.agents.connector import Emit, NoReplyError, Work
from server.agents.echo import Echo
from server.delivery.attempt import Attempt
from server.domain.messages import Reply
from tests.unit.samples import work

LONG_S = 1000.0


class Silent(Echo):
    """An agent that does not reply."""

    async def reply(self, work: Work, emit: Emit) -> Reply:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody ends that")


def attempt(lease_s: float = LONG_S) -> Attempt:
    return Attempt(work("hello"), lease_s, lambda piece: None, lambda session_id: False)


async def asked(one: Attempt) -> "asyncio.Task[Reply | None]":
    """The agent has been asked, and is waited for."""
    asking = asyncio.ensure_future(one.ask(Silent()))
    await asyncio.sleep(0)
    return asking


async def test_a_closed_delivery_ends_the_asking_and_not_its_task() -> None:
    one = attempt()
    asking = await asked(one)
    one.close(None)
    assert await asking is None
    assert asking.cancelling() == 0


async def test_the_end_of_the_lease_ends_the_asking_and_not_its_task() -> None:
    asking = await asked(attempt(lease_s=0.01))
    with pytest.raises(NoReplyError, match=r"did not reply within 0\.01 seconds"):
        await asking
    assert asking.cancelling() == 0


@pytest.mark.parametrize("is_closed_first", [True, False])
async def test_who_cancels_the_turn_ends_it_also_where_the_delivery_is_closed(is_closed_first: bool) -> None:
    one = attempt()
    asking = await asked(one)
    if is_closed_first:
        one.close(None)
    asking.cancel()
    one.close(None)
    with pytest.raises(asyncio.CancelledError):
        await asking
