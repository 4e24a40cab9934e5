"""The agents, and one of them: what is asked, and that all of it is shown as text."""

from typing import Any

import pytest

from eliza.sessions import values
from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1 import agent_pb2
from eliza.sessions.v1.agent_pb2 import Agent, AgentStatus, DeliveryFailure
from eliza.sessions.v1.agent_service_pb2 import (
    GetAgentRequest,
    GetAgentResponse,
    ListAgentsRequest,
    ListAgentsResponse,
)
from rest_facade.console.agents import DELIVERIES, KINDS, MAX_CALLS
from tests.unit.console.asking import Asker, refusal, refuse
from tests.unit.console.test_parts import EVIL, NOW

AGENT = "22222222-2222-4222-8222-222222222222"
FAILURE = DeliveryFailure(
    session_id="s", attempt=3, at=values.timestamp(NOW), reason=EVIL, detail=f"detail {EVIL}", final=True
)


def test_every_kind_has_a_word() -> None:
    assert set(KINDS) == set(agent_pb2.AgentKind.values())


def test_agents_are_listed_with_their_status() -> None:
    requests: list[ListAgentsRequest] = []
    status = AgentStatus(connected_workers=2, open_deliveries=7, deliveries_in_hand=3, last_failure=FAILURE)
    agents = [
        Agent(agent_id=AGENT, name=EVIL, kind=agent_pb2.AGENT_KIND_STREAM, status=status),
        Agent(agent_id=AGENT, name="idle", kind=agent_pb2.AGENT_KIND_STREAM, status=AgentStatus()),
        Agent(agent_id=AGENT, name="untold", kind=agent_pb2.AGENT_KIND_ECHO),
    ]

    def answer(request: Any, _metadata: Any) -> Any:
        requests.append(request)
        return ListAgentsResponse(agents=agents, next_page_token="next")

    text = Asker(answer)("/console/parts/agents?page=t").text
    assert requests == [ListAgentsRequest(page_size=100, page_token="t", view=agent_pb2.AGENT_VIEW_STATUS)]
    assert EVIL not in text
    for told in ('<td data-name="Waiting" class="number">4</td>', ">none</span>", "untold", "?page=next"):
        assert told in text, told


def test_no_agent_is_told() -> None:
    assert "There is no agent" in Asker(lambda *_: ListAgentsResponse())("/console/parts/agents").text


def make_activity(**facts: Any) -> pb.GetAgentActivityResponse:
    return pb.GetAgentActivityResponse(agent=Agent(agent_id=AGENT, name=EVIL), **facts)


def answer_with(activity: pb.GetAgentActivityResponse, agent: Agent | None) -> Any:
    def answer(request: Any, _metadata: Any) -> Any:
        if isinstance(request, GetAgentRequest):
            if agent is None:
                raise refusal("AGENT_NOT_FOUND", "No such agent", {"agentId": AGENT})
            return GetAgentResponse(agent=agent)
        assert request == pb.GetAgentActivityRequest(agent_id=AGENT)
        return activity

    return answer


def test_one_agent_is_shown_with_its_work_and_its_workers() -> None:
    worker = pb.GetAgentActivityResponse.Worker(
        worker_id="w-1",
        address="10.0.0.9:55",
        principal=EVIL,
        connected_at=values.timestamp(NOW),
        max_deliveries=8,
        in_hand=5,
        is_retired=True,
    )
    activity = make_activity(
        workers=[worker],
        waiting=12,
        oldest_seconds=75,
        first_chunk_p95_ms=350,
        last_failure=FAILURE,
        failed=1000,
    )
    agent = Agent(
        agent_id=AGENT,
        name=EVIL,
        kind=agent_pb2.AGENT_KIND_WEBHOOK,
        webhook=agent_pb2.WebhookSettings(url="https://agents.example/hook"),
    )
    text = Asker(answer_with(activity, agent))(f"/console/parts/agents/{AGENT}").text
    assert EVIL not in text
    for told in (
        *("12 messages, the oldest for 1 min 15 s", "1000 or more", "350 ms", "https://agents.example/hook"),
        *("10.0.0.9:55", "expired", "for good", "2027-01-15 08:00:00 UTC", "attempt 3"),
    ):
        assert told in text, told


def test_a_stream_agent_without_workers_says_so_and_one_that_is_just_removed_is_shown() -> None:
    activity = make_activity()
    activity.agent.kind = agent_pb2.AGENT_KIND_STREAM
    text = Asker(answer_with(activity, None))(f"/console/parts/agents/{AGENT}").text
    assert "No worker is connected" in text
    assert "none since the service started" in text


def test_an_agent_that_is_not_there_is_not_found() -> None:
    answer = Asker(refuse("AGENT_NOT_FOUND", "No such agent"))("/console/parts/agents/x")
    assert answer.status_code == 404


def delivery(**facts: Any) -> pb.MessageDelivery:
    return pb.MessageDelivery(
        session_id="s", message_id="m", message_sequence=9, created_at=values.timestamp(NOW), **facts
    )


@pytest.mark.parametrize(
    ("path", "state"), [("open", pb.DELIVERY_STATE_UNSPECIFIED), ("failed", pb.DELIVERY_STATE_FAILED)]
)
def test_deliveries_of_an_agent_are_read_until_the_table_is_full(path: str, state: Any) -> None:
    requests: list[pb.ListDeliveriesRequest] = []
    one = delivery(
        state=state or pb.DELIVERY_STATE_WAITING,
        last_failure=FAILURE,
        can_redeliver=True,
        next_attempt_at=values.timestamp(NOW),
    )

    def answer(request: Any, _metadata: Any) -> Any:
        copy = pb.ListDeliveriesRequest()
        copy.CopyFrom(request)
        requests.append(copy)
        return pb.ListDeliveriesResponse(deliveries=[one], next_page_token=str(len(requests)))

    text = Asker(answer)(f"/console/parts/agents/{AGENT}/{path}").text
    assert [(one.page_token, one.page_size) for one in requests] == [
        ("" if not number else str(number), DELIVERIES - number) for number in range(MAX_CALLS)
    ]
    assert {(one.agent_id, one.state) for one in requests} == {(AGENT, state)}
    assert EVIL not in text
    assert text.count('data-name="Session"') == MAX_CALLS
    assert ('data-redeliver="m"' in text) == (path == "failed")


def test_only_what_can_be_delivered_anew_has_a_button() -> None:
    page = pb.ListDeliveriesResponse(deliveries=[delivery(can_redeliver=False)])
    assert "data-redeliver=" not in Asker(lambda *_: page)(f"/console/parts/agents/{AGENT}/failed").text
    nothing = Asker(lambda *_: pb.ListDeliveriesResponse())
    assert "Nothing that could" in nothing(f"/console/parts/agents/{AGENT}/failed").text
    assert "Nothing waits" in nothing(f"/console/parts/agents/{AGENT}/open").text
