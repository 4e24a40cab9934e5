"""Registers agents at a start: the built-in one in an empty store, and those of the TOML file."""

import tomllib
from collections import Counter
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, create_model

from server.agents.connectors import Connectors
from server.clock import Clock
from server.domain.access import EVERYTHING
from server.domain.agents import ECHO_ID, Agent, AgentKind, AgentSettings, OpenAiSettings, WebhookSettings
from server.domain.errors import AgentAlreadyExistsError, DomainError, InvalidFieldError
from server.domain.ids import uuid_field
from server.domain.timeouts import PartialTimeoutConfig
from server.store.contract import Store
from server.store.values import Position

_PAGE: Final = 1000

log = structlog.get_logger()


class AgentsFileError(Exception):
    """The file of agents cannot be used; the text says where and why."""


class _Timeout(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timeout_minutes: Annotated[float, Field(strict=True)] | None = None
    auto_renew: StrictBool | None = None
    max_duration_minutes: Annotated[float, Field(strict=True)] | None = None
    warning_threshold_minutes: Annotated[float, Field(strict=True)] | None = None


def _table(settings_class: type) -> type[BaseModel]:
    """The TOML table of a kind's settings: the fields of their class, and no others."""
    columns: dict[str, Any] = {
        field.name: (field.type, ... if field.default is MISSING else field.default)
        for field in fields(settings_class)
    }
    return create_model(
        settings_class.__name__, __config__=ConfigDict(extra="forbid", strict=True), **columns
    )


class _Agent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str
    name: str
    kind: AgentKind
    tenant: str = ""
    retention_minutes: Annotated[float, Field(strict=True)] | None = None
    timeout: _Timeout = _Timeout()
    webhook: _table(WebhookSettings) | None = None  # type: ignore[valid-type]
    openai: _table(OpenAiSettings) | None = None  # type: ignore[valid-type]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    agents: list[_Agent] = []


async def read_agents_file(path: Path, now_ms: int, connectors: Connectors) -> list[Agent]:
    """Reads the agents of a TOML file. Raises AgentsFileError.

    Tables `[[agents]]` have `id`, `name`, `kind`, the table of the kind, and optionally `tenant`,
    `retention_minutes` and `[agents.timeout]`.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
        agents = [_agent(entry, now_ms) for entry in _File.model_validate(content).agents]
        for agent in agents:
            connectors.check(agent)
            await connectors.check_secret(agent)
        if twice := [
            agent_id for agent_id, count in Counter(agent.id for agent in agents).items() if count > 1
        ]:
            raise AgentsFileError(f"{path}: the id {twice[0]} stands there more than once")
    except OSError as error:
        raise AgentsFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise AgentsFileError(f"{path}: {'; '.join(problems)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, DomainError) as error:
        raise AgentsFileError(f"{path}: {error}") from error
    return agents


async def register_at_start(
    store: Store, clock: Clock, connectors: Connectors, agents_file: Path | None
) -> None:
    """Registers `echo` if this store never had it, then the agents of the file. Raises AgentsFileError.

    The file wins over a stored agent with the same id; only its time of registration stays.
    """
    now_ms = clock.now_ms()
    agents = await read_agents_file(agents_file, now_ms, connectors) if agents_file else []
    await store.seed_agent(Agent(ECHO_ID, "echo", AgentKind.ECHO, now_ms, now_ms))
    for agent in agents:
        try:
            await store.create_agent(agent)
        except AgentAlreadyExistsError:
            await store.update_agent(agent.id, partial(_overwrite, agent), scope=EVERYTHING)


def _overwrite(agent: Agent, stored: Agent, _now_ms: int) -> Agent:
    return replace(agent, created_at_ms=stored.created_at_ms)


async def warn_of_unusable(store: Store, connectors: Connectors) -> None:
    """Warns of each stored agent that cannot be asked under these settings: a missing secret, a host not
    allowed.
    """
    after = None
    while agents := await store.list_agents(scope=EVERYTHING, limit=_PAGE, after=after):
        for agent in agents:
            try:
                connectors.by_kind[agent.kind].check(agent)
                await connectors.check_secret(agent)
            except InvalidFieldError as error:
                # Its text has no address, which may have a token in it.
                log.warning("agent cannot be asked", agent_id=agent.id, name=agent.name, cause=str(error))
        after = Position(agents[-1].created_at_ms, agents[-1].id)


def _agent(entry: _Agent, now_ms: int) -> Agent:
    if entry.webhook and entry.openai:
        raise InvalidFieldError(
            "openai", entry.id, "stands beside webhook: an agent has the settings of one kind"
        )
    timeout: dict[str, Any] = entry.timeout.model_dump()
    settings: AgentSettings = None
    if entry.webhook:
        settings = WebhookSettings(**entry.webhook.model_dump())
    elif entry.openai:
        settings = OpenAiSettings(**entry.openai.model_dump())
    return Agent(
        uuid_field("id", entry.id),
        entry.name,
        entry.kind,
        now_ms,
        now_ms,
        PartialTimeoutConfig(**timeout),
        settings,
        entry.tenant,
        entry.retention_minutes,
    )
