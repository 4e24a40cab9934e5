"""The types of settings, each with its check, which raises ValueError with the form that is expected."""

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, Field

from server.access.limits import read_rate
from server.access.static_token import check_token
from server.addresses import check_grpc_address, split_address
from server.agents.allowed import read_host_rules, read_secret_rules

_DOMAIN: Final = r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"
_HOST: Final = re.compile(rf"\*|{_DOMAIN}", re.IGNORECASE)
_ORIGIN: Final = re.compile(rf"\*|[a-z][a-z0-9+.-]*://({_DOMAIN})(:[0-9]+)?", re.IGNORECASE)


def split_list(text: str) -> list[str]:
    """Splits a setting that is a list, at its commas."""
    return [part for part in map(str.strip, text.split(",")) if part]


def read_networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Reads addresses and networks separated by commas. Raises ValueError."""
    networks = []
    for part in split_list(text):
        try:
            networks.append(ip_network(part))
        except ValueError as error:
            raise ValueError(f"addresses or networks, separated by commas; {error}") from None
    return tuple(networks)


def _check_by(read: Callable[[str], object]) -> AfterValidator:
    """Checks a text by a function that raises ValueError, and keeps the text."""

    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)


def _check_origins(text: str) -> None:
    if not all(map(_ORIGIN.fullmatch, split_list(text))):
        raise ValueError(
            "a list of origins such as https://app.example.com, https://*.example.com or *, separated by "
            "commas, without a path"
        )


def _check_hosts(text: str) -> None:
    if not all(map(_HOST.fullmatch, split_list(text))):
        raise ValueError(
            "a list of hosts such as api.example.com, *.example.com or *, separated by commas, without a port"
        )


def _check_jwt_keys(text: str) -> None:
    if "://" in text and not text.lower().startswith("https://"):
        raise ValueError("a file or an https URL")


def _read_word(value: Any) -> Any:
    """Takes a word in any case; `warn` means `warning`."""
    word = str(value).lower()
    if word == "warn":
        return "warning"
    return word if word in _WORDS else value


def _require_one(value: object) -> int:
    """Refuses several processes on one address: a Socket.IO client's requests would reach different ones."""
    if str(value).strip() != "1":
        raise ValueError(
            "1; for more, run several `eliza-sessions rest`, each with a REST_ADDRESS of its own, behind a "
            "balancer with sticky routing"
        )
    return 1


_Levels = Literal["debug", "info", "warning", "error"]
_Formats = Literal["console", "json"]
_WORDS: Final = {*get_args(_Levels), *get_args(_Formats)}

Minutes: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Seconds: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Address: TypeAlias = Annotated[str, _check_by(split_address)]
GrpcAddress: TypeAlias = Annotated[str, _check_by(check_grpc_address)]
Origins: TypeAlias = Annotated[str, _check_by(_check_origins)]
Hosts: TypeAlias = Annotated[str, _check_by(_check_hosts)]
Networks: TypeAlias = Annotated[str, _check_by(read_networks)]
AgentHosts: TypeAlias = Annotated[str, _check_by(lambda text: read_host_rules(split_list(text)))]
AgentSecrets: TypeAlias = Annotated[str, _check_by(lambda text: read_secret_rules(split_list(text)))]
AuthToken: TypeAlias = Annotated[str, _check_by(check_token)]
JwtKeys: TypeAlias = Annotated[str, _check_by(_check_jwt_keys)]
RateText: TypeAlias = Annotated[str, _check_by(read_rate)]
OneProcess: TypeAlias = Annotated[int, BeforeValidator(_require_one)]
LogLevel: TypeAlias = Annotated[_Levels, BeforeValidator(_read_word)]
LogFormat: TypeAlias = Annotated[_Formats, BeforeValidator(_read_word)]
