"""Reads the settings from the environment, and tells what is wrong with them."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from server.access.static_token import FORM
from server.addresses import unix_path
from server.domain.timeouts import NOTHING_NAMED, resolve
from server.settings import Settings

_AUTH_TOKEN: Final = "eliza_server_auth_token"
_PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*:)[^/@]*(?=@)|([?&](?:ssl)?password=)[^&]*")
"""A password in an address; PostgreSQL's may also have one behind the question mark."""


MASK: Final = "***"
"""What stands for a secret."""


class SettingsError(Exception):
    """Some variables are wrong. The text has a line for each."""


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The variables that are not at their defaults, for the log. Masks passwords in addresses."""
    changed = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value != field.default:
            changed[name.upper()] = MASK if name == _AUTH_TOKEN else _mask_password(value)
    return changed


GONE: Final = {"MAX_WRITES": "MAX_CALLS"}
"""Settings of earlier versions, each with the one that it is derived from now."""


def unknown_variables(environment: Iterable[str]) -> dict[str, str]:
    """Returns variables that look like settings and are none, each with the setting it may mean, or ''."""
    known = [name.upper() for name in Settings.model_fields]
    similar = (name for name in sorted(environment) if name.upper().startswith("SESSION_"))
    unknown = [name for name in similar if name.upper() not in known]
    meant = {name: next(iter(get_close_matches(name.upper(), known, 1)), "") for name in unknown}
    return meant | {name: GONE[name.upper()] for name in sorted(environment) if name.upper() in GONE}


def overruled_settings(settings: Settings) -> dict[str, float]:
    """The settings that others overrule, each with the value that holds instead."""
    made = resolve(settings.timeout_policy, NOTHING_NAMED, NOTHING_NAMED)
    holding = {
        "session_default_timeout_minutes": made.timeout_minutes,
        "delivery_backoff_seconds": min(
            settings.delivery_backoff_seconds, settings.delivery_max_backoff_seconds
        ),
    }
    return {name.upper(): value for name, value in holding.items() if value != getattr(settings, name)}


def load_settings(**overrides: Any) -> Settings:
    """Reads the environment. `overrides`, of the command line, win where they are not None.

    Raises SettingsError, with a line for each wrong variable: its name, its value and its bounds.
    """
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_describe(problem) for problem in error.errors())) from None
    if problems := [*_find_access_problems(settings), *_find_tls_problems(settings)]:
        raise SettingsError("\n".join(problems))
    return settings


def bounds(name: str) -> str:
    """The bounds of a setting, for people; empty where there are none."""
    field = Settings.model_fields[name]
    limits = {type(limit).__name__: limit for limit in field.metadata}
    if "Ge" in limits:
        return f"{limits['Ge'].ge:g} to {limits['Le'].le:g}"
    if field.annotation is bool:
        return "true or false"
    choices = getattr(field.annotation, "__args__", ())
    return " or ".join(choice for choice in choices if isinstance(choice, str))


def _find_access_problems(settings: Settings) -> list[str]:
    """What each setting of authentication alone does not show: a service must not be open by an oversight."""
    problems = []
    if any(name.lower() == _AUTH_TOKEN and not value for name, value in os.environ.items()):
        problems.append(f"{_AUTH_TOKEN.upper()} is empty: it must be {FORM}")
    rules = {"JWT_ISSUER": settings.jwt_issuer, "JWT_AUDIENCE": settings.jwt_audience}
    if settings.jwt_keys:
        problems += [f"{name} is not set: JWT_KEYS needs it" for name, value in rules.items() if not value]
    elif given := [name for name, value in rules.items() if value]:
        problems.append(f"JWT_KEYS is not set: {' and '.join(given)} alone check nothing")
    return problems


def _mask_password(value: Any) -> Any:
    return _PASSWORD.sub(rf"\1\2{MASK}", value) if isinstance(value, str) else value


def _find_tls_problems(settings: Settings) -> list[str]:
    """What is wrong with the settings of TLS together."""
    problems = []
    for side in ("GRPC", "REST"):
        certificate, key = f"{side}_TLS_CERTIFICATE", f"{side}_TLS_KEY"
        given = [name for name in (certificate, key) if getattr(settings, name.lower())]
        if len(given) == 1:
            problems.append(f"{given[0]} is set alone: {certificate} and {key} go together")
    if settings.grpc_tls_client_ca and not settings.grpc_tls_certificate:
        problems.append("GRPC_TLS_CLIENT_CA is set, but gRPC has no TLS: set GRPC_TLS_CERTIFICATE, too")
    if settings.grpc_tls_certificate and unix_path(settings.grpc_address):
        problems.append("GRPC_TLS_CERTIFICATE is set, but GRPC_ADDRESS is a Unix socket, which has no TLS")
    return problems


def _describe(problem: Any) -> str:
    name = str(problem["loc"][0])
    if name == _AUTH_TOKEN:
        # Its value is a secret, though a short one.
        return f"{name.upper()} is wrong: it must be {FORM}"
    if problem["type"] == "value_error":
        return f"{name.upper()} is {problem['input']!r}: it must be {problem['ctx']['error']}"
    kinds: dict[Any, str] = {int: "a whole number from ", float: "a number from "}
    wanted = kinds.get(Settings.model_fields[name].annotation, "") + bounds(name)
    return f"{name.upper()} is {problem['input']!r}: it must be {wanted}"
