"""The option --server of the commands that call a gRPC server."""

from collections.abc import Callable
from typing import Any, Final

import click

from server.addresses import join_address, split_address

DEFAULT_SERVER: Final = "127.0.0.1:50051"
SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")
"""The schemes of the names that gRPC resolves itself."""
DIRECT: Final = [("grpc.enable_http_proxy", 0)]
"""Options of a channel that ignores the web proxy of the environment."""


def server_option(
    meaning: str, *more_names: str, **changes: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --server, the same in every command that calls a gRPC server."""
    attributes: dict[str, Any] = {
        "default": DEFAULT_SERVER,
        "envvar": "GRPC_ADDRESS",
        "show_default": True,
        "show_envvar": True,
        "callback": read_server,
        "metavar": "HOST:PORT",
        "help": meaning,
    }
    return click.option("--server", *more_names, "server", **(attributes | changes))


def read_server(context: click.Context, option: click.Parameter, text: str) -> str:
    """A server's address for gRPC to dial.

    Takes HOST:PORT, :PORT (localhost), and gRPC's names with a scheme.
    """
    try:
        return reachable(f"localhost{text}" if text.startswith(":") else text)
    except ValueError as error:
        if text.startswith(SCHEMES):
            return text
        raise click.BadParameter(f"{text!r}: it must be {error}", context, option) from error


def reachable(address: str) -> str:
    """The address for clients on this machine: loopback where the server listens on all addresses."""
    host, port = split_address(address)
    return join_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
