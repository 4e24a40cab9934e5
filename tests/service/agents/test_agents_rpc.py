"""AgentService over gRPC, and what an agent does for its sessions."""

import math
import uuid

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from eliza.sessions.v1.agent_pb2 import (
    AGENT_KIND_ECHO,
    AGENT_KIND_OPENAI,
    AGENT_KIND_WEBHOOK,
    AGENT_VIEW_BASIC,
    Agent,
    OpenAiSettings,
    WebhookSettings,
)
from eliza.sessions.v1.agent_service_pb2 import (
    CreateAgentRequest,
    DeleteAgentRequest,
    GetAgentRequest,
    ListAgentsRequest,
    UpdateAgentRequest,
)
from eliza.sessions.v1.message_service_pb2 import SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import (
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    RenewSessionRequest,
    SendHeartbeatRequest,
    WatchSessionRequest,
)
from eliza.sessions.v1.timeout_pb2 import TimeoutConfig
from tests.conftest import SECRET
from tests.support.clients import agent_ids, create, fails, history, replies, send
from tests.support.service import ECHO, USER, Serve

ABSENT = "22222222-2222-4222-8222-222222222222"
ALL = TimeoutConfig(
    timeout_minutes=45, auto_renew=False, max_duration_minutes=600.5, warning_threshold_minutes=7
)


def register(
    service: Serve, name: str = "an agent", timeout: TimeoutConfig | None = None, **fields: object
) -> Agent:
    agent = Agent(name=name, kind=AGENT_KIND_ECHO, timeout_config=timeout, **fields)
    return service.agents.CreateAgent(CreateAgentRequest(agent=agent), timeout=10).agent


def read(service: Serve, agent_id: str) -> Agent:
    return service.agents.GetAgent(GetAgentRequest(agent_id=agent_id), timeout=10).agent


def update(service: Serve, agent: Agent, *paths: str) -> Agent:
    mask = FieldMask(paths=paths) if paths else None
    return service.agents.UpdateAgent(UpdateAgentRequest(agent=agent, update_mask=mask), timeout=10).agent


def remove(service: Serve, agent_id: str) -> None:
    service.agents.DeleteAgent(DeleteAgentRequest(agent_id=agent_id), timeout=10)


def test_an_agent_without_an_id_is_given_one(service: Serve) -> None:
    first, second = register(service), register(service)
    assert first.agent_id != second.agent_id
    assert str(uuid.UUID(first.agent_id)) == first.agent_id
    assert (first.name, first.kind, first.timeout_config) == ("an agent", AGENT_KIND_ECHO, TimeoutConfig())
    assert first.created_at == first.updated_at
    assert first.created_at.seconds > 0
    assert read(service, first.agent_id) == first


def test_an_agent_keeps_its_id_in_lower_case_and_its_settings(service: Serve) -> None:
    wanted = str(uuid.uuid4())
    made = register(service, "Ünïcode 🤖 agent", ALL, agent_id=wanted.upper())
    assert (made.agent_id, made.name, made.timeout_config) == (wanted, "Ünïcode 🤖 agent", ALL)
    assert read(service, wanted) == read(service, wanted.upper()) == made


def test_an_id_is_registered_once(service: Serve) -> None:
    made = register(service, "the first")
    for agent_id in (made.agent_id, made.agent_id.upper()):
        details = fails(
            lambda agent_id=agent_id: register(service, "the second", agent_id=agent_id),
            "AGENT_ALREADY_EXISTS",
        )
        assert details == {"agentId": made.agent_id}
    assert read(service, made.agent_id) == made


@pytest.mark.parametrize(
    ("agent", "missing"),
    [
        (Agent(), "name,kind"),
        (Agent(name="an agent"), "kind"),
        (Agent(kind=AGENT_KIND_ECHO), "name"),
    ],
)
def test_what_is_missing_is_named(service: Serve, agent: Agent, missing: str) -> None:
    request = CreateAgentRequest(agent=agent)
    assert fails(lambda: service.agents.CreateAgent(request, timeout=10), "MISSING_FIELDS") == {
        "missingFields": missing
    }


