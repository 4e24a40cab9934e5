"""A trace is kept with its message: over a restart of the service, on to the worker, and no longer than it is
needed.
"""

from pathlib import Path

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2
from eliza_sessions_client import Turn
from tests.service.traces.world import ATTEMPT, SAMPLED, SEND, TRACE_ID, Traced, traced
from tests.support.stores import execute
from tests.support.waiting import eventually


async def next_turn(worker: agent_service_pb2.ConnectRequest) -> Turn:
    """The next message that a worker gets."""
    while True:
        told = await worker.read()
        if told.HasField("delivery"):
            return Turn(told.delivery)


async def connect(world: Traced, agent_id: str) -> agent_service_pb2.ConnectRequest:
    worker = world.agents.Connect()
    hello = agent_service_pb2.ConnectRequest.Hello(agent_id=agent_id)
    await worker.write(agent_service_pb2.ConnectRequest(hello=hello))
    return worker


def kept(directory: Path) -> list[str | None]:
    """What the store has of traces."""
    return [trace for (trace,) in execute(directory, "SELECT trace FROM deliveries ORDER BY sequence")]


async def test_it_goes_on_after_a_restart_and_is_forgotten_with_the_reply(tmp_path: Path) -> None:
    async with traced(tmp_path) as world:
        agent_id = await world.agent(agent_pb2.AGENT_KIND_STREAM)
        session_id = await world.session(agent_id)
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
        metadata = [("traceparent", SAMPLED), ("tracestate", "shop=cart")]
        await world.messages.SendMessage(request, timeout=10, metadata=metadata)
        call = await world.memory.only(SEND)
    span_id = f"{call.context.span_id:016x}"
    flags = f"{call.context.trace_flags:02x}"
    assert kept(tmp_path) == [f"00-{TRACE_ID}-{span_id}-{flags} shop=cart"]
    async with traced(tmp_path) as world:
        worker = await connect(world, agent_id)
        turn = await next_turn(worker)
        reply = agent_service_pb2.ConnectRequest.Reply(
            delivery_id=turn.delivery.delivery_id, reply=agent_service_pb2.AgentReply(content="Hi")
        )
        await worker.write(agent_service_pb2.ConnectRequest(reply=reply))
        attempt = await world.memory.only(ATTEMPT)
        worker.cancel()
    assert attempt.parent.span_id == call.context.span_id
    assert {link.context.span_id for link in attempt.links} == {call.context.span_id}
    own = f"00-{TRACE_ID}-{attempt.context.span_id:016x}-{attempt.context.trace_flags:02x}"
    assert turn.trace == {"traceparent": own, "tracestate": "shop=cart"}
    assert kept(tmp_path) == [None]


async def test_a_damaged_trace_in_the_store_costs_the_message_nothing(tmp_path: Path) -> None:
    async with traced(tmp_path) as world:
        agent_id = await world.agent(agent_pb2.AGENT_KIND_STREAM)
        session_id = await world.session(agent_id)
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
        await world.messages.SendMessage(request, timeout=10)
    execute(tmp_path, "UPDATE deliveries SET trace = 'damaged in some way'")
    async with traced(tmp_path) as world:
        worker = await connect(world, agent_id)
        turn = await next_turn(worker)
        worker.cancel()
        attempt = await world.memory.only(ATTEMPT)
    assert attempt.parent is None
    place = f"{attempt.context.trace_id:032x}-{attempt.context.span_id:016x}"
    assert turn.trace["traceparent"].startswith(f"00-{place}-")


async def test_a_service_that_traces_nothing_keeps_and_tells_nothing(tmp_path: Path) -> None:
    async with traced(tmp_path) as world:
        agent_id = await world.agent(agent_pb2.AGENT_KIND_STREAM)
        session_id = await world.session(agent_id)
    async with traced(tmp_path, is_on=False) as world:
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
        await world.messages.SendMessage(request, timeout=10, metadata=[("traceparent", SAMPLED)])
        worker = await connect(world, agent_id)
        turn = await next_turn(worker)
        worker.cancel()
        assert turn.trace == {}
        assert await eventually(lambda: kept(tmp_path)) == [None]
