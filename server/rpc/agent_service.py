"""AgentService: the registry of agents."""

from dataclasses import replace
from typing import Any

from eliza.sessions.v1 import agent_pb2, timeout_pb2
from eliza.sessions.v1 import agent_service_pb2 as pb
from eliza.sessions.v1.agent_service_pb2_grpc import AgentServiceServicer
from eliza.sessions.v1.limits import DEFAULT_SESSIONS, MAX_SESSIONS
from server.clock import Clock
from server.domain.agents import Agent, check_agent
from server.domain.errors import InvalidFieldError, MissingFieldsError
from server.domain.ids import new_id, uuid_field
from server.domain.timeouts import TimeoutPolicy
from server.rpc.convert import agent_kind, agent_message, timeout_request
from server.rpc.paging import make_token, page_size, read_token
from server.store.base import Position, Store

_SCOPE = ("agents",)
_TIMEOUT = "timeout_config"
_TIMEOUT_FIELDS = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)


class AgentService(AgentServiceServicer):
    """See agent_service.proto."""

    def __init__(self, store: Store, clock: Clock, policy: TimeoutPolicy) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy

    async def CreateAgent(self, request: pb.CreateAgentRequest, context: Any) -> pb.CreateAgentResponse:
        wanted, now_ms = request.agent, self._clock.now_ms()
        if missing := [field for field in ("name", "kind") if not getattr(wanted, field)]:
            raise MissingFieldsError(missing)
        agent_id = uuid_field("agent_id", wanted.agent_id) if wanted.agent_id else new_id()
        agent = Agent(agent_id, wanted.name, agent_kind(wanted.kind), now_ms, now_ms, timeout_request(wanted.timeout_config))
        check_agent(agent, self._policy)
        await self._store.create_agent(agent)
        return pb.CreateAgentResponse(agent=agent_message(agent))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        return pb.GetAgentResponse(agent=agent_message(await self._store.get_agent(request.agent_id.lower())))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        size, after = page_size(request.page_size, DEFAULT_SESSIONS, MAX_SESSIONS), None
        if request.page_token:
            after = Position(*read_token(request.page_token, _SCOPE, (int, str)))  # type: ignore[arg-type]
        found = await self._store.list_agents(limit=size + 1, after=after)
        page = found[:size]
        token = make_token(_SCOPE, (page[-1].created_at_ms, page[-1].id)) if len(found) > size else ""
        return pb.ListAgentsResponse(agents=[agent_message(agent) for agent in page], next_page_token=token)

    async def UpdateAgent(self, request: pb.UpdateAgentRequest, context: Any) -> pb.UpdateAgentResponse:
        paths = list(request.update_mask.paths) or _set_paths(request.agent)

        def change(agent: Agent, now_ms: int) -> Agent:
            patched = _patched(agent, request.agent, paths)
            check_agent(patched, self._policy)
            return replace(patched, updated_at_ms=now_ms)

        return pb.UpdateAgentResponse(agent=agent_message(await self._store.update_agent(request.agent.agent_id.lower(), change)))

    async def DeleteAgent(self, request: pb.DeleteAgentRequest, context: Any) -> pb.DeleteAgentResponse:
        await self._store.delete_agent(request.agent_id.lower())
        return pb.DeleteAgentResponse()


def _set_paths(wanted: agent_pb2.Agent) -> list[str]:
    """The changeable fields that are set, as AIP-134 reads an absent mask."""
    timeout_paths = [f"{_TIMEOUT}.{field.name}" for field, _ in wanted.timeout_config.ListFields()]
    return [field for field in ("name", "kind") if getattr(wanted, field)] + timeout_paths


def _patched(agent: Agent, wanted: agent_pb2.Agent, paths: list[str]) -> Agent:
    """The agent with the fields that the paths name taken from `wanted`. Raises InvalidFieldError for a path that cannot be changed."""
    timeout = timeout_request(wanted.timeout_config)
    for path in paths:
        head, _, field = path.partition(".")
        if path in ("name", "*"):
            agent = replace(agent, name=wanted.name)
        if path in ("kind", "*"):
            agent = replace(agent, kind=agent_kind(wanted.kind))
        if path in (_TIMEOUT, "*"):
            agent = replace(agent, timeout=timeout)
        elif head == _TIMEOUT and field in _TIMEOUT_FIELDS:
            agent = replace(agent, timeout=replace(agent.timeout, **{field: getattr(timeout, field)}))
        elif path not in ("name", "kind"):
            raise InvalidFieldError("update_mask", path, "names a field that cannot be changed")
    return agent
