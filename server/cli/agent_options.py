"""The options that set the fields of an agent."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Final

import click

from eliza.sessions.v1 import agent_pb2, timeout_pb2
from server.domain.agents import SETTINGS, AgentKind

KIND = click.Choice([str(kind) for kind in AgentKind])
_RETENTION: Final = "retention_minutes"
_NAMED_OTHERWISE: Final = {"agent_id": "--id", "user_id": "--user", "session_id_prefix": "--id-prefix"}
"""Options that are not named as their fields are."""
_TIMEOUT: Final = tuple(timeout_pb2.TimeoutConfig.DESCRIPTOR.fields_by_name)
_SETTINGS: Final[dict[str, tuple[type, str]]] = {
    "url": (str, "Where each message is posted to."),
    "secret": (
        str,
        "Where its signing secret is, not the secret itself: env:NAME or file:/PATH of the server. There, "
        "base64 of 16 bytes or more, "
        "with or without whsec_ before it, as `openssl rand -base64 32` makes it.",
    ),
    "base_url": (str, "The address before /chat/completions.  [https://api.openai.com/v1]"),
    "model": (str, "The model to ask."),
    "api_key": (str, "Where the API key is, not the key itself: env:NAME or file:/PATH of the server."),
    "system_prompt": (str, "What comes before the conversation."),
    "temperature": (float, "Sampling temperature, 0 to 2."),
    "top_p": (float, "Nucleus sampling, 0 to 1."),
    "max_tokens": (int, "The greatest number of tokens of a reply."),
    "history_messages": (int, "How many messages of the conversation it is shown."),
    "history_characters": (int, "How many characters of the conversation it is shown."),
    "timeout_seconds": (float, "How long the whole answer may take."),
}
"""The options for the settings of a kind: their types and meanings."""


def session_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of what holds for an agent's sessions, named as in the API."""
    for option in reversed(
        (
            click.option("--timeout-minutes", type=float, help="Inactivity timeout of the agent's sessions."),
            click.option("--auto-renew/--no-auto-renew", default=None, help="Whether activity renews them."),
            click.option("--max-duration-minutes", type=float, help="Their total life."),
            click.option("--warning-threshold-minutes", type=float, help="When to warn before they expire."),
            click.option(
                "--retention-minutes",
                type=float,
                help="How long they are kept once they have expired.  [SESSION_RETENTION_MINUTES]",
            ),
        )
    ):
        command = option(command)
    return command


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options for the settings of the kinds."""
    for name, (kind, meaning) in reversed(_SETTINGS.items()):
        owners = [
            str(owner)
            for owner, settings in SETTINGS.items()
            if name in (field.name for field in fields(settings))
        ]
        command = click.option(
            f"--{name.replace('_', '-')}", type=kind, help=f"({', '.join(owners)}) {meaning}"
        )(command)
    return command


def fill_in(agent: agent_pb2.Agent, kind: str, options: dict[str, Any]) -> list[str]:
    """Puts the given options into the agent; returns their paths."""
    settings = SETTINGS.get(AgentKind(kind))
    known = [field.name for field in fields(settings)] if settings else []
    paths = []
    for name, value in options.items():
        if value is None:
            continue
        if name == _RETENTION:
            agent.retention_minutes = value
            paths.append(name)
            continue
        if name not in (*_TIMEOUT, *known):
            raise click.UsageError(f"--{name.replace('_', '-')} does not belong to the kind {kind}")
        head = "timeout_config" if name in _TIMEOUT else kind
        try:
            setattr(getattr(agent, head), name, value)
        except ValueError as error:
            raise click.UsageError(f"--{name.replace('_', '-')}: {error}") from error
        paths.append(f"{head}.{name}")
    return paths


def option_name(field: str) -> str:
    """Returns the option that sets a field; for a kind's settings as a whole, those that it requires."""
    if field in tuple(SETTINGS):
        needed = [one.name for one in fields(SETTINGS[AgentKind(field)]) if one.default is MISSING]
        return ", ".join(map(option_name, needed))
    name = field.rpartition(".")[2]
    return _NAMED_OTHERWISE.get(name, f"--{name.replace('_', '-')}")
