"""How agents fare, as their operator is told: by AgentService, at the start, and in the log."""

import base64
import json
from collections.abc import Callable
from typing import Any

from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2 import DeleteSessionRequest
from tests.service.agents.webhook_server import Server, answer, reply
from tests.service.agents.worker import Worker, stream_agent
from tests.support.clients import create, fails, send
from tests.support.service import ECHO, Serve
from tests.support.waiting import until

KEY = base64.b64encode(b"k" * 24).decode()
ATTEMPTS = {
    "DELIVERY_BACKOFF_SECONDS": "0.01",
    "DELIVERY_MAX_BACKOFF_SECONDS": "0.05",
    "DELIVERY_ATTEMPTS": "2",
}


def status(service: Serve, agent_id: str) -> agent_pb2.AgentStatus:
    request = pb.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_STATUS)
    return service.agents.GetAgent(request, timeout=10).agent.status


def counts(service: Serve, agent_id: str) -> tuple[int, int, int]:
    found = status(service, agent_id)
    return found.connected_workers, found.open_deliveries, found.deliveries_in_hand


def webhook(service: Serve, url: str, name: str = "hook") -> agent_pb2.Agent:
    settings = agent_pb2.WebhookSettings(url=url, secret="env:AGENT_SECRET_HOOK")
    agent = agent_pb2.Agent(
        name=name, kind=agent_pb2.AGENT_KIND_WEBHOOK, webhook=settings, timeout_config={"timeout_minutes": 45}
    )
    return service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=10).agent


def test_workers_and_deliveries_are_counted(start: Callable[..., Serve]) -> None:
    service = start("--no-rest", **ATTEMPTS)
    agent_id = stream_agent(service)
    assert (counts(service, agent_id), status(service, agent_id).HasField("last_failure")) == (
        (0, 0, 0),
        False,
    )
    sessions = [create(service, agent_id).session_id for _ in range(3)]
    for session_id in sessions:
        send(service, session_id, "one")
        send(service, session_id, "two")
    until(lambda: counts(service, agent_id) == (0, 6, 0), "the messages")
    with (
        Worker(service.channel, agent_id, max_deliveries=2) as worker,
        Worker(service.channel, agent_id) as other,
    ):
        held = [worker.next(), worker.next(), other.next()]
        assert counts(service, agent_id) == (2, 6, 3)
        service.sessions.DeleteSession(
            DeleteSessionRequest(session_id=held[2].session.session_id), timeout=10
        )
        other.expect("revoked")
        until(lambda: counts(service, agent_id) == (2, 4, 2), "the end of the deleted session's")
        other.close()
        worker.answer(held[0], "ONE")
        held[0] = worker.next()
        assert counts(service, agent_id)[1:] == (3, 2)
        worker.fail(held[0], "not in the mood", final=True)
        until(lambda: status(service, agent_id).HasField("last_failure"), "the failure")
        last = status(service, agent_id).last_failure
        assert (last.session_id, last.message_id) == (held[0].session.session_id, held[0].message.message_id)
        assert (last.attempt, last.reason, last.detail, last.final) == (1, "not in the mood", "", True)
        assert last.at.ToMilliseconds() >= held[0].message.created_at.ToMilliseconds()
        worker.answer(held[1], "ONE")
        worker.answer(worker.next(), "TWO")
        until(lambda: counts(service, agent_id) == (1, 0, 0), "the end of all")
    until(lambda: counts(service, agent_id) == (0, 0, 0), "the end of the worker")
    listed = service.agents.ListAgents(
        pb.ListAgentsRequest(view=agent_pb2.AGENT_VIEW_STATUS), timeout=10
    ).agents
    assert [agent.status == status(service, agent.agent_id) for agent in listed] == [True, True]
    service.agents.DeleteAgent(pb.DeleteAgentRequest(agent_id=agent_id), timeout=10)
    agent = agent_pb2.Agent(agent_id=agent_id, name="anew", kind=agent_pb2.AGENT_KIND_STREAM)
    service.agents.CreateAgent(pb.CreateAgentRequest(agent=agent), timeout=10)
    assert status(service, agent_id) == agent_pb2.AgentStatus()


def test_what_is_open_is_counted_after_a_restart_too(start: Callable[..., Serve]) -> None:
    service = start("--no-rest")
    agent_id = stream_agent(service)
    session_id = create(service, agent_id).session_id
    for content in ("one", "two"):
        send(service, session_id, content)
    assert service.stop() == 0
    service = start("--no-rest")
    assert counts(service, agent_id) == (0, 2, 0)


