"""What is registered at a start: the built-in agent of an empty store, and the agents of the TOML file."""

import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from server.clock import Clock
from server.domain.agents import ECHO_ID, Agent, AgentKind, check_agent
from server.domain.errors import AgentAlreadyExistsError, DomainError
from server.domain.ids import uuid_field
from server.domain.timeouts import PartialTimeoutConfig, TimeoutPolicy
from server.store.base import Store


class AgentsFileError(Exception):
    """The file of agents cannot be used; the text says where and why."""


class _Timeout(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timeout_minutes: Annotated[float, Field(strict=True)] | None = None
    auto_renew: StrictBool | None = None
    max_duration_minutes: Annotated[float, Field(strict=True)] | None = None
    warning_threshold_minutes: Annotated[float, Field(strict=True)] | None = None


class _Agent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    kind: AgentKind
    timeout: _Timeout = _Timeout()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    agents: list[_Agent] = []


def read_agents_file(path: Path, now_ms: int, policy: TimeoutPolicy) -> list[Agent]:
    """The agents of a TOML file: tables `[[agents]]` with `id`, `name`, `kind` and, where wanted, `[agents.timeout]`.

    Raises AgentsFileError.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
        agents = [_agent(entry, now_ms) for entry in _File.model_validate(content).agents]
        for agent in agents:
            check_agent(agent, policy)
        if twice := [agent_id for agent_id, count in Counter(agent.id for agent in agents).items() if count > 1]:
            raise AgentsFileError(f"{path}: the id {twice[0]} stands there more than once")
    except OSError as error:
        raise AgentsFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise AgentsFileError(f"{path}: {'; '.join(problems)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, DomainError) as error:
        raise AgentsFileError(f"{path}: {error}") from error
    return agents


async def register_at_start(store: Store, clock: Clock, policy: TimeoutPolicy, agents_file: Path | None) -> None:
    """Registers `echo` if this store never had it, then what the file has. Raises AgentsFileError.

    The file wins over what is stored under the same id; only the time of registration stays.
    """
    now_ms = clock.now_ms()
    agents = read_agents_file(agents_file, now_ms, policy) if agents_file else []
    await store.seed_agent(Agent(ECHO_ID, "echo", AgentKind.ECHO, now_ms, now_ms))
    for agent in agents:
        try:
            await store.create_agent(agent)
        except AgentAlreadyExistsError:
            await store.update_agent(agent.id, lambda stored, _, agent=agent: replace(agent, created_at_ms=stored.created_at_ms))  # type: ignore[misc]


def _agent(entry: _Agent, now_ms: int) -> Agent:
    timeout: dict[str, Any] = entry.timeout.model_dump()
    return Agent(uuid_field("id", entry.id), entry.name, entry.kind, now_ms, now_ms, PartialTimeoutConfig(**timeout))