def test_a_create_without_an_agent_lacks_everything_required(service: Serve) -> None:
    details = fails(lambda: service.agents.CreateAgent(CreateAgentRequest(), timeout=10), "MISSING_FIELDS")
    assert details == {"missingFields": "name,kind"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "x" * 101}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"kind": 99}, "kind"),
        ({"retention_minutes": -1}, "retention_minutes"),
        ({"retention_minutes": 525_600.1}, "retention_minutes"),
        ({"retention_minutes": math.nan}, "retention_minutes"),
    ],
)
def test_a_field_that_cannot_be_is_named(service: Serve, fields: dict, field: str) -> None:
    before = agent_ids(service)
    request = CreateAgentRequest(agent=Agent(**{"name": "an agent", "kind": AGENT_KIND_ECHO, **fields}))
    assert fails(lambda: service.agents.CreateAgent(request, timeout=10), "INVALID_FIELD")["field"] == field
    assert agent_ids(service) == before


def test_a_name_of_100_code_points_is_accepted(service: Serve) -> None:
    assert register(service, "🤖" * 100).name == "🤖" * 100


@pytest.mark.parametrize(
    "agent_id",
    ["7", "00000000-0000-4000-8000-0000000000eg", "00000000000040008000000000000000", " " + ABSENT],
)
def test_an_id_that_is_no_uuid_is_refused(service: Serve, agent_id: str) -> None:
    details = fails(lambda: register(service, agent_id=agent_id), "INVALID_UUID")
    assert details == {"field": "agent_id", "value": agent_id}


@pytest.mark.parametrize(
    ("timeout", "field"),
    [
        ({"timeout_minutes": 4.9}, "timeout_minutes"),
        ({"timeout_minutes": 1441}, "timeout_minutes"),
        ({"timeout_minutes": math.nan}, "timeout_minutes"),
        ({"max_duration_minutes": 4}, "max_duration_minutes"),
        ({"max_duration_minutes": 2881}, "max_duration_minutes"),
        ({"max_duration_minutes": math.inf}, "max_duration_minutes"),
        ({"timeout_minutes": 60, "max_duration_minutes": 59}, "max_duration_minutes"),
        ({"warning_threshold_minutes": 0.5}, "warning_threshold_minutes"),
        ({"warning_threshold_minutes": math.inf}, "warning_threshold_minutes"),
    ],
)
def test_settings_out_of_range_are_refused_on_create_and_update(
    service: Serve, timeout: dict, field: str
) -> None:
    config = TimeoutConfig(**timeout)
    assert fails(lambda: register(service, timeout=config), "INVALID_TIMEOUT_CONFIG")["field"] == field
    made = register(service, timeout=TimeoutConfig(timeout_minutes=20))
    changed = Agent(agent_id=made.agent_id, timeout_config=config)
    for paths in ((), ("timeout_config",), (f"timeout_config.{field}", "timeout_config.timeout_minutes")):
        assert (
            fails(lambda paths=paths: update(service, changed, *paths), "INVALID_TIMEOUT_CONFIG")["field"]
            == field
        )
    assert read(service, made.agent_id) == made


def test_an_unknown_agent_is_not_found(service: Serve) -> None:
    for agent_id in (ABSENT, ABSENT.upper(), "no uuid at all"):
        for call in (read, remove):
            details = fails(lambda call=call, agent_id=agent_id: call(service, agent_id), "AGENT_NOT_FOUND")
            assert details["agentId"].lower() == agent_id.lower()
        named = Agent(agent_id=agent_id, name="a name")
        assert (
            fails(lambda named=named: update(service, named), "AGENT_NOT_FOUND")["agentId"].lower()
            == agent_id.lower()
        )


def test_a_removed_agent_is_gone_and_its_id_free(service: Serve) -> None:
    made = register(service)
    remove(service, made.agent_id.upper())
    fails(lambda: read(service, made.agent_id), "AGENT_NOT_FOUND")
    fails(lambda: remove(service, made.agent_id), "AGENT_NOT_FOUND")
    assert made.agent_id not in agent_ids(service)
    assert register(service, "the next", agent_id=made.agent_id).name == "the next"


