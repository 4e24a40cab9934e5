"""Commands that call a gRPC server: `status`, and those of `agents`, `sessions` and `users`, where the
options of the server stand before or behind the name of a command.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import grpc

from server.cli.chat import Stubs
from server.cli.server_option import (
    KEY,
    KEY_FILE,
    Target,
    read_credentials,
    read_key,
    read_server,
    server_option,
    tls_options,
)

_OPTIONS: Final = f"{__name__}.options"
"""Where the values of the options of the server are kept."""


def server_options(meaning: str, **changes: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that say how the server is called."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        kept: dict[str, Any] = {"expose_value": False, "callback": _keep}
        command = click.option(
            "--key-file",
            envvar=KEY_FILE,
            show_envvar=True,
            type=click.Path(path_type=Path),
            help=f"File of the key to send.  [the key in {KEY}]",
            **kept,
        )(command)
        return server_option(meaning, **kept, **changes)(tls_options(**kept)(command))

    return add


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Keeps the value of an option of the server. The last one wins."""
    kept = context.meta.setdefault(_OPTIONS, {})
    if value or option.name not in kept:
        kept[option.name] = value


class ServerCommand(click.Command):
    """A command with the options of the server, which is given its `Stubs` as its object."""

    def invoke(self, ctx: click.Context) -> Any:
        given = ctx.meta[_OPTIONS]
        option = next(one for one in self.params if one.name == "server")
        credentials, options = read_credentials(given)
        target = Target(
            read_server(ctx, option, given["server"]), credentials, options, read_key(given, os.environ)
        )
        ctx.obj = Stubs(ctx.with_resource(target.open_channel()))
        return super().invoke(ctx)


class _CommandOfGroup(ServerCommand):
    """Takes the options of the server also behind the command's name."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        meaning = "The gRPC server.  [as before the command's name]"
        again = server_options(meaning, default=None, envvar=None)(lambda: None)
        self.params += reversed(again.__click_params__)  # type: ignore[attr-defined] # where click keeps them


@contextmanager
def explain_failure() -> Iterator[None]:
    """Ends the command with a line where a call fails."""
    try:
        yield
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {error.details()}") from error


class ServerGroup(click.Group):
    """A group of commands, each of which is given the `Stubs` of the server as its object."""

    command_class = _CommandOfGroup
