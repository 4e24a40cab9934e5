"""The command `eliza-sessions`: one module for each of its commands."""

import errno
import gc
import os
import sys
from importlib import import_module
from typing import Any, Final

# Imports make many objects and hardly any garbage: looking for it takes a twelfth of a start.
gc.set_threshold(100_000)
# Nothing here forks and goes on: gRPC's fork handlers have nothing to save, and only complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Our own messages and statuses say what gRPC's core would print.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

_MODULES: Final = {
    **{
        name: name
        for name in (
            "agents",
            "backup",
            "check",
            "compact",
            "keys",
            "migrate",
            "probe",
            "rest",
            "serve",
            "sessions",
            "status",
            "users",
        )
    },
    "copy-store": "copy_store",
    "restore": "backup",
}
"""The module of each command."""


_SERVICES: Final = ("rest", "serve")
"""The commands that write a log to standard error."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Commands(click.Group):
    """Loads only the command that runs: a probe should not wait for the imports of the servers."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"server.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            if ctx.invoked_subcommand in _SERVICES and os.environ.get("LOG_FORMAT", "").lower() == "json":
                # Programs that collect the lines of a service read JSON, also of a failed start.
                from server import logs

                logs.configure("info", "json")
                logs.log_failed_start(error.format_message())
                ctx.exit(error.exit_code)
            raise
        except OSError as error:
            # A file has a name; the standard output, on a disk that is full, has none.
            if error.errno not in _NO_ROOM or error.filename or ctx.invoked_subcommand in _SERVICES:
                raise
            # What is left of it is tried once more at the exit, whose status would be 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.ClickException(f"the output cannot be written: {error.strerror}") from error


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(package_name="eliza-sessions", prog_name="eliza-sessions")
def main() -> None:
    """Conversation sessions between users and AI agents.

    `eliza-sessions serve` runs everything: the gRPC server and the REST facade. Settings are environment
    variables; docs/settings.md has their table.
    """
