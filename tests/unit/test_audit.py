"""The audit log has what was begun, also where the caller did not wait for it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from eliza.sessions.v1.agent_service_pb2 import DeleteAgentRequest
from eliza.sessions.v1.user_data_service_pb2 import DeleteUserDataRequest
from server.domain.errors import AgentNotFoundError
from server.rpc.paths import PREFIX
from server.rpc.pipeline import CallPipeline

ID: Final = "11111111-1111-4111-8111-111111111111"
DELETE: Final = f"{PREFIX}AgentService/DeleteAgent"


class Here:
    """A caller in this process."""

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "inproc"

    def invocation_metadata(self) -> None:
        return None


@pytest.fixture
def pipeline() -> CallPipeline:
    return CallPipeline(lambda: None, max_calls=10, max_streams=10, slow_call_s=60)


async def wait(request: Any, call: Any) -> Any:
    return await asyncio.get_running_loop().create_future()


async def refuse(request: Any, call: Any) -> Any:
    raise AgentNotFoundError(ID)


async def wait_long(request: Any, call: Any) -> AsyncIterator[Any]:
    yield await wait(request, call)


async def leave(doing: Any) -> None:
    """Begins something, and does not wait for its end."""
    task = asyncio.ensure_future(doing)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_call_whose_caller_leaves(pipeline: CallPipeline) -> None:
    with capture_logs() as lines:
        await leave(pipeline.answer(DELETE, wait, lambda raw: raw, DeleteAgentRequest(agent_id=ID), Here()))
    (line,) = [line for line in lines if line["event"] == "audit"]
    assert (line["target"], line["broken_off"]) == (ID, True)


async def test_a_stream_whose_caller_leaves_before_it_is_told_anything(pipeline: CallPipeline) -> None:
    method, request = f"{PREFIX}UserDataService/DeleteUserData", DeleteUserDataRequest(user_id=ID)
    with capture_logs() as lines:
        await leave(anext(pipeline.stream(method, wait_long, lambda raw: raw, request, Here())))
    (line,) = [line for line in lines if line["event"] == "audit"]
    assert (line["target"], line["broken_off"]) == (ID, True)


@pytest.mark.parametrize(
    ("method", "behaviour"), [(DELETE, refuse), (f"{PREFIX}SessionService/DeleteSession", wait)]
)
async def test_what_is_refused_or_no_admin_action_is_not_in_it(
    pipeline: CallPipeline, method: str, behaviour: Any
) -> None:
    with capture_logs() as lines:
        request = DeleteAgentRequest(agent_id=ID)
        await leave(pipeline.answer(method, behaviour, lambda raw: raw, request, Here()))
    assert not [line for line in lines if line["event"] == "audit"]
