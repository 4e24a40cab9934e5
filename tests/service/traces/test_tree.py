"""The trace of a message: from the request of the browser to the agent's HTTP call, as one tree."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.service.agents.openai_server import DONE, Endpoint, part
from tests.service.agents.webhook_server import Server, answer, head, reply, said
from tests.service.docs.pages import example
from tests.service.traces.world import (
    ATTEMPT,
    GET,
    GROUP,
    NOT_SAMPLED,
    REQUEST,
    SAMPLED,
    SEND,
    SPAN_ID,
    TRACE_ID,
    Traced,
    links,
    traced,
)
from tests.support.service import UNKNOWN
from tests.support.waiting import PATIENCE_SECONDS, eventually

SECRET = base64.b64encode(b"of a test, and long enough").decode()
WEBHOOK = agent_pb2.AGENT_KIND_WEBHOOK
EVENTS = "text/event-stream"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET_TRACED", SECRET)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Traced]:
    async with traced(tmp_path, delivery_backoff_seconds=0.01) as running:
        yield running


async def webhook_session(world: Traced, server: Server) -> str:
    """A session with a webhook as its agent."""
    settings = agent_pb2.WebhookSettings(
        url=f"{server.url}/hook?token=hidden", secret="env:AGENT_SECRET_TRACED"
    )
    return await world.session(await world.agent(WEBHOOK, webhook=settings))


def place(traceparent: str) -> tuple[str, str, str]:
    """The trace, the span and the flags that a traceparent names."""
    version, trace_id, span_id, flags = traceparent.split("-")
    assert (version, len(traceparent)) == ("00", 55)
    return trace_id, span_id, flags


def own_place(span: ReadableSpan) -> tuple[str, str, str]:
    context = span.context
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}"


async def test_a_message_is_one_tree_from_the_request_to_the_agents_call(world: Traced) -> None:
    with Server(reply()) as server:
        session_id = await webhook_session(world, server)
        browser = {"traceparent": SAMPLED, "tracestate": "shop=cart,other=1", "X-Request-Id": "r-1"}
        sent = (await world.say(session_id, browser)).json()
        memory = world.memory
        request = await memory.only(REQUEST)
        await eventually(lambda: len(memory.named(GROUP)) == 2)
    assert memory.tree(int(TRACE_ID, 16)) == example("trace-tree")
    assert len(memory.spans) == 6
    assert f"{request.parent.span_id:016x}" == SPAN_ID
    (call,), (attempt,), (post,) = memory.named(SEND), memory.named(ATTEMPT), memory.named("POST")
    stored, answered = memory.named(GROUP)

    assert request.kind is call.kind is SpanKind.SERVER
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/api/messaging/sessions/{sessionId}/messages",
        "http.response.status_code": 201,
        "url.path": f"/api/messaging/sessions/{session_id}/messages",
        "url.scheme": "http",
        "user_agent.original": request.attributes["user_agent.original"],
        "eliza.request_id": "r-1",
    }
    assert dict(call.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": SEND,
        "rpc.response.status_code": "OK",
        "eliza.request_id": "r-1",
        "eliza.session_id": session_id,
        "eliza.message_id": sent["id"],
    }
    assert attempt.kind is SpanKind.CONSUMER
    assert links(attempt) == {call.context.span_id}
    assert attempt.attributes["eliza.outcome"] == "answered"
    assert attempt.attributes["eliza.message_id"] == sent["id"]
    assert (attempt.attributes["eliza.agent_kind"], attempt.attributes["eliza.attempt"]) == ("webhook", 1)
    assert post.kind is SpanKind.CLIENT
    assert dict(post.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.full": f"{server.url}/hook",
    }
    assert links(stored) == {call.context.span_id}
    assert links(answered) == {attempt.context.span_id}
    assert dict(stored.attributes) == {"eliza.write_group.size": 1}
    assert {span.status.status_code for span in memory.spans} == {StatusCode.UNSET}

    (asked,) = server.requests
    assert place(asked.headers["traceparent"]) == own_place(post)
    assert asked.headers["tracestate"] == "shop=cart,other=1"


async def test_a_call_of_grpc_is_a_root_or_a_part_of_its_callers_trace(world: Traced) -> None:
    session_id = await world.session()
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
    await world.messages.SendMessage(request, timeout=10)
    root = await world.memory.only(SEND)
    assert root.parent is None
    await eventually(lambda: len(world.memory.named(ATTEMPT)) == 1)
    await eventually(lambda: len(world.memory.named(GROUP)) == 2)
    assert world.memory.tree(root.context.trace_id).splitlines()[0] == SEND
    world.memory.exporter.clear()
    await world.messages.SendMessage(request, timeout=10, metadata=[("traceparent", SAMPLED)])
    part_of = await world.memory.only(SEND)
    assert (f"{part_of.context.trace_id:032x}", f"{part_of.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert part_of.parent.is_remote


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        SAMPLED[:-1],
        SAMPLED.upper(),
        f"{SAMPLED}-more",
        f"ff{SAMPLED[2:]}",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        "00-" * 2000,
        "caf\xe9",
    ],
)
async def test_a_malformed_traceparent_is_ignored(world: Traced, given: str) -> None:
    session_id = await world.session()
    await world.say(session_id, {"traceparent": given, "tracestate": "a=1"})
    request = await world.memory.only(REQUEST)
    assert request.parent is None
    assert not request.context.trace_state


async def test_a_malformed_traceparent_of_a_call_is_ignored(world: Traced) -> None:
    session_id = await world.session()
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    for metadata in ([("traceparent", "x")], [("tracestate", "a=1")]):
        await world.sessions.GetSession(request, timeout=10, metadata=metadata)
    await eventually(lambda: len(world.memory.named(GET)) == 2)
    assert [span.parent for span in world.memory.named(GET)] == [None] * 2


@pytest.mark.parametrize("given", ["=", "a=1," * 200, "A B=c", f"{'k' * 300}=1", "a=\xe9"])
async def test_a_malformed_or_long_tracestate_costs_nothing_but_itself(world: Traced, given: str) -> None:
    session_id = await world.session()
    await world.say(session_id, {"traceparent": SAMPLED, "tracestate": given})
    request = await world.memory.only(REQUEST)
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    assert len(request.context.trace_state.to_header()) <= 512


async def test_members_of_a_tracestate_go_on_as_long_as_they_fit(world: Traced) -> None:
    members = [f"k{number}={'v' * 40}" for number in range(20)]
    with Server(reply()) as server:
        session_id = await webhook_session(world, server)
        await world.say(session_id, {"traceparent": SAMPLED, "tracestate": ",".join(members)})
    told = server.requests[0].headers["tracestate"].split(",")
    assert told == members[: len(told)]
    assert 512 - 50 < len(",".join(told)) <= 512


async def test_what_its_caller_does_not_sample_is_not_recorded_and_goes_on_as_such(world: Traced) -> None:
    with Server(reply()) as server:
        session_id = await webhook_session(world, server)
        await world.say(session_id, {"traceparent": NOT_SAMPLED})
        # Another one behind it, whose spans come later than any of the first.
        await world.say(session_id, {"traceparent": SAMPLED})
        await world.memory.only(REQUEST)
    first, second = (place(asked.headers["traceparent"]) for asked in server.requests)
    assert first[0] == second[0] == TRACE_ID
    assert first[1] != SPAN_ID
    # The last bit says whether it is sampled.
    assert [int(one[2], 16) % 2 for one in (first, second)] == [0, 1]
    assert len(world.memory.named(SEND)) == len(world.memory.named(ATTEMPT)) == 1


async def test_each_attempt_is_a_part_of_the_call_and_linked_to_it(world: Traced) -> None:
    with Server(answer(b"", 503), reply()) as server:
        session_id = await webhook_session(world, server)
        await world.say(session_id)
        (call,) = world.memory.named(SEND) or [await world.memory.only(SEND)]
    failed, answered = world.memory.named(ATTEMPT)
    for number, attempt in enumerate((failed, answered), 1):
        assert attempt.parent.span_id == call.context.span_id
        assert links(attempt) == {call.context.span_id}
        assert attempt.attributes["eliza.attempt"] == number
    assert (failed.attributes["eliza.outcome"], failed.status.status_code) == ("failed", StatusCode.ERROR)
    assert failed.status.description == "the agent answered with status 503"
    posts = world.memory.named("POST")
    assert [span.parent.span_id for span in posts] == [failed.context.span_id, answered.context.span_id]
    assert (posts[0].attributes["error.type"], posts[0].status.status_code) == ("503", StatusCode.ERROR)


async def test_a_request_to_an_agent_that_cannot_be_reached_says_why(world: Traced) -> None:
    with Server(reply()) as gone:
        pass
    session_id = await webhook_session(world, gone)
    await world.say(session_id, transport="websocket")
    await eventually(lambda: world.memory.named("POST"))
    post = world.memory.named("POST")[0]
    assert (post.attributes["error.type"], post.status.status_code) == ("ConnectError", StatusCode.ERROR)
    assert "http.response.status_code" not in post.attributes


async def test_a_model_gets_the_trace_as_header(world: Traced) -> None:
    with Endpoint(said(head(content_type=EVENTS), part({"content": "Hi"}), part({}, "stop"), DONE)) as model:
        settings = agent_pb2.OpenAiSettings(model="m", base_url=model.base_url)
        agent_id = await world.agent(agent_pb2.AGENT_KIND_OPENAI, openai=settings)
        await world.say(await world.session(agent_id), {"traceparent": SAMPLED})
        post = await world.memory.only("POST")
    (asked,) = model.requests
    assert place(asked.headers["traceparent"]) == own_place(post)
    assert post.attributes["url.full"] == f"{model.base_url}/chat/completions"
    # None of them is stable.
    assert [
        name for span in world.memory.spans for name in span.attributes if name.startswith("gen_ai")
    ] == []


@pytest.mark.sqlite
async def test_a_group_of_writes_is_told_once_with_links_to_its_calls(
    world: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_ids = [await world.session() for _ in range(4)]
    writer = world.service._store._writer
    held, goes_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(connection: object, now_ms: int) -> None:
        loop.call_soon_threadsafe(held.set)
        asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result(PATIENCE_SECONDS)

    holding = asyncio.create_task(writer.run(hold, in_transaction=False))
    await held.wait()
    requests = [
        message_service_pb2.SendMessageRequest(session_id=one, content="Hello!") for one in session_ids
    ]
    calls = [asyncio.ensure_future(world.messages.SendMessage(one, timeout=30)) for one in requests]
    await eventually(lambda: writer._queue.qsize() == len(calls))
    goes_on.set()
    await asyncio.gather(holding, *calls)
    await eventually(lambda: len(world.memory.named(SEND)) == 4)
    await eventually(lambda: world.memory.named(GROUP))
    group = world.memory.named(GROUP)[0]
    assert group.attributes["eliza.write_group.size"] == 4
    ids = {span.context.span_id for span in world.memory.named(SEND)}
    assert links(group) == ids
    assert group.parent.span_id in ids


async def test_a_refusal_is_the_callers_and_no_error_of_the_span(world: Traced) -> None:
    assert (await world.rest("GET", f"/{UNKNOWN}")).status_code == 404
    call = await world.memory.only(GET)
    assert call.attributes["rpc.response.status_code"] == "NOT_FOUND"
    request = await world.memory.only("GET /api/messaging/sessions/{sessionId}")
    assert request.attributes["http.response.status_code"] == 404
    for span in (call, request):
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in span.attributes


async def test_a_fault_of_the_service_is_an_error_of_the_span(
    world: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = await world.session()

    async def fail(*_: object, **__: object) -> None:
        raise ValueError("of a test")

    monkeypatch.setattr(world.service._store, "get_session", fail)
    assert (await world.rest("GET", f"/{session_id}")).status_code == 500
    call = await world.memory.only(GET)
    request = await world.memory.only("GET /api/messaging/sessions/{sessionId}")
    assert (call.attributes["error.type"], request.attributes["error.type"]) == ("INTERNAL", "500")
    assert call.status.status_code is request.status.status_code is StatusCode.ERROR


async def test_a_stream_is_a_span_until_it_ends(world: Traced) -> None:
    session_id = await world.session()
    request = session_service_pb2.WatchSessionRequest(session_id=session_id)
    name = "eliza.sessions.v1.SessionService/WatchSession"
    stream = world.sessions.WatchSession(request, metadata=[("traceparent", SAMPLED)])
    message = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
    await world.messages.SendMessage(message, timeout=10)
    assert (await stream.read()).entry.message.content == "Hello!"
    assert world.memory.named(name) == []
    stream.cancel()
    watched = await world.memory.only(name)
    assert watched.attributes["rpc.response.status_code"] == "CANCELLED"
    assert f"{watched.parent.span_id:016x}" == SPAN_ID


async def test_a_conversation_keeps_its_trace_with_the_message(world: Traced) -> None:
    session_id = await world.session()
    message = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
    request = message_service_pb2.ConverseRequest(message=message)
    async for _ in world.messages.Converse(request, timeout=30, metadata=[("traceparent", SAMPLED)]):
        pass
    call = await world.memory.only("eliza.sessions.v1.MessageService/Converse")
    assert call.attributes["rpc.response.status_code"] == "OK"
    attempt = await world.memory.only(ATTEMPT)
    assert attempt.parent.span_id == call.context.span_id
    assert attempt.attributes["eliza.message_id"] == call.attributes["eliza.message_id"]
    assert attempt.attributes["eliza.agent_kind"] == "echo"


async def test_an_event_stream_that_its_client_leaves_ends_its_span(world: Traced) -> None:
    session_id = await world.session()
    reader, writer = await asyncio.open_connection(*world.url.split("/")[2].split(":"))
    path = f"/api/messaging/sessions/{session_id}/events"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\ntraceparent: {SAMPLED}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    request = await world.memory.only("GET /api/messaging/sessions/{sessionId}/events")
    assert f"{request.context.trace_id:032x}" == TRACE_ID
    watched = await world.memory.only("eliza.sessions.v1.SessionService/WatchSessions")
    assert watched.parent.span_id == request.context.span_id


async def test_what_a_worker_does_for_a_connection_is_no_part_of_its_deliveries(world: Traced) -> None:
    """A worker that connects wakes what gives out messages: their spans stay in the messages' traces."""
    agent_id = await world.agent(agent_pb2.AGENT_KIND_STREAM)
    session_id = await world.session(agent_id)
    request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello!")
    await world.messages.SendMessage(request, timeout=10)
    call = await world.memory.only(SEND)
    await eventually(lambda: len(world.memory.named(GROUP)) == 1)
    worker = world.agents.Connect()
    hello = agent_service_pb2.ConnectRequest.Hello(agent_id=agent_id)
    await worker.write(agent_service_pb2.ConnectRequest(hello=hello))
    delivery = agent_service_pb2.Delivery()
    while not delivery.delivery_id:
        told = await worker.read()
        if told.HasField("delivery"):
            delivery = told.delivery
    worker.cancel()
    attempt = await world.memory.only(ATTEMPT)
    assert attempt.parent.span_id == call.context.span_id
    assert place(delivery.traceparent) == own_place(attempt)
    assert attempt.attributes["eliza.outcome"] == "failed"
    connected = await world.memory.only("eliza.sessions.v1.AgentService/Connect")
    assert [span.name for span in world.memory.spans if connected.context.span_id in links(span)] == []


async def test_writes_go_on_where_they_cannot_be_traced(
    world: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("of a test")

    session_id = await world.session()
    monkeypatch.setattr(world.memory.traces, "end_group", fail)
    with capture_logs() as logs:
        for _ in range(2):
            await world.say(session_id)
    assert "a group of writes cannot be traced" in [line["event"] for line in logs]


async def test_it_all_goes_on_where_nothing_is_traced(tmp_path: Path) -> None:
    async with traced(tmp_path, is_on=False) as world:
        with Server(reply()) as server:
            settings = agent_pb2.WebhookSettings(url=server.url, secret="env:AGENT_SECRET_TRACED")
            agent_id = await world.agent(WEBHOOK, webhook=settings)
            request = session_service_pb2.CreateSessionRequest(
                agent_id=agent_id, user_id="11111111-1111-4111-8111-111111111111"
            )
            made = await world.sessions.CreateSession(request, timeout=10)
            await world.say(made.session.session_id, {"traceparent": SAMPLED})
        assert world.memory.spans == []
        assert {"traceparent", "tracestate"} & server.requests[0].headers.keys() == set()