def test_pages_of_agents_are_in_order_of_registration_and_lose_nothing(service: Serve) -> None:
    made = [register(service, f"agent {number}") for number in range(5)]
    pages, token = [], ""
    while True:
        page = service.agents.ListAgents(ListAgentsRequest(page_size=2, page_token=token), timeout=10)
        pages.append(list(page.agents))
        token = page.next_page_token
        if not token:
            break
    assert {len(page) for page in pages[:-1]} == {2}
    assert 1 <= len(pages[-1]) <= 2
    walked = [agent for page in pages for agent in page]
    # The clock stands still here, so agents of the same instant are told apart by their ids.
    assert [(agent.created_at.ToMilliseconds(), agent.agent_id) for agent in walked] == sorted(
        (agent.created_at.ToMilliseconds(), agent.agent_id) for agent in walked
    )
    assert [agent.agent_id for agent in walked] == agent_ids(service)
    assert sorted(agent.agent_id for agent in walked if agent in made) == sorted(
        agent.agent_id for agent in made
    )


def test_a_later_agent_is_listed_later(service: Serve) -> None:
    made = []
    for _ in range(4):
        made.append(register(service).agent_id)
        service.advance(ms=1)
    listed = agent_ids(service)
    assert [agent_id for agent_id in listed if agent_id in made] == made


def test_a_page_that_ends_the_list_exactly_is_the_last(service: Serve) -> None:
    register(service)
    page = service.agents.ListAgents(ListAgentsRequest(page_size=len(agent_ids(service))), timeout=10)
    assert page.next_page_token == ""


def test_an_agent_removed_between_two_pages_disturbs_nothing(service: Serve) -> None:
    for _ in range(3):
        register(service)
    listed = agent_ids(service)
    first = service.agents.ListAgents(ListAgentsRequest(page_size=len(listed) - 2), timeout=10)
    remove(service, first.agents[-1].agent_id)
    rest = service.agents.ListAgents(ListAgentsRequest(page_token=first.next_page_token), timeout=10)
    assert [agent.agent_id for agent in rest.agents] == listed[-2:]


def test_sizes_of_pages_are_bounded(service: Serve) -> None:
    register(service)
    everything = agent_ids(service)
    for size in (0, 1000, 2**31 - 1):
        page = service.agents.ListAgents(ListAgentsRequest(page_size=size), timeout=10)
        assert [agent.agent_id for agent in page.agents] == everything[: size or 100]
    details = fails(
        lambda: service.agents.ListAgents(ListAgentsRequest(page_size=-1), timeout=10), "INVALID_PAGINATION"
    )
    assert (details["parameter"], details["value"]) == ("page_size", "-1")


def test_a_page_token_of_anything_else_is_refused(service: Serve) -> None:
    create(service)
    create(service)
    other = service.sessions.ListSessions(ListSessionsRequest(page_size=1), timeout=10).next_page_token
    assert other
    for token in (other, "nonsense", "!", "W10", other[:-2]):
        request = ListAgentsRequest(page_token=token)
        details = fails(
            lambda request=request: service.agents.ListAgents(request, timeout=10), "INVALID_PAGINATION"
        )
        assert details["parameter"] == "page_token"


def test_without_a_mask_what_is_set_is_changed(service: Serve) -> None:
    made = register(service, timeout=ALL)
    service.advance(ms=5)
    changed = update(
        service,
        Agent(
            agent_id=made.agent_id.upper(), name="renamed", timeout_config=TimeoutConfig(timeout_minutes=50)
        ),
    )
    wanted = TimeoutConfig(
        timeout_minutes=50, auto_renew=False, max_duration_minutes=600.5, warning_threshold_minutes=7
    )
    assert (changed.agent_id, changed.name, changed.kind, changed.timeout_config) == (
        made.agent_id,
        "renamed",
        AGENT_KIND_ECHO,
        wanted,
    )
    assert changed.created_at == made.created_at
    assert changed.updated_at.ToMilliseconds() >= made.updated_at.ToMilliseconds() + 5
    assert read(service, made.agent_id) == changed


