"""The calls of `eliza-sessions sessions`."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import click
import grpc
import orjson
from google.protobuf.json_format import ParseDict

from eliza.sessions.errors import RETRY_AFTER, error_info
from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_pb2,
    log_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
)
from server.cli.agent_calls import call, get_agent
from server.cli.chat import DEADLINE_SECONDS, Stubs
from server.cli.interrupts import Reading
from server.cli.server_commands import explain_failure

STREAM_SECONDS: Final = 24 * 3600
"""How long a transcript may take."""

RETRY_SECONDS: Final = 0.5
"""How long `tail` waits before it asks again where the server went away."""

MAX_WAIT_SECONDS: Final = 60
"""The longest wait that a refusal may ask of `tail`; beyond it the refusal is an error."""

ENTRIES_PER_MESSAGE: Final = 4
"""How many entries of a log `show` reads for each message, at first."""

PAGE: Final = 100

_AGAIN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
)
_NOT_TOLD: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
"""The server is older, or tells others."""


def search(
    stubs: Stubs, wanted: admin_service_pb2.SearchSessionsRequest
) -> Iterator[admin_service_pb2.FoundSession]:
    """The sessions that fit, page by page."""
    request = admin_service_pb2.SearchSessionsRequest()
    request.CopyFrom(wanted)
    request.page_size = PAGE
    while True:
        page = call(stubs.admin.SearchSessions, request)
        yield from page.sessions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def find_deliveries(
    stubs: Stubs, session_id: str, first_sequence: int
) -> dict[int, admin_service_pb2.MessageDelivery]:
    """The deliveries of a session's messages from this sequence on, by sequence; none where the caller may
    not know, or the server is older.
    """
    request = admin_service_pb2.ListDeliveriesRequest(session_id=session_id, page_size=PAGE)
    found: dict[int, admin_service_pb2.MessageDelivery] = {}
    while True:
        try:
            page = stubs.admin.ListDeliveries(request, timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            if error.code() in _NOT_TOLD:
                return {}
            raise click.ClickException(f"{error.code().name}: {error.details()}") from error
        for delivery in page.deliveries:
            if delivery.message_sequence < first_sequence:
                return found
            found[delivery.message_sequence] = delivery
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def iterate_transcript(stubs: Stubs, session_id: str, after: int) -> Iterator[dict[str, Any]]:
    """The records of a transcript."""
    request = message_service_pb2.ExportTranscriptRequest(session_id=session_id, after_sequence=after)
    with explain_failure():
        for part in stubs.messages.ExportTranscript(request, timeout=STREAM_SECONDS):
            for line in part.lines.splitlines():
                yield orjson.loads(line)


def iterate_entries(stubs: Stubs, session_id: str, after: int) -> Iterator[log_pb2.LogEntry]:
    """The entries of a log behind a sequence."""
    for record in iterate_transcript(stubs, session_id, after):
        if record["record"] == "entry":
            yield ParseDict(record["entry"], log_pb2.LogEntry(), ignore_unknown_fields=True)


def read_last(stubs: Stubs, session: session_pb2.Session, most: int) -> list[log_pb2.LogEntry]:
    """The end of a log, with as many messages at least, where it has them."""
    count = ENTRIES_PER_MESSAGE * most
    while True:
        after = max(0, session.last_sequence - count)
        entries = list(iterate_entries(stubs, session.session_id, after)) if most else []
        if not after or sum(entry.HasField("message") for entry in entries) >= most:
            return entries
        count *= ENTRIES_PER_MESSAGE


def find_agent(stubs: Stubs, agent_id: str) -> agent_pb2.Agent | None:
    """What the server tells of an agent; None where it is gone, or the caller may not know."""
    try:
        return get_agent(stubs, agent_id)
    except click.ClickException:
        return None


def last_sequence(stubs: Stubs, session_id: str) -> int:
    """The sequence of a session's last entry; 0 where it has expired: then all of its log is shown."""
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    try:
        return int(stubs.sessions.GetSession(request, timeout=DEADLINE_SECONDS).session.last_sequence)
    except grpc.RpcError as error:
        if _reason(error) == "SESSION_EXPIRED":
            return 0
        raise click.ClickException(f"{error.code().name}: {error.details()}") from error


def _asked_wait(error: grpc.RpcError) -> float:
    """How many seconds the server asks to wait; 0 where it does not."""
    info = error_info(error)
    return float(info.metadata.get(RETRY_AFTER) or 0) if info else 0.0


def follow(stubs: Stubs, session_id: str, after: int) -> Iterator[session_service_pb2.WatchSessionResponse]:
    """The events of a session behind a sequence until it ends, over restarts of the server.

    Raises KeyboardInterrupt after Ctrl-C.
    """
    is_away = False
    while True:
        request = session_service_pb2.WatchSessionRequest(session_id=session_id, after_sequence=after)
        watch = partial(stubs.sessions.WatchSession, request, wait_for_ready=is_away)
        try:
            with Reading() as reading:
                for event in reading.begin(watch):
                    is_away = False
                    after = event.entry.sequence or after
                    yield event
            return
        except grpc.RpcError as error:
            if _reason(error) in ("SESSION_NOT_FOUND", "SESSION_EXPIRED"):
                return
            wait_s = _asked_wait(error)
            if error.code() not in _AGAIN or wait_s > MAX_WAIT_SECONDS:
                raise click.ClickException(f"{error.code().name}: {error.details()}") from error
            if not is_away:
                how = "has no room" if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else "is away"
                click.echo(f"[the server {how}: {error.details()}; waiting for it]", err=True)
            is_away = True
        time.sleep(max(RETRY_SECONDS, wait_s))


def _reason(error: grpc.RpcError) -> str:
    info = error_info(error)
    return info.reason if info else ""
