"""`eliza-sessions sessions …`: what happened to the sessions of a running server."""

import sys
from collections import deque
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final

import click
import orjson
from google.protobuf.json_format import MessageToDict, ParseDict

from eliza.sessions.v1 import admin_service_pb2 as admin_pb
from eliza.sessions.v1 import log_pb2, session_pb2, session_service_pb2
from server.cli.agent_calls import call
from server.cli.chat import Stubs, printable
from server.cli.parameters import read_id, read_instant
from server.cli.server_commands import ServerGroup, server_options
from server.cli.session_calls import (
    find_agent,
    find_deliveries,
    follow,
    iterate_entries,
    iterate_transcript,
    last_sequence,
    read_last,
    search,
)
from server.cli.session_display import (
    HEADING,
    describe,
    found_json,
    outcomes,
    print_message,
    print_session,
    row,
)

BEHIND_ALL: Final = 2**63 - 1
"""A sequence that no log reaches."""

_STATES: Final = {
    "live": admin_pb.SESSION_STATE_LIVE,
    "expired": admin_pb.SESSION_STATE_EXPIRED,
    "any": admin_pb.SESSION_STATE_UNSPECIFIED,
}


@click.group(cls=ServerGroup)
@server_options("The gRPC server.")
def sessions() -> None:
    """List, show, follow, mend and end the sessions of a running server.

    A protected server wants a key: that of a backend or an administrator sees all that is asked for here,
    `redeliver` wants an administrator's.
    """


_session_argument = click.argument("session_id", metavar="ID", callback=read_id)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON Lines, for programs.")