def test_a_retention_is_stored_changed_and_cleared(service: Serve) -> None:
    wanted = Agent(name="kept", kind=AGENT_KIND_ECHO, retention_minutes=0)
    made = service.agents.CreateAgent(CreateAgentRequest(agent=wanted), timeout=10).agent
    assert (made.HasField("retention_minutes"), made.retention_minutes) == (True, 0)
    assert read(service, made.agent_id) == made
    for changed, paths, retention in (
        (Agent(retention_minutes=525_600), (), 525_600),
        (Agent(name="still kept"), (), 525_600),
        (Agent(retention_minutes=7.5), ("retention_minutes",), 7.5),
        # What the mask does not name stays.
        (Agent(name="named", retention_minutes=9), ("name",), 7.5),
        (Agent(), ("retention_minutes",), None),
        (Agent(name="of all", kind=AGENT_KIND_ECHO, retention_minutes=3), ("*",), 3),
        (Agent(name="of all", kind=AGENT_KIND_ECHO), ("*",), None),
    ):
        changed.agent_id = made.agent_id
        updated = update(service, changed, *paths)
        told = updated.retention_minutes if updated.HasField("retention_minutes") else None
        assert (told, read(service, made.agent_id)) == (retention, updated), paths
    wrong = Agent(agent_id=made.agent_id, retention_minutes=-0.5)
    details = fails(lambda: update(service, wrong), "INVALID_FIELD")
    assert details["field"] == "retention_minutes"
    update(service, Agent(agent_id=made.agent_id, retention_minutes=1))
    basic = GetAgentRequest(agent_id=made.agent_id, view=AGENT_VIEW_BASIC)
    assert not service.agents.GetAgent(basic, timeout=10).agent.HasField("retention_minutes")


def test_a_false_auto_renew_counts_as_set(service: Serve) -> None:
    made = register(service, timeout=TimeoutConfig(auto_renew=True))
    changed = update(service, Agent(agent_id=made.agent_id, timeout_config=TimeoutConfig(auto_renew=False)))
    assert changed.timeout_config == TimeoutConfig(auto_renew=False)


NEW = TimeoutConfig(timeout_minutes=99)
LONGER = TimeoutConfig(
    timeout_minutes=99, auto_renew=False, max_duration_minutes=600.5, warning_threshold_minutes=7
)


