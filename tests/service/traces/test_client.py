"""The Python client in a trace: its calls are a part of it, and its worker goes on with that of a message."""

import asyncio
import os
import queue
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry import trace

from eliza.sessions.v1 import agent_pb2
from eliza_sessions_client import AsyncClient, Client, Turn, agent, converse_with
from eliza_sessions_client.traces import continued, present_trace
from tests.service.docs.pages import example
from tests.service.python_client.working import working
from tests.service.traces.world import ATTEMPT, GET, SAMPLED, SEND, SPAN_ID, TRACE_ID, Memory, Traced, traced
from tests.support.service import Start

CONVERSE = "eliza.sessions.v1.MessageService/Converse"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Traced]:
    async with traced(tmp_path) as running:
        yield running


def address(world: Traced) -> str:
    return f"127.0.0.1:{world.service.port}"


async def test_calls_and_streams_are_a_part_of_the_span_that_is_current(world: Traced) -> None:
    session_id, own = await world.session(), Memory()
    with own.tracer.start_as_current_span("shop") as shop:
        async with AsyncClient(address(world)) as client:
            await client.get(session_id)
            async for part in client.converse(session_id, "Hello!"):
                assert part
        await asyncio.to_thread(_send, address(world), session_id, shop)
    for name in (GET, CONVERSE, SEND):
        call = await world.memory.only(name)
        assert call.parent.span_id == shop.get_span_context().span_id, name
        assert call.context.trace_id == shop.get_span_context().trace_id, name


def _send(where: str, session_id: str, span: trace.Span) -> None:
    with trace.use_span(span), Client(where) as client:
        client.send(session_id, "Hello!")


async def test_without_a_span_a_call_is_a_trace_of_its_own(world: Traced) -> None:
    session_id = await world.session()
    assert present_trace() == ()
    async with AsyncClient(address(world)) as client:
        await client.get(session_id)
    assert (await world.memory.only(GET)).parent is None


async def test_the_spans_of_a_worker_go_on_with_the_trace(world: Traced) -> None:
    agent_id, own = await world.agent(agent_pb2.AGENT_KIND_STREAM), Memory()
    seen = queue.SimpleQueue[dict[str, str]]()

    @agent(agent_id)
    async def think(turn: Turn) -> str:
        seen.put(turn.trace)
        with own.tracer.start_as_current_span("think"):
            await asyncio.sleep(0)
        return "Hi"

    session_id = await world.session(agent_id)
    with working(think, address(world)):
        await world.say(session_id, {"traceparent": SAMPLED, "tracestate": "shop=cart"})
    attempt, thought = await world.memory.only(ATTEMPT), await own.only("think")
    assert thought.parent.span_id == attempt.context.span_id
    assert f"{thought.context.trace_id:032x}" == TRACE_ID
    place = f"00-{TRACE_ID}-{attempt.context.span_id:016x}"
    traceparent = f"{place}-{attempt.context.trace_flags:02x}"
    assert seen.get() == {"traceparent": traceparent, "tracestate": "shop=cart"}


@pytest.mark.parametrize("headers", [{}, {"traceparent": "x"}])
def test_no_trace_or_a_malformed_one_changes_nothing(headers: dict[str, str]) -> None:
    with Memory().tracer.start_as_current_span("outer") as outer, continued(headers):
        assert trace.get_current_span() is outer


def test_a_trace_is_continued_within_the_block_alone() -> None:
    with continued({"traceparent": SAMPLED}):
        assert f"{trace.get_current_span().get_span_context().span_id:016x}" == SPAN_ID
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_harness_without_a_service_has_no_trace() -> None:
    @agent("a")
    async def told(turn: Turn) -> str:
        return repr(turn.trace)

    assert converse_with(told, "Hello!")[0].text == "{}"


WITHOUT = """
import sys

from eliza_sessions_client import Client, agent, converse_with, user_id_for
from eliza_sessions_client import traces

assert not traces.IS_ON
with Client(sys.argv[1]) as client:
    session = client.create("00000000-0000-4000-8000-0000000000ec", user_id_for("a"))
    print(client.send_and_wait(session.session_id, "Hello!").content)


@agent("a")
async def told(turn):
    return repr(turn.trace)


with traces.continued({"traceparent": "x"}):
    print(converse_with(told, "Hello!")[0].text)
"""


def test_without_opentelemetry_the_client_works_as_ever(start: Start, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text('raise ImportError("hidden")\n')
    service = start()
    (tmp_path / "program.py").write_text(WITHOUT)
    done = subprocess.run(
        [sys.executable, "program.py", service.grpc],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(hidden.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Hello!\n{}\n"), done.stderr


async def test_the_worker_of_the_page_goes_on_with_the_trace(world: Traced, tmp_path: Path) -> None:
    agent_id = await world.agent(agent_pb2.AGENT_KIND_STREAM)
    code = example("traced_agent.py")
    assert "127.0.0.1:50051" in code
    (tmp_path / "traced_agent.py").write_text(code.replace("127.0.0.1:50051", address(world)))
    session_id = await world.session(agent_id)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "traced_agent.py", agent_id), cwd=tmp_path, stdout=subprocess.PIPE
    )
    try:
        sent = await world.say(session_id, {"traceparent": SAMPLED})
        assert sent.json()["agentResponse"]["text"] == "You say: Hello!"
    finally:
        process.terminate()
        printed = (await process.communicate())[0].decode()
    attempt = await world.memory.only(ATTEMPT)
    assert '"name": "think"' in printed
    assert f'"trace_id": "0x{TRACE_ID}"' in printed
    assert f'"parent_id": "0x{attempt.context.span_id:016x}"' in printed
