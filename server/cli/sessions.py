"""`eliza-sessions sessions …`: what happened to the sessions of a running server."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Final

import click
import grpc
import orjson
from google.protobuf.json_format import MessageToDict, ParseDict

from eliza.sessions.errors import error_info
from eliza.sessions.limits import MAX_SESSIONS
from eliza.sessions.v1 import (
    agent_pb2,
    log_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from server.cli.agent_calls import DEADLINE_SECONDS, call, get_agent
from server.cli.chat import Stubs, printable
from server.cli.server_commands import ServerGroup, explain_failure, server_options
from server.cli.session_display import (
    HEADING,
    describe,
    failure_of,
    find_deliveries,
    print_message,
    print_session,
    row,
)
from server.domain.errors import InvalidUuidError
from server.domain.ids import uuid_field

STREAM_SECONDS: Final = 24 * 3600
"""How long a transcript may take."""

RETRY_SECONDS: Final = 0.5
"""How long `tail` waits before it asks again where the server went away."""

ENTRIES_PER_MESSAGE: Final = 4
"""How many entries of a log `show` reads for each message, at first."""

BEHIND_ALL: Final = 2**63 - 1
"""A sequence that no log reaches."""

_AGAIN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)


@click.group(cls=ServerGroup)
@server_options("The gRPC server.")
def sessions() -> None:
    """List, show, follow and end the sessions of a running server.

    A protected server wants a key: that of a backend or an administrator sees all that is asked for here.
    """


def _read_id(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    try:
        return text and uuid_field("id", text)
    except InvalidUuidError as error:
        raise click.BadParameter(f"{text!r} is no UUID", context, option) from error


_session_argument = click.argument("session_id", metavar="ID", callback=_read_id)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON Lines, for programs.")


@sessions.command("list")
@click.option("--user", metavar="ID", callback=_read_id, help="Only sessions of this user.")
@click.option("--agent", metavar="ID", callback=_read_id, help="Only sessions with this agent.")
@click.option(
    "--status",
    type=click.Choice(["live", "expired"]),
    default="live",
    show_default=True,
    help="Which ones. Expired ones are those of a user: they need --user.",
)
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
    stubs: Stubs, user: str | None, agent: str | None, status: str, limit: int, as_json: bool
) -> None:
    """Show sessions: live ones, the oldest first, or expired ones, the newest first."""
    if status == "expired" and not user:
        raise click.UsageError("--status expired needs --user: the server lists expired sessions by user")
    found = (
        _iterate_expired(stubs, user or "", agent)
        if status == "expired"
        else _iterate_live(stubs, user, agent)
    )
    if not as_json:
        click.echo(HEADING)
    for session in islice(found, limit or None):
        click.echo(orjson.dumps(MessageToDict(session)) if as_json else row(session))
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
    """Show the session ID, live or expired: its timeouts, and its last messages with what became of each."""
    record, *_ = _iterate_transcript(stubs, session_id, BEHIND_ALL)
    session = ParseDict(record["session"], session_pb2.Session(), ignore_unknown_fields=True)
    agent = _find_agent(stubs, session.agent_id)
    if as_json:
        click.echo(orjson.dumps(record))
    else:
        print_session(session, agent)
        click.echo()
    if whole_log:
        for entry in _iterate_entries(stubs, session_id, 0):
            click.echo(orjson.dumps(_entry_record(entry)) if as_json else describe(entry))
        return
    entries = _read_last(stubs, session, most)
    deliveries = find_deliveries(entries)
    messages = deque((entry for entry in entries if entry.HasField("message")), most)
    for entry in messages:
        delivery = None if entry.message.is_agent else deliveries.get(entry.sequence)
        if as_json:
            added = {"delivery": delivery.to_json()} if delivery else {}
            click.echo(orjson.dumps({**_entry_record(entry), **added}))
        else:
            is_waiting = delivery is not None and delivery.state == "waiting"
            failure = failure_of(agent, entry.message.message_id) if is_waiting else ""
            print_message(entry, delivery, failure)


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
    after = max(0, _last_sequence(stubs, session_id) - most)
    try:
        for event in _follow(stubs, session_id, after):
            kind = event.WhichOneof("event")
            if kind == "heartbeat" or (kind in ("chunk", "aborted") and not chunks):
                continue
            click.echo(orjson.dumps(MessageToDict(event)) if as_json else _line(event))
    except KeyboardInterrupt:
        click.echo()


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


def _iterate_live(stubs: Stubs, user: str | None, agent: str | None) -> Iterator[session_pb2.Session]:
    """The live sessions, page by page."""
    request = session_service_pb2.ListSessionsRequest(user_id=user or "", agent_id=agent or "")
    request.page_size = MAX_SESSIONS
    while True:
        page = call(stubs.sessions.ListSessions, request)
        yield from page.sessions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _iterate_expired(stubs: Stubs, user: str, agent: str | None) -> Iterator[session_pb2.Session]:
    """The expired sessions of a user, page by page."""
    request = user_data_service_pb2.ListUserSessionsRequest(user_id=user, page_size=MAX_SESSIONS)
    while True:
        page = call(stubs.user_data.ListUserSessions, request)
        for session in page.sessions:
            if session.time_remaining_ms == 0 and agent in (None, session.agent_id):
                yield session
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _iterate_transcript(stubs: Stubs, session_id: str, after: int) -> Iterator[dict[str, Any]]:
    """The records of a transcript."""
    request = message_service_pb2.ExportTranscriptRequest(session_id=session_id, after_sequence=after)
    with explain_failure():
        for part in stubs.messages.ExportTranscript(request, timeout=STREAM_SECONDS):
            for line in part.lines.splitlines():
                yield orjson.loads(line)


def _iterate_entries(stubs: Stubs, session_id: str, after: int) -> Iterator[log_pb2.LogEntry]:
    """The entries of a log behind a sequence."""
    for record in _iterate_transcript(stubs, session_id, after):
        if record["record"] == "entry":
            yield ParseDict(record["entry"], log_pb2.LogEntry(), ignore_unknown_fields=True)


def _read_last(stubs: Stubs, session: session_pb2.Session, most: int) -> list[log_pb2.LogEntry]:
    """The end of a log, with as many messages at least, where it has them."""
    count = ENTRIES_PER_MESSAGE * most
    while True:
        after = max(0, session.last_sequence - count)
        entries = list(_iterate_entries(stubs, session.session_id, after)) if most else []
        if not after or sum(entry.HasField("message") for entry in entries) >= most:
            return entries
        count *= ENTRIES_PER_MESSAGE


def _entry_record(entry: log_pb2.LogEntry) -> dict[str, Any]:
    return {"record": "entry", "entry": MessageToDict(entry)}


def _find_agent(stubs: Stubs, agent_id: str) -> agent_pb2.Agent | None:
    """What the server tells of an agent; None where it is gone, or the caller may not know."""
    try:
        return get_agent(stubs, agent_id)
    except click.ClickException:
        return None


def _last_sequence(stubs: Stubs, session_id: str) -> int:
    """The sequence of a session's last entry; 0 where it has expired: then all of its log is shown."""
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    try:
        return int(stubs.sessions.GetSession(request, timeout=DEADLINE_SECONDS).session.last_sequence)
    except grpc.RpcError as error:
        if _reason(error) == "SESSION_EXPIRED":
            return 0
        raise click.ClickException(f"{error.code().name}: {error.details()}") from error


def _follow(stubs: Stubs, session_id: str, after: int) -> Iterator[session_service_pb2.WatchSessionResponse]:
    """The events of a session behind a sequence until it ends, over restarts of the server."""
    is_away = False
    while True:
        request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
        stream = stubs.sessions.WatchSession(request, wait_for_ready=is_away)
        try:
            with closing(_Cancelled(stream)):
                for event in stream:
                    is_away = False
                    after = event.entry.sequence or after
                    yield event
            return
        except grpc.RpcError as error:
            if _reason(error) in ("SESSION_NOT_FOUND", "SESSION_EXPIRED"):
                return
            if error.code() not in _AGAIN:
                raise click.ClickException(f"{error.code().name}: {error.details()}") from error
            if not is_away:
                click.echo(f"[the server is away: {error.details()}; waiting for it]", err=True)
            is_away = True
        time.sleep(RETRY_SECONDS)


class _Cancelled:
    """Cancels a call when it is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        self._stream.cancel()


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


def _reason(error: grpc.RpcError) -> str:
    info = error_info(error)
    return info.reason if info else ""