@pytest.mark.parametrize(
    ("paths", "name", "timeout"),
    [
        (("name",), "renamed", ALL),
        (("timeout_config",), "an agent", NEW),
        (("timeout_config.timeout_minutes",), "an agent", LONGER),
        (
            ("timeout_config.auto_renew",),
            "an agent",
            TimeoutConfig(timeout_minutes=45, max_duration_minutes=600.5, warning_threshold_minutes=7),
        ),
        (
            ("timeout_config.max_duration_minutes", "timeout_config.warning_threshold_minutes"),
            "an agent",
            TimeoutConfig(timeout_minutes=45, auto_renew=False),
        ),
        (("kind",), "an agent", ALL),
        (("*",), "renamed", NEW),
        (("name", "kind", "timeout_config"), "renamed", NEW),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else "",
)
def test_a_mask_says_what_is_changed_and_what_is_cleared(
    service: Serve, paths: tuple[str, ...], name: str, timeout: TimeoutConfig
) -> None:
    made = register(service, timeout=ALL)
    changed = update(
        service,
        Agent(agent_id=made.agent_id, name="renamed", kind=AGENT_KIND_ECHO, timeout_config=NEW),
        *paths,
    )
    assert (changed.name, changed.kind, changed.timeout_config) == (name, AGENT_KIND_ECHO, timeout)
    assert read(service, made.agent_id) == changed


@pytest.mark.parametrize(
    "path",
    [
        "agent_id",
        "created_at",
        "updated_at",
        "nonsense",
        "timeout_config.nonsense",
        "timeout_config.",
        "name.first",
        "",
        "Name",
    ],
)
def test_a_path_that_cannot_be_changed_is_refused(service: Serve, path: str) -> None:
    made = register(service, timeout=ALL)
    changed = Agent(agent_id=made.agent_id, name="renamed", timeout_config=NEW)
    details = fails(lambda: update(service, changed, "name", path), "INVALID_FIELD")
    assert (details["field"], details["value"]) == ("update_mask", path)
    assert read(service, made.agent_id) == made


def test_a_required_field_cannot_be_cleared(service: Serve) -> None:
    made = register(service)
    for paths in (("name",), ("*",)):
        cleared = Agent(agent_id=made.agent_id, kind=AGENT_KIND_ECHO)
        assert fails(
            lambda cleared=cleared, paths=paths: update(service, cleared, *paths), "MISSING_FIELDS"
        ) == {"missingFields": "name"}
    with pytest.raises(grpc.RpcError) as raised:
        update(service, Agent(agent_id=made.agent_id, name="renamed"), "kind")
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert read(service, made.agent_id) == made


def test_settings_come_from_the_request_then_the_agent_then_the_environment(service: Serve) -> None:
    agent_id = register(
        service, timeout=TimeoutConfig(timeout_minutes=45, warning_threshold_minutes=7)
    ).agent_id
    config = create(service, agent_id).timeout_config
    assert config == TimeoutConfig(
        timeout_minutes=45, auto_renew=True, max_duration_minutes=720, warning_threshold_minutes=7
    )
    config = create(service, agent_id, timeout_minutes=60, auto_renew=False).timeout_config
    assert config == TimeoutConfig(
        timeout_minutes=60, auto_renew=False, max_duration_minutes=720, warning_threshold_minutes=7
    )
    whole = register(service, timeout=ALL).agent_id
    assert create(service, whole).timeout_config == ALL
    assert create(service, whole, auto_renew=True).timeout_config.auto_renew


def test_a_change_applies_to_later_sessions_only(service: Serve) -> None:
    agent_id = register(service, timeout=TimeoutConfig(timeout_minutes=45)).agent_id
    before = create(service, agent_id)
    update(service, Agent(agent_id=agent_id, timeout_config=TimeoutConfig(timeout_minutes=90)))
    after = create(service, agent_id)
    assert (before.timeout_config.timeout_minutes, after.timeout_config.timeout_minutes) == (45, 90)
    renewed = service.sessions.RenewSession(
        RenewSessionRequest(session_id=before.session_id), timeout=10
    ).session
    assert renewed.timeout_config == before.timeout_config
    assert renewed.expires_at.ToMilliseconds() - renewed.last_activity.ToMilliseconds() == 45 * 60_000


def test_a_reply_is_the_agents(service: Serve) -> None:
    agent_id = register(service).agent_id
    session_id = create(service, agent_id).session_id
    sent = send(service, session_id, "  Ça va?\n🙂 ")
    assert (sent.author_id, sent.is_agent) == (USER, False)
    (reply,) = replies(service, session_id, 1)
    assert (reply.author_id, reply.is_agent, reply.content, reply.session_id) == (
        agent_id,
        True,
        "  Ça va?\n🙂 ",
        session_id,
    )
    assert reply.message_id != sent.message_id
    assert reply.sequence > sent.sequence
    assert reply.created_at.ToMilliseconds() > sent.created_at.ToMilliseconds()


def test_a_reply_renews_nothing(service: Serve) -> None:
    session_id = create(service).session_id
    send(service, session_id, "hello")
    replies(service, session_id, 1)
    assert (
        service.sessions.GetSession(
            GetSessionRequest(session_id=session_id), timeout=10
        ).session.renewal_count
        == 1
    )


def test_replies_come_in_the_order_of_the_messages(service: Serve) -> None:
    session_id = create(service).session_id
    requests = [
        SendMessageRequest(session_id=session_id, content=f"message {number}") for number in range(50)
    ]
    calls = [service.messages.SendMessage.future(request, timeout=30) for request in requests]
    assert sorted(call.result().message.content for call in calls) == sorted(
        request.content for request in requests
    )
    answered = [message.content for message in replies(service, session_id, 50)]
    log = history(service, session_id)
    assert answered == [message.content for message in log if not message.is_agent]
    assert [message.sequence for message in log] == list(range(1, 101))
    times = [message.created_at.ToMilliseconds() for message in log]
    assert times == sorted(set(times))


def test_sessions_of_a_removed_agent_go_on_without_replies(service: Serve) -> None:
    agent_id = register(service).agent_id
    session_id = create(service, agent_id).session_id
    send(service, session_id, "before")
    replies(service, session_id, 1)
    remove(service, agent_id)
    assert fails(lambda: create(service, agent_id), "AGENT_NOT_FOUND") == {"agentId": agent_id}
    send(service, session_id, "meanwhile")
    for call, request in (
        (service.sessions.GetSession, GetSessionRequest(session_id=session_id)),
        (service.sessions.SendHeartbeat, SendHeartbeatRequest(session_id=session_id)),
        (service.sessions.RenewSession, RenewSessionRequest(session_id=session_id)),
    ):
        assert call(request, timeout=10).session.agent_id == agent_id
    watch = service.sessions.WatchSession(WatchSessionRequest(session_id=session_id), timeout=30)
    assert any(response.entry.HasField("reply_failure") for response in watch)
    watch.cancel()
    register(service, agent_id=agent_id)
    send(service, session_id, "after")
    assert [message.content for message in replies(service, session_id, 2)] == ["before", "after"]
    service.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id), timeout=10)


