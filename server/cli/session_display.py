"""How `eliza-sessions sessions` shows sessions, their messages and their logs to people."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

import click
from google.protobuf.json_format import MessageToDict

from eliza.sessions import values
from eliza.sessions.v1 import admin_service_pb2, agent_pb2, log_pb2, message_pb2, session_pb2, timeout_pb2
from server.cli.agent_display import iso, kind_name
from server.cli.chat import printable

ROW: Final = "{:36}  {:36}  {:36}  {:24}  {:24}  {:12}  {:>7}  {:>6}"
HEADING: Final = ROW.format("ID", "USER", "AGENT", "CREATED", "EXPIRES", "STATE", "WAITING", "FAILED")

_INDENT: Final = " " * 4


class Outcome(NamedTuple):
    """What became of a user's message: by the log, and by its delivery, where that is known.

    `state` is `answered`, `failed`, `waiting`, `in hand`, or `ended` where the session ended before an
    answer.
    """

    state: str
    sequence: int = 0
    """Of the entry that says so."""
    at_ms: int = 0
    reason: str = ""
    attempts: int = 0
    delivery: admin_service_pb2.MessageDelivery | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON. Programs rely on these names: add more, change none."""
        told = {"state": self.state, "sequence": self.sequence, "reason": self.reason}
        told["attempts"] = self.delivery.attempts if self.delivery else self.attempts
        known = MessageToDict(self.delivery) if self.delivery else {}
        for name in ("state", "attempts", "sessionId", "messageId", "messageSequence", "createdAt"):
            known.pop(name, None)
        return {key: value for key, value in told.items() if value} | known


def outcomes(
    entries: Iterable[log_pb2.LogEntry], deliveries: Mapping[int, admin_service_pb2.MessageDelivery]
) -> dict[int, Outcome]:
    """Finds what became of the users' messages in a part of a log that goes to its end, by sequence.

    A delivery knows better than the log where the message was delivered anew.
    """
    found: dict[int, Outcome] = {}
    for entry in entries:
        at_ms = values.ms_floor(entry.at)
        match entry.WhichOneof("event"):
            case "message" if not entry.message.is_agent:
                found[entry.sequence] = Outcome("waiting")
            case "message":
                found[entry.message.reply_to_sequence] = Outcome("answered", entry.sequence, at_ms)
            case "reply_failure":
                failure = entry.reply_failure
                found[failure.message_sequence] = Outcome(
                    "failed", entry.sequence, at_ms, failure.reason, failure.attempts
                )
            case "expiry":
                found.update(
                    (sequence, Outcome("ended", entry.sequence, at_ms))
                    for sequence, outcome in found.items()
                    if outcome.state == "waiting"
                )
    for sequence, delivery in deliveries.items():
        outcome = found.get(sequence, Outcome("waiting"))
        if state := _OPEN.get(delivery.state):
            outcome = Outcome(state)
        found[sequence] = outcome._replace(delivery=delivery)
    return found


_OPEN: Final = {
    admin_service_pb2.DELIVERY_STATE_WAITING: "waiting",
    admin_service_pb2.DELIVERY_STATE_IN_HAND: "in hand",
}


def state_name(session: session_pb2.Session) -> str:
    """Returns how a session is, in a word or three."""
    if session.time_remaining_ms == 0:
        return "expired"
    return "near its end" if session.is_near_expiration else "live"


def row(found: admin_service_pb2.FoundSession) -> str:
    """A session as a line of a table."""
    session = found.session
    return ROW.format(
        session.session_id,
        session.user_id,
        session.agent_id,
        iso(session.created_at),
        iso(found.ended_at if found.is_expired else session.expires_at),
        "expired" if found.is_expired else state_name(session),
        found.open_deliveries,
        found.failed_deliveries,
    )


def found_json(found: admin_service_pb2.FoundSession) -> dict[str, Any]:
    """A session as JSON. Programs rely on these names: add more, change none."""
    return MessageToDict(found.session) | {
        "isExpired": found.is_expired,
        "endedAt": iso(found.ended_at) if found.is_expired else None,
        "openDeliveries": found.open_deliveries,
        "failedDeliveries": found.failed_deliveries,
    }


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


def print_message(entry: log_pb2.LogEntry, outcome: Outcome | None) -> None:
    """Prints a message, and under it what became of it."""
    click.echo(describe(entry))
    if outcome:
        for line in _about_outcome(entry, outcome):
            click.echo(f"{_INDENT}{line}")


def describe(entry: log_pb2.LogEntry) -> str:
    """An entry of a log as a line; the lines of a message follow each other."""
    return f"{iso(entry.at)}  #{entry.sequence:<5} {_what(entry)}"


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
    # Lines behind the first stand in: what somebody wrote must not look like an entry of the log.
    said = printable(message.content, keep=chr(10) + chr(9)).replace("\n", f"\n{_INDENT}| ")
    return f"{who}: {said}{renewed}"


def _about_outcome(entry: log_pb2.LogEntry, outcome: Outcome) -> Iterator[str]:
    delivery = outcome.delivery
    match outcome.state:
        case "answered":
            took = (outcome.at_ms - values.ms_floor(entry.at)) / 1000
            yield f"answered by #{outcome.sequence} after {took:.12g} s"
            return
        case "failed":
            yield f"no reply after {outcome.attempts} attempts: {printable(outcome.reason)}"
        case "ended":
            yield "no reply: the session ended before"
        case "in hand" if delivery:
            attempt = f"attempt {delivery.attempts} of {delivery.max_attempts}"
            yield f"the agent has it{_worker(delivery)}: {attempt}"
        case _:
            yield f"waits for its reply{_next_attempt(delivery)}"
    if delivery and delivery.HasField("last_failure"):
        failure = delivery.last_failure
        said = printable("; ".join(filter(None, (failure.reason, failure.detail))))
        yield f"attempt {failure.attempt} failed at {iso(failure.at)}: {said}"
    if delivery and delivery.can_redeliver:
        named = f"{delivery.session_id} {delivery.message_id} --sequence {delivery.message_sequence}"
        yield f"to try again: eliza-sessions sessions redeliver {named}"


def _worker(delivery: admin_service_pb2.MessageDelivery) -> str:
    if not delivery.worker_id:
        return ""
    address = f" at {printable(delivery.worker_address)}" if delivery.worker_address else ""
    return f", worker {delivery.worker_id}{address}"


def _next_attempt(delivery: admin_service_pb2.MessageDelivery | None) -> str:
    """How many attempts were made, and when the next one may be."""
    if delivery is None:
        return ""
    told = f": {delivery.attempts} of {delivery.max_attempts} attempts made"
    if delivery.HasField("next_attempt_at") and delivery.attempts:
        told += f", the next from {iso(delivery.next_attempt_at)} on"
    return told


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
