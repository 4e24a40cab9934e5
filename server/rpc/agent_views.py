"""How much of an agent a caller is shown."""

from eliza.sessions.v1 import agent_pb2
from server.agents.stream import StreamWorkers
from server.delivery.statuses import AgentStatuses
from server.domain.access import sees_whole_agents
from server.domain.agents import Agent
from server.domain.errors import InvalidFieldError
from server.rpc import to_proto
from server.rpc.call import Call


class AgentViews:
    """Makes the messages of agents."""

    def __init__(self, workers: StreamWorkers, statuses: AgentStatuses) -> None:
        self._workers = workers
        self._statuses = statuses

    def of(self, agent: Agent, view: agent_pb2.AgentView.ValueType, context: Call) -> agent_pb2.Agent:
        """Makes an agent's message with the fields of the view that the caller may see."""
        if not sees_whole_agents(context.principal):
            whole = to_proto.agent(agent)
            return agent_pb2.Agent(agent_id=agent.id, name=agent.name, kind=whole.kind)
        message = to_proto.agent(agent)
        if view in (agent_pb2.AGENT_VIEW_BASIC, agent_pb2.AGENT_VIEW_SUMMARY):
            for field in ("timeout_config", "retention_minutes", "settings"):
                message.ClearField(field)
        if view in (agent_pb2.AGENT_VIEW_STATUS, agent_pb2.AGENT_VIEW_SUMMARY):
            workers = self._workers.count(agent.id)
            message.status.CopyFrom(to_proto.agent_status(self._statuses.status(agent.id), workers))
            if not context.scope.owns_agent(agent):
                # The rest tells of the sessions of other tenants.
                message.status.CopyFrom(agent_pb2.AgentStatus(connected_workers=workers))
        if view == agent_pb2.AGENT_VIEW_SUMMARY:
            message.status.ClearField("last_failure")
        return message


def check_view(view: int) -> None:
    """Raises InvalidFieldError for a view that there is not."""
    if view not in agent_pb2.AgentView.values():
        raise InvalidFieldError("view", view, "is not a view of an agent that this version knows")
