"""What strangers can make the server hold: streams, bytes, and pages that no client takes."""

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import WatchSessionRequest
from server.domain.errors import MissingFieldsError, OverloadedError
from server.rpc import agent_service, large_requests
from server.rpc.agent_service import AgentService
from server.rpc.call import Call
from server.rpc.failures import CallFailed
from server.rpc.parsing import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES
from server.rpc.pipeline import CallPipeline
from tests.support.clients import create, fails, send
from tests.support.service import Serve, Start

STREAMS = 6
HALF = STREAMS // 2


def test_health_reflection_and_workers_leave_streams_to_others(start: Start) -> None:
    service = start("--no-rest", MAX_STREAMS=str(STREAMS))
    agent = agent_pb2.Agent(name="Away", kind=agent_pb2.AGENT_KIND_STREAM)
    agent_id = service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=30).agent.agent_id
    health = health_pb2_grpc.HealthStub(service.channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    with contextlib.ExitStack() as stack:

        def side(number: int) -> Any:
            """A stream of one of the three kinds, that has begun."""
            hold = _held_open(stack, pb.ConnectRequest(hello=pb.ConnectRequest.Hello(agent_id=agent_id)))
            ask = _held_open(stack, reflection_pb2.ServerReflectionRequest(list_services=""))
            calls: list[Callable[[], Any]] = [
                lambda: health.Watch(health_pb2.HealthCheckRequest(), timeout=60),
                lambda: reflection.ServerReflectionInfo(ask, timeout=60),
                lambda: service.agents.Connect(hold, timeout=60),
            ]
            call = calls[number % 3]()
            stack.callback(call.cancel)
            next(call)
            return call

        opened = [side(number) for number in range(HALF)]
        for number in range(3):
            fails(lambda number=number: side(number), "OVERLOADED")
        session = create(service)
        send(service, session.session_id, "hi")
        watches = [
            service.sessions.WatchSession(WatchSessionRequest(session_id=session.session_id), timeout=60)
            for _ in range(HALF)
        ]
        for watch in watches:
            stack.callback(watch.cancel)
            assert next(watch).entry.sequence == 1
        fails(
            lambda: list(
                service.sessions.WatchSession(WatchSessionRequest(session_id=session.session_id), timeout=60)
            ),
            "OVERLOADED",
        )
        # However many streams there are, health answers.
        assert (
            health.Check(health_pb2.HealthCheckRequest(), timeout=30).status
            == health_pb2.HealthCheckResponse.SERVING
        )
        for call in (*opened, *watches):
            call.cancel()
    # What has ended is counted no longer.
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            stack.callback(watch.cancel)
            with contextlib.suppress(grpc.RpcError):
                next(watch)
                break
        else:
            pytest.fail("streams that have ended are counted still")
    assert service.stop() == 0


def _held_open(stack: contextlib.ExitStack, first: Any) -> Iterator[Any]:
    """A request, and no end of the stream until the stack ends."""
    import threading

    ended = threading.Event()
    stack.callback(ended.set)

    def requests() -> Iterator[Any]:
        yield first
        ended.wait()

    return requests()


async def test_a_worker_that_does_not_say_hello_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_service, "HELLO_SECONDS", 0.01)

    async def silence() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield None

    unused: Any = SimpleNamespace(workers=None, statuses=None)
    service = AgentService(unused, unused, unused, unused, 15)
    async with asyncio.timeout(30):
        with pytest.raises(MissingFieldsError, match="hello"):
            await anext(service.Connect(silence(), Call(None)))


