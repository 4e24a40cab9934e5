"""Clients that ping, as keepalive does behind proxies that drop silent connections."""

import contextlib
import queue
import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from eliza.sessions.v1.agent_pb2 import AGENT_KIND_STREAM, Agent
from eliza.sessions.v1.agent_service_pb2 import CreateAgentRequest
from eliza.sessions.v1.message_service_pb2 import ConverseRequest, SendMessageRequest
from eliza.sessions.v1.message_service_pb2_grpc import MessageServiceStub
from server.rpc.server import MIN_PING_MS
from tests.support.clients import create
from tests.support.service import Serve

PINGS = 5
"""Two pings too many are forgiven, the third one ends the connection."""

READY = grpc.ChannelConnectivity.READY


@pytest.fixture
def pinging(service: Serve) -> Iterator[grpc.Channel]:
    """A connection of its own that pings as often as it may."""
    options = [
        ("grpc.keepalive_time_ms", MIN_PING_MS + 200),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.insecure_channel(service.grpc, options) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        yield channel


def states(channel: grpc.Channel) -> "queue.SimpleQueue[grpc.ChannelConnectivity]":
    """The states of a channel from now on."""
    seen: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
    channel.subscribe(seen.put)
    assert seen.get(timeout=10) is READY
    return seen


def stays_ready(channel: grpc.Channel) -> None:
    """Watches a channel for as long as its pings take, and fails at the first state that is not READY."""
    seen = states(channel)
    with contextlib.suppress(queue.Empty):
        pytest.fail(f"the connection went {seen.get(timeout=PINGS * (MIN_PING_MS + 200) / 1000)}")


def test_an_idle_connection_that_pings_is_kept(pinging: grpc.Channel) -> None:
    stays_ready(pinging)


def test_silent_calls_on_a_connection_that_pings_are_kept(service: Serve, pinging: grpc.Channel) -> None:
    agent = service.agents.CreateAgent(
        CreateAgentRequest(agent=Agent(name="Silent", kind=AGENT_KIND_STREAM)), timeout=10
    ).agent
    message = SendMessageRequest(session_id=create(service, agent.agent_id).session_id, content="Hello?")
    talk = MessageServiceStub(pinging).Converse(ConverseRequest(message=message), timeout=60)
    health = HealthStub(pinging).Watch(HealthCheckRequest(), timeout=60)
    assert next(talk).HasField("user_message")
    assert next(health).status
    ended = threading.Event()
    talk.add_callback(ended.set)
    health.add_callback(ended.set)
    stays_ready(pinging)
    assert not ended.is_set()
    talk.cancel()
    health.cancel()