def test_a_secret_is_told_to_nobody(service: Serve) -> None:
    """Neither where it belongs, nor where somebody takes it for its reference."""
    hook, model = WebhookSettings(url="https://agent.example"), OpenAiSettings(model="m")
    for settings, field in ((hook, "secret"), (model, "api_key")):
        head = "webhook" if settings is hook else "openai"
        kind = AGENT_KIND_WEBHOOK if settings is hook else AGENT_KIND_OPENAI
        setattr(settings, field, "env:AGENT_SECRET_TEST")
        made = service.agents.CreateAgent(
            CreateAgentRequest(agent=Agent(name="a", kind=kind, **{head: settings})), timeout=10
        ).agent
        assert getattr(getattr(made, head), field) == "env:AGENT_SECRET_TEST"
        assert SECRET not in str([made, read(service, made.agent_id)])
        for wrong in (SECRET, f"file:{SECRET}", f"ENV:{SECRET}"):
            setattr(settings, field, wrong)
            for call in (
                lambda kind=kind, head=head, settings=settings: service.agents.CreateAgent(
                    CreateAgentRequest(agent=Agent(name="a", kind=kind, **{head: settings})), timeout=10
                ),
                lambda made=made, head=head, settings=settings: update(
                    service, Agent(agent_id=made.agent_id, **{head: settings})
                ),
            ):
                with pytest.raises(grpc.RpcError) as raised:
                    call()
                assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert SECRET not in str(raised.value)
        assert getattr(getattr(read(service, made.agent_id), head), field) == "env:AGENT_SECRET_TEST"
    assert SECRET not in service.log()


def test_agents_outlive_a_restart(start) -> None:
    first = start("--no-rest")
    made = register(first, "kept", ALL)
    model = OpenAiSettings(model="m", temperature=0, system_prompt="Be brief.")
    asked = first.agents.CreateAgent(
        CreateAgentRequest(agent=Agent(name="asked", kind=AGENT_KIND_OPENAI, openai=model)), timeout=10
    ).agent
    renamed = update(first, Agent(agent_id=ECHO, name="renamed echo"))
    first.kill()
    second = start("--no-rest")
    assert read(second, made.agent_id) == made
    assert read(second, asked.agent_id) == asked
    assert (asked.openai.temperature, asked.openai.HasField("top_p"), asked.openai.history_messages) == (
        0,
        False,
        20,
    )
    assert read(second, ECHO) == renamed