class _Context:
    """A call from an address."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> None:
        return None


async def test_one_address_leaves_half_of_the_streams_to_others() -> None:
    edge = CallPipeline(lambda: None, max_calls=10, max_streams=STREAMS, slow_call_s=60)
    method = "/eliza.sessions.v1.SessionService/WatchSessions"

    async def watch(request: bytes, call: Any) -> AsyncIterator[str]:
        yield "open"
        await asyncio.Event().wait()

    async with contextlib.AsyncExitStack() as stack:

        async def open_stream(peer: str) -> None:
            answers = edge.stream(method, watch, bytes, b"", _Context(peer))
            await stack.enter_async_context(contextlib.aclosing(answers))
            assert await anext(answers) == "open"

        for port in range(HALF):
            await open_stream(f"ipv4:192.0.2.1:{port}")
        with pytest.raises(CallFailed, match="its share of streams"):
            await open_stream("ipv4:192.0.2.1:4711")
        for peer in itertools.islice(itertools.cycle(["ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1"]), HALF):
            await open_stream(peer)
        with pytest.raises(CallFailed, match="too many streams are open"):
            await open_stream("ipv6:%5B::1%5D:1")
    # All have given back what they had.
    async with contextlib.AsyncExitStack() as stack:
        for port in range(HALF):
            await open_stream(f"ipv4:192.0.2.1:{port}")


async def test_addresses_of_one_network_share_all_their_streams() -> None:
    edge = CallPipeline(lambda: None, max_calls=10, max_streams=STREAMS, slow_call_s=60)

    async def watch(request: bytes, call: Any) -> AsyncIterator[str]:
        yield "open"
        await asyncio.Event().wait()

    async with contextlib.AsyncExitStack() as stack:
        for number in range(HALF):
            peer = f"ipv6:%5B2001:db8::{number:x}%5D:1"
            answers = edge.stream(
                "/eliza.sessions.v1.SessionService/WatchSessions", watch, bytes, b"", _Context(peer)
            )
            await stack.enter_async_context(contextlib.aclosing(answers))
            assert await anext(answers) == "open"
        another = _Context("ipv6:%5B2001:db8::ffff%5D:1")
        with (
            pytest.raises(OverloadedError, match="its share of streams"),
            edge.admitted_foreign_stream("/grpc.health.v1.Health/Watch", another),
        ):
            pytest.fail("it was let in")


async def test_large_requests_under_way_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_requests, "MAX_HELD_BYTES", 2 * MAX_REQUEST_BYTES + 2)
    edge = CallPipeline(lambda: None, max_calls=10, max_streams=STREAMS, slow_call_s=60)
    large, small = b"x" * (MAX_REQUEST_BYTES + 1), b"x" * MAX_REQUEST_BYTES
    call = _Context("ipv4:127.0.0.1:1")
    method = "/eliza.sessions.v1.MessageService/SendMessage"
    done = asyncio.Event()

    async def wait(request: bytes, context: Any) -> str:
        await done.wait()
        return "done"

    def begin(raw: bytes) -> asyncio.Task[Any]:
        return asyncio.create_task(edge.answer(method, wait, bytes, raw, call))

    async def said() -> AsyncIterator[bytes]:
        yield large

    under_way = [begin(large), begin(large), begin(small)]
    await asyncio.sleep(0)
    _, fault = await begin(large)
    assert "large requests" in fault.message
    # A worker's stream does not end for it: what it says waits for its turn.
    waiting = asyncio.ensure_future(anext(edge.requests.read_many(len, said())))
    assert not (await asyncio.wait([waiting], timeout=0.05))[0]
    done.set()
    async with asyncio.timeout(30):
        assert await waiting == len(large)
        assert await asyncio.gather(*under_way) == [("done", None)] * 3


def test_what_is_compressed_is_refused_and_what_is_too_large(service: Serve) -> None:
    session_id = create(service).session_id
    request = SendMessageRequest(session_id=session_id, content="x" * 4000)
    with grpc.insecure_channel(service.grpc, compression=grpc.Compression.Gzip) as channel:
        call = channel.unary_unary(
            "/eliza.sessions.v1.MessageService/SendMessage",
            request_serializer=SendMessageRequest.SerializeToString,
        )
        with pytest.raises(grpc.RpcError) as raised:
            call(request, timeout=30)
    assert raised.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL), raised.value
    assert len(zlib.compress(b"\0" * 2**24)) < 2**15
    for size in (MAX_REQUEST_BYTES, MAX_MESSAGE_BYTES):
        method = "SessionService/GetSession" if size == MAX_REQUEST_BYTES else "MessageService/SendMessage"
        raw = service.channel.unary_unary(f"/eliza.sessions.v1.{method}")
        fails(lambda raw=raw, size=size: raw(b"\0" * (size + 1), timeout=30), "INVALID_REQUEST")
    with pytest.raises(grpc.RpcError) as raised:
        service.channel.unary_unary("/eliza.sessions.v1.MessageService/SendMessage")(
            b"\0" * (4 * 2**20 + 1), timeout=30
        )
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert send(service, session_id, "hi").content == "hi"


def test_agents_with_long_prompts_are_listed_by_a_client_with_defaults(start: Start) -> None:
    service = start("--no-rest")
    prompt = "\U0001f600" * 32_768
    made = []
    for number in range(60):
        settings = agent_pb2.OpenAiSettings(
            base_url="https://example.com/v1", model="m", system_prompt=prompt
        )
        agent = agent_pb2.Agent(name=f"Long {number}", kind=agent_pb2.AGENT_KIND_OPENAI, openai=settings)
        made.append(service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=30).agent)
    assert sum(agent.ByteSize() for agent in made) > 4 * 2**20
    listed: list[agent_pb2.Agent] = []
    pages, token = 0, ""
    while True:
        page = service.agents.ListAgents(pb.ListAgentsRequest(page_size=1000, page_token=token), timeout=30)
        assert page.ByteSize() < 4 * 2**20
        listed += page.agents
        pages, token = pages + 1, page.next_page_token
        if not token:
            break
    assert listed[-len(made) :] == made
    assert pages == 3
    # Without their settings, one page holds them all.
    basic = pb.ListAgentsRequest(page_size=1000, view=agent_pb2.AGENT_VIEW_BASIC)
    assert len(service.agents.ListAgents(basic, timeout=30).agents) == len(listed)