@sessions.command("list")
@click.option("--user", metavar="ID", callback=read_id, help="Only sessions of this user.")
@click.option("--agent", metavar="ID", callback=read_id, help="Only sessions with this agent.")
@click.option(
    "--status",
    type=click.Choice(list(_STATES)),
    default="live",
    show_default=True,
    help="Which ones. Expired ones are there until their purge.",
)
@click.option("--created-after", metavar="TIME", callback=read_instant, help="Created at this time or later.")
@click.option("--created-before", metavar="TIME", callback=read_instant, help="Created before this time.")
@click.option("--id-prefix", default="", metavar="TEXT", help="Only sessions whose id begins so.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Show at most so many. 0: all.",
)
@_json_option
@click.pass_obj
def list_sessions(
    stubs: Stubs,
    user: str | None,
    agent: str | None,
    status: str,
    created_after: datetime | None,
    created_before: datetime | None,
    id_prefix: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show sessions, the newest first, with their messages that wait for a reply or got none.

    TIME has an offset: 2027-01-31T12:00:00Z.
    """
    request = admin_pb.SearchSessionsRequest(
        user_id=user or "", agent_id=agent or "", state=_STATES[status], session_id_prefix=id_prefix
    )
    if created_after:
        request.created_after.FromDatetime(created_after)
    if created_before:
        request.created_before.FromDatetime(created_before)
    found = search(stubs, request)
    # The first page is read before anything is printed: it may be refused.
    first = list(islice(found, 1))
    if not as_json:
        click.echo(HEADING)
    for one in chain(first, islice(found, limit - 1 if limit else None)):
        click.echo(orjson.dumps(found_json(one)) if as_json else row(one))
    if limit and next(found, None) is not None:
        click.echo(f"[there are more than {limit}: --limit 0 shows all]", err=True)


@sessions.command()
@_session_argument
@click.option("--log", "whole_log", is_flag=True, help="Show its whole log instead of its last messages.")
@click.option(
    "--messages",
    "most",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="How many of its last messages to show.",
)
@_json_option
@click.pass_obj
def show(stubs: Stubs, session_id: str, whole_log: bool, most: int, as_json: bool) -> None:
    """Show the session ID, live or expired: its timeouts, and its last messages with what became of each.

    Of a message without a reply it tells the attempts, the last error, and when the next attempt is.
    """
    record, *_ = iterate_transcript(stubs, session_id, BEHIND_ALL)
    session = ParseDict(record["session"], session_pb2.Session(), ignore_unknown_fields=True)
    agent = find_agent(stubs, session.agent_id)
    if as_json:
        click.echo(orjson.dumps(record))
    else:
        print_session(session, agent)
        click.echo()
    if whole_log:
        for entry in iterate_entries(stubs, session_id, 0):
            click.echo(orjson.dumps(_entry_record(entry)) if as_json else describe(entry))
        return
    entries = read_last(stubs, session, most)
    messages = deque((entry for entry in entries if entry.HasField("message")), most)
    deliveries = find_deliveries(stubs, session_id, messages[0].sequence) if messages else {}
    told = outcomes(entries, deliveries)
    for entry in messages:
        outcome = None if entry.message.is_agent else told.get(entry.sequence)
        if as_json:
            added = {"delivery": outcome.to_json()} if outcome else {}
            click.echo(orjson.dumps({**_entry_record(entry), **added}))
        else:
            print_message(entry, outcome)


@sessions.command()
@_session_argument
@click.option(
    "--entries",
    "most",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many of the last entries to begin with.",
)
@click.option("--chunks", is_flag=True, help="Show the pieces of replies under way, too.")
@_json_option
@click.pass_obj
def tail(stubs: Stubs, session_id: str, most: int, chunks: bool, as_json: bool) -> None:
    """Follow what happens in the session ID until it ends. Goes on over restarts of the server."""
    after = max(0, last_sequence(stubs, session_id) - most)
    try:
        for event in follow(stubs, session_id, after):
            kind = event.WhichOneof("event")
            if kind == "heartbeat" or (kind in ("chunk", "aborted") and not chunks):
                continue
            click.echo(orjson.dumps(MessageToDict(event)) if as_json else _line(event))
    except KeyboardInterrupt:
        click.echo()


@sessions.command()
@_session_argument
@click.argument("message_id", metavar="MESSAGE", callback=read_id)
@click.option(
    "--sequence",
    type=click.IntRange(min=1),
    help="Its place in the log; needed where 1000 entries or more came behind it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the delivery as JSON, for programs.")
@click.pass_obj
def redeliver(stubs: Stubs, session_id: str, message_id: str, sequence: int | None, as_json: bool) -> None:
    """Deliver the message MESSAGE of the session ID anew, for which there was no reply. `show` has its id.

    The session must be live. The attempts begin anew.
    """
    request = admin_pb.RedeliverMessageRequest(
        session_id=session_id, message_id=message_id, message_sequence=sequence or 0
    )
    delivery = call(stubs.admin.RedeliverMessage, request).delivery
    if as_json:
        click.echo(orjson.dumps(MessageToDict(delivery)))
    else:
        click.echo(f"delivers #{delivery.message_sequence} anew: up to {delivery.max_attempts} attempts")


@sessions.command()
@_session_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def end(stubs: Stubs, session_id: str, yes: bool) -> None:
    """End the session ID, live or expired: it is removed with its messages and its log. Asks before."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is nobody to ask whether to end the session: say --yes")
        click.confirm(f"End {session_id}? It is removed with its messages and its log.", abort=True)
    call(stubs.sessions.DeleteSession, session_service_pb2.DeleteSessionRequest(session_id=session_id))
    click.echo(f"ended {session_id}")


def _entry_record(entry: log_pb2.LogEntry) -> dict[str, Any]:
    return {"record": "entry", "entry": MessageToDict(entry)}


def _line(event: session_service_pb2.WatchSessionResponse) -> str:
    match event.WhichOneof("event"):
        case "entry":
            return describe(event.entry)
        case "chunk":
            return f"{' ' * 24}  ...    {printable(event.chunk.chunk)}"
        case "aborted":
            return f"{' ' * 24}  ...    that is taken back"
        case "deleted":
            return "deleted"
        case other:
            return f"{other}: this version does not know it"