def test_a_view_says_how_much_is_told(start: Callable[..., Serve]) -> None:
    service = start("--no-rest", AGENT_ALLOWED_HOSTS="127.0.0.1", AGENT_SECRET_HOOK=KEY)
    made = webhook(service, "http://127.0.0.1:9/")

    def read(view: Any) -> tuple[agent_pb2.Agent, agent_pb2.Agent]:
        one = service.agents.GetAgent(pb.GetAgentRequest(agent_id=made.agent_id, view=view), timeout=10).agent
        return one, service.agents.ListAgents(pb.ListAgentsRequest(view=view), timeout=10).agents[-1]

    assert read(agent_pb2.AGENT_VIEW_UNSPECIFIED) == (made, made)
    basic = agent_pb2.Agent(
        agent_id=made.agent_id,
        name=made.name,
        kind=made.kind,
        created_at=made.created_at,
        updated_at=made.updated_at,
    )
    assert read(agent_pb2.AGENT_VIEW_BASIC) == (basic, basic)
    whole = agent_pb2.Agent(status=agent_pb2.AgentStatus())
    whole.MergeFrom(made)
    assert read(agent_pb2.AGENT_VIEW_STATUS) == (whole, whole)
    summary = agent_pb2.Agent(status=agent_pb2.AgentStatus())
    summary.MergeFrom(basic)
    assert read(agent_pb2.AGENT_VIEW_SUMMARY) == (summary, summary)
    for call in (
        lambda: service.agents.GetAgent(pb.GetAgentRequest(agent_id=ECHO, view=99), timeout=10),
        lambda: service.agents.ListAgents(pb.ListAgentsRequest(view=99), timeout=10),
    ):
        assert fails(call, "INVALID_FIELD")["field"] == "view"


def test_a_secret_that_is_gone_is_told_at_the_start_and_waited_for(start: Callable[..., Serve]) -> None:
    allowed = {"AGENT_ALLOWED_HOSTS": "127.0.0.1", "LOG_FORMAT": "json", **ATTEMPTS}
    with Server(reply("hi")) as server:
        service = start("--no-rest", AGENT_SECRET_HOOK=KEY, **allowed)
        agent_id = webhook(service, server.url, "the hook").agent_id
        session_id = create(service, agent_id).session_id
        assert warnings(service) == []
        assert service.stop() == 0
        service = start("--no-rest", **allowed)
        # Secrets are read behind the start: a file may hang.
        (told,) = until(lambda: warnings(service), "the warning")
        why = "webhook.secret names AGENT_SECRET_HOOK, which is not set or empty"
        assert (told["level"], told["agent_id"], told["name"], told["cause"]) == (
            "warning",
            agent_id,
            "the hook",
            why,
        )
        send(service, session_id, "hello")
        until(lambda: status(service, agent_id).HasField("last_failure"), "the first try")
        first = status(service, agent_id).last_failure
        # As often as the message has attempts, and more.
        until(
            lambda: (
                status(service, agent_id).last_failure.at.ToMilliseconds() > first.at.ToMilliseconds() + 500
            ),
            "more tries",
        )
        last = status(service, agent_id).last_failure
        assert (last.attempt, last.reason, last.detail, last.final) == (
            0,
            "the agent's secret cannot be read",
            why,
            False,
        )
        assert counts(service, agent_id) == (0, 1, 0)
        # Once at the start, once when it was asked.
        assert [line["cause"] for line in warnings(service)] == [why] * 2
        assert service.stop() == 0
        assert server.requests == []
        before = len(warnings(service))
        service = start("--no-rest", AGENT_SECRET_HOOK=KEY, **allowed)
        until(lambda: counts(service, agent_id) == (0, 0, 0), "the reply")
        # The log goes on with that of the run before.
        assert len(warnings(service)) == before
        assert len(server.requests) == 1
        assert KEY not in service.log()


def test_a_final_failure_is_a_line_of_the_log_with_what_the_provider_said(
    start: Callable[..., Serve],
) -> None:
    with Server(answer({"error": {"message": "the quota of the tenant is used up"}}, 400)) as server:
        service = start(
            "--no-rest", AGENT_ALLOWED_HOSTS="127.0.0.1", AGENT_SECRET_HOOK=KEY, LOG_FORMAT="json", **ATTEMPTS
        )
        agent_id = webhook(service, server.url).agent_id
        session_id = create(service, agent_id).session_id
        message = send(service, session_id, "hello")
        until(lambda: lines(service, "no reply"), "the line")
        (line,) = lines(service, "no reply")
        assert (line["agent_id"], line["session_id"], line["message_id"]) == (
            agent_id,
            session_id,
            message.message_id,
        )
        assert (line["attempt"], line["final"], line["level"]) == (1, True, "warning")
        assert "the quota of the tenant is used up" in line["detail"]
        assert "127.0.0.1" in line["detail"]
        assert "quota" not in line["reason"]
        assert status(service, agent_id).last_failure.detail == line["detail"]
        request = pb.GetAgentRequest(agent_id=agent_id, view=agent_pb2.AGENT_VIEW_SUMMARY)
        assert not service.agents.GetAgent(request, timeout=10).agent.status.HasField("last_failure")


def warnings(service: Serve) -> list[dict[str, Any]]:
    return lines(service, "agent cannot be asked")


def lines(service: Serve, event: str) -> list[dict[str, Any]]:
    """The lines of the log about an event."""
    return [line for line in map(json.loads, service.log().splitlines()) if line["event"] == event]
