"""The command `eliza-sessions`: one module for each of its commands."""

import os

# The workers are started by fork and exec: gRPC's fork handlers have nothing to save there, and only complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# What gRPC's core would print is told by our own messages and statuses.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from server.cli.agents import agents
from server.cli.backup import backup, restore
from server.cli.check import check
from server.cli.migrate import migrate
from server.cli.probe import probe
from server.cli.rest import rest
from server.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="eliza-sessions", prog_name="eliza-sessions")
def main() -> None:
    """Conversation sessions between users and AI agents.

    `eliza-sessions serve` runs everything: the gRPC server and the REST facade. Settings are environment variables; the README has their
    table.
    """


for command in (serve, rest, probe, agents, migrate, check, backup, restore):
    main.add_command(command)
