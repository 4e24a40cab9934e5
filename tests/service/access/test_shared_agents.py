"""An agent of all tenants: who works for it, and whose messages its workers get."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.service.access.open_streams import Worker, send, watch_many
from tests.service.access.world import (
    AGENT,
    ALICE,
    OTHER_AGENT,
    TENANT,
    World,
    key_lines,
    make_key,
    outcome_of,
    write_keys,
)
from tests.support.service import Serve
from tests.support.waiting import until

KEYS = {
    "root": {"role": "admin"},
    "service": {"role": "service", "tenant": TENANT},
    "admin": {"role": "admin", "tenant": TENANT},
    "other-admin": {"role": "admin", "tenant": "beta"},
    "their-worker": {"role": "agent", "tenant": "beta", "agent": OTHER_AGENT},
    "other": {"role": "service", "tenant": "beta"},
    "worker": {"role": "agent", "agent": AGENT},
    "other-worker": {"role": "agent", "agent": OTHER_AGENT},
    "tenant-worker": {"role": "agent", "tenant": "beta", "agent": AGENT},
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A protected service with an agent of all tenants."""
    directory = tmp_path_factory.mktemp("shared")
    keys = {key_id: make_key(key_id) for key_id in KEYS}
    path = directory / "keys.toml"
    write_keys(path, "\n".join(key_lines(key_id, keys[key_id], **KEYS[key_id]) for key_id in KEYS))
    service = partial(Serve, directory)(KEYS_FILE=str(path))
    world = World(service, keys, "", "", {})
    new_agent(world, "root", AGENT)
    yield world
    assert service.stop() == 0, service.log()


def new_agent(world: World, caller: str, agent_id: str, name: str = "Worker") -> None:
    agent = agent_pb2.Agent(agent_id=agent_id, name=name, kind=agent_pb2.AGENT_KIND_STREAM)
    request = agent_service_pb2.CreateAgentRequest(agent=agent)
    world.service.agents.CreateAgent(request, metadata=world.metadata(caller), timeout=10)


def new_session(world: World, caller: str, agent_id: str) -> str:
    wanted = session_service_pb2.CreateSessionRequest(agent_id=agent_id, user_id=ALICE)
    made: Any = world.service.sessions.CreateSession(wanted, metadata=world.metadata(caller), timeout=10)
    return str(made.session.session_id)


def test_a_worker_of_one_tenant_does_not_work_for_all(shared: World) -> None:
    hello = agent_service_pb2.ConnectRequest.Hello(agent_id=AGENT)
    asked = iter([agent_service_pb2.ConnectRequest(hello=hello)])
    with pytest.raises(grpc.RpcError) as refused:
        list(shared.service.agents.Connect(asked, metadata=shared.metadata("tenant-worker"), timeout=20))
    assert outcome_of(refused.value) == "PERMISSION_DENIED"


def test_a_worker_of_all_tenants_gets_and_answers_their_messages(shared: World) -> None:
    worker = Worker(shared, AGENT, shared.metadata("worker"))
    for caller in ("service", "other"):
        session_id = new_session(shared, caller, AGENT)
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello")
        shared.service.messages.SendMessage(request, metadata=shared.metadata(caller), timeout=20)
        delivery = until(
            lambda wanted=session_id: next(
                (one for one in worker.deliveries if one.session.session_id == wanted), None
            ),
            "the delivery",
        )
        worker.reply(delivery.delivery_id, "Hi")
        until(lambda wanted=delivery.delivery_id: wanted in worker.told("accepted"), "the reply to be stored")
        # Once more, which only the store can answer.
        worker.reply(delivery.delivery_id, "Hi")
        until(
            lambda: len(worker.told("accepted") + worker.told("refused")) == 2 * len(worker.deliveries),
            "the answer to the second reply",
        )
    reasons = {one.refused.reason for one in worker.heard if one.HasField("refused")}
    assert "SESSION_NOT_FOUND" not in reasons, reasons
    worker.close()


def test_a_reply_by_its_own_call_reaches_each_tenant_that_the_agent_is_for(shared: World) -> None:
    for caller in ("service", "other"):
        session_id = new_session(shared, caller, AGENT)
        sent = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello")
        message = shared.service.messages.SendMessage(
            sent, metadata=shared.metadata(caller), timeout=20
        ).message
        reply = agent_service_pb2.ReplyRequest(
            delivery_id=f"{session_id}-{message.sequence}", reply=agent_service_pb2.AgentReply(content="Hi")
        )
        # One for another agent, of this tenant or of none.
        for stranger in ("their-worker", "other-worker"):
            with pytest.raises(grpc.RpcError) as refused:
                shared.service.agents.Reply(reply, metadata=shared.metadata(stranger), timeout=20)
            assert outcome_of(refused.value) == "SESSION_NOT_FOUND"
        answer = shared.service.agents.Reply(reply, metadata=shared.metadata("worker"), timeout=20)
        assert answer.message.content == "Hi"


def test_who_takes_the_id_of_a_removed_agent_gets_no_message_of_its_tenant(shared: World) -> None:
    new_agent(shared, "admin", OTHER_AGENT, "Ours")
    session_id = new_session(shared, "service", OTHER_AGENT)
    removal = agent_service_pb2.DeleteAgentRequest(agent_id=OTHER_AGENT)
    shared.service.agents.DeleteAgent(removal, metadata=shared.metadata("admin"), timeout=10)
    new_agent(shared, "other-admin", OTHER_AGENT, "Theirs")
    worker = Worker(shared, OTHER_AGENT, shared.metadata("their-worker"))
    stream = watch_many(shared, session_id, shared.metadata("service"))
    assert stream.wait()[0].joined.agent_name == ""
    send(shared, session_id, "A secret")
    until(lambda: worker.deliveries or len(stream.heard) > 2, "the message's fate")
    assert not worker.deliveries, worker.deliveries
    assert stream.heard[2].entry.HasField("reply_failure"), stream.heard
    worker.close()
    stream.close()


def test_the_status_of_an_agent_of_all_tenants_tells_no_tenant_of_another(shared: World) -> None:
    session_id = new_session(shared, "service", AGENT)
    with_worker = Worker(shared, AGENT, shared.metadata("worker"))
    send(shared, session_id, "Fail")
    with_worker.fail(with_worker.wait_delivery().delivery_id, "a secret reason")

    def status(caller: str) -> Any:
        asked = agent_service_pb2.GetAgentRequest(agent_id=AGENT, view=agent_pb2.AGENT_VIEW_STATUS)
        answer = shared.service.agents.GetAgent(asked, metadata=shared.metadata(caller), timeout=10)
        return answer.agent.status

    until(lambda: status("root").last_failure.session_id == session_id, "the failure")
    for caller in ("admin", "other-admin"):
        assert status(caller) == agent_pb2.AgentStatus(connected_workers=1)
    with_worker.close()
