"""How `eliza-sessions sessions` shows sessions, their messages and their logs to people."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

import click
from google.protobuf.json_format import MessageToDict

from eliza.sessions import values
from eliza.sessions.v1 import agent_pb2, log_pb2, message_pb2, session_pb2, timeout_pb2
from server.cli.agent_display import iso, kind_name
from server.cli.chat import printable

ROW: Final = "{:36}  {:36}  {:36}  {:24}  {:24}  {}"
HEADING: Final = ROW.format("ID", "USER", "AGENT", "CREATED", "EXPIRES", "STATE")

_INDENT: Final = " " * 4


class Delivery(NamedTuple):
    """What became of a user's message, as far as the log tells.

    `state` is `answered`, `failed`, `waiting`, or `ended` where the session ended before an answer.
    """

    state: str
    sequence: int = 0
    """Of the entry that says so."""
    at_ms: int = 0
    reason: str = ""
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON. Programs rely on these names: add more, change none."""
        return {key: value for key, value in self._asdict().items() if value and key != "at_ms"}


def find_deliveries(entries: Iterable[log_pb2.LogEntry]) -> dict[int, Delivery]:
    """Finds what became of the users' messages in a part of a log that goes to its end, by sequence."""
    found: dict[int, Delivery] = {}
    for entry in entries:
        at_ms = values.ms_floor(entry.at)
        match entry.WhichOneof("event"):
            case "message" if not entry.message.is_agent:
                found[entry.sequence] = Delivery("waiting")
            case "message":
                found[entry.message.reply_to_sequence] = Delivery("answered", entry.sequence, at_ms)
            case "reply_failure":
                failure = entry.reply_failure
                found[failure.message_sequence] = Delivery(
                    "failed", entry.sequence, at_ms, failure.reason, failure.attempts
                )
            case "expiry":
                found.update(
                    (sequence, Delivery("ended", entry.sequence, at_ms))
                    for sequence, delivery in found.items()
                    if delivery.state == "waiting"
                )
    return found


def state_name(session: session_pb2.Session) -> str:
    """Returns how a session is, in a word or three."""
    if session.time_remaining_ms == 0:
        return "expired"
    return "near its end" if session.is_near_expiration else "live"


def row(session: session_pb2.Session) -> str:
    """A session as a line of a table."""
    return ROW.format(
        session.session_id,
        session.user_id,
        session.agent_id,
        iso(session.created_at),
        iso(session.expires_at),
        state_name(session),
    )


def print_session(session: session_pb2.Session, agent: agent_pb2.Agent | None) -> None:
    """Prints a session, a field a line. `agent`: None where nothing is known of it."""
    config = session.timeout_config
    click.echo(f"id:        {session.session_id}")
    click.echo(f"channel:   {session.channel_id}")
    click.echo(f"user:      {session.user_id}")
    click.echo(f"agent:     {session.agent_id}{_about_agent(agent)}")
    click.echo(f"state:     {state_name(session)}")
    click.echo(f"created:   {iso(session.created_at)}")
    click.echo(f"active:    {iso(session.last_activity)}, renewed {session.renewal_count} times")
    click.echo(f"expires:   {iso(session.expires_at)}{_time_left(session)}")
    click.echo(f"timeout:   {_timeout(config)}")
    click.echo(f"log:       {session.last_sequence} entries")
    if session.metadata_json not in ("", "{}"):
        click.echo(f"metadata:  {printable(session.metadata_json)}")


def print_message(entry: log_pb2.LogEntry, delivery: Delivery | None, failure: str) -> None:
    """Prints a message, and under it what became of it. `failure`: why the last attempt at it failed."""
    click.echo(describe(entry))
    if delivery:
        click.echo(f"{_INDENT}{_about_delivery(entry, delivery)}")
    if failure:
        click.echo(f"{_INDENT}{printable(failure)}")


def describe(entry: log_pb2.LogEntry) -> str:
    """An entry of a log as a line; the lines of a message follow each other."""
    return f"{iso(entry.at)}  #{entry.sequence:<5} {_what(entry)}"


def failure_of(agent: agent_pb2.Agent | None, message_id: str) -> str:
    """Why the last attempt at a message failed, where it is the agent's last failure; else empty."""
    failure = agent.status.last_failure if agent else None
    if failure is None or not message_id or failure.message_id != message_id:
        return ""
    said = "; ".join(filter(None, (failure.reason, failure.detail)))
    return f"attempt {failure.attempt} failed at {iso(failure.at)}: {said}"


def _what(entry: log_pb2.LogEntry) -> str:
    match entry.WhichOneof("event"):
        case "message":
            return _about_message(entry.message, was_renewed=entry.session_status.was_renewed)
        case "renewal":
            return f"renewed: expires at {iso(entry.session_status.expires_at)}"
        case "timeout_change":
            return f"timeout settings: {_timeout(entry.timeout_change.timeout_config)}"
        case "expiration_warning":
            return f"expires in {entry.expiration_warning.minutes_remaining:g} minutes"
        case "expiry":
            return "expired"
        case "reply_failure":
            failure = entry.reply_failure
            reason = printable(failure.reason)
            return f"no reply to #{failure.message_sequence} after {failure.attempts} attempts: {reason}"
        case other:
            return f"{other}: this version does not know it"


def _about_message(message: message_pb2.Message, *, was_renewed: bool) -> str:
    who = f"agent, to #{message.reply_to_sequence}" if message.is_agent else "user"
    renewed = " (renewed the session)" if was_renewed else ""
    return f"{who}: {printable(message.content, keep=chr(10) + chr(9))}{renewed}"


def _about_delivery(entry: log_pb2.LogEntry, delivery: Delivery) -> str:
    match delivery.state:
        case "answered":
            took = (delivery.at_ms - values.ms_floor(entry.at)) / 1000
            return f"answered by #{delivery.sequence} after {took:g} s"
        case "failed":
            return f"no reply after {delivery.attempts} attempts: {printable(delivery.reason)}"
        case "ended":
            return "no reply: the session ended before"
        case _:
            return "waits for its reply"


def _about_agent(agent: agent_pb2.Agent | None) -> str:
    if agent is None:
        return ""
    facts = [kind_name(agent)]
    if agent.HasField("status"):
        if agent.kind == agent_pb2.AGENT_KIND_STREAM:
            facts.append(f"{agent.status.connected_workers} workers connected")
        facts.append(f"{agent.status.open_deliveries} messages waiting")
    return f" ({printable(agent.name)}: {', '.join(facts)})"


def _time_left(session: session_pb2.Session) -> str:
    if not session.time_remaining_ms:
        return ""
    return f", in {timedelta(seconds=session.time_remaining_ms // 1000)}"


def _timeout(config: timeout_pb2.TimeoutConfig) -> str:
    fields: Mapping[str, Any] = MessageToDict(config, preserving_proto_field_name=True)
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={str(value).lower()}"
        for name, value in fields.items()
    )
