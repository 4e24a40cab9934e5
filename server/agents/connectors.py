"""The connectors of all kinds of agent, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx2

from server.agents.connector import Connector
from server.agents.echo import Echo
from server.agents.guarded_http import client
from server.agents.hosts import Hosts
from server.agents.openai import OpenAi
from server.agents.secrets import Secrets
from server.agents.stream import StreamWorkers
from server.agents.webhook import Webhook
from server.clock import SystemClock
from server.domain.agents import Agent, AgentKind, check_agent
from server.domain.timeouts import TimeoutPolicy
from server.telemetry.traces import NO_TRACES, Traces


@dataclass(frozen=True, slots=True)
class Connectors:
    """The connector of each kind. `workers` are those of the kind `stream`; close `client` after use."""

    by_kind: Mapping[AgentKind, Connector]
    workers: StreamWorkers
    client: httpx2.AsyncClient
    policy: TimeoutPolicy
    hosts: Hosts

    def check(self, agent: Agent) -> None:
        """Raises MissingFieldsError, InvalidFieldError or InvalidTimeoutConfigError for an unfit agent.

        It reads nothing and does not wait. `check_secret` checks the secret.
        """
        check_agent(agent, self.policy)
        self.by_kind[agent.kind].check(agent)

    async def check_secret(self, agent: Agent) -> None:
        """Raises InvalidFieldError for an agent whose secret cannot be read or used."""
        await self.by_kind[agent.kind].check_secret(agent)


def build_connectors(
    policy: TimeoutPolicy,
    *,
    allowed_hosts: Sequence[str],
    allowed_secrets: Sequence[str],
    traces: Traces = NO_TRACES,
) -> Connectors:
    """One connector for each kind. Raises ValueError for an entry of the settings that is none."""
    hosts, secrets, workers = Hosts(allowed_hosts), Secrets(allowed_secrets), StreamWorkers()
    http = client(hosts, traces)
    # The machine's clock, because the receiver of a webhook compares its time with its own.
    clock = SystemClock()
    by_kind: dict[AgentKind, Connector] = {
        AgentKind.ECHO: Echo(),
        AgentKind.STREAM: workers,
        AgentKind.WEBHOOK: Webhook(http, hosts, secrets, clock),
        AgentKind.OPENAI: OpenAi(http, hosts, secrets, clock),
    }
    return Connectors(by_kind, workers, http, policy, hosts)
