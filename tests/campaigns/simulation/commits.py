"""What the writer carries out: told to the model in the order in which it is done, so that the model always
knows what the file holds, whoever heard of it; and compared with it.
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.domain.deliveries import DeliveryState
from server.domain.errors import DomainError
from server.domain.sessions import Outcome
from server.store.sqlite import check as sqlite_check
from tests.campaigns.simulation.calls import Call
from tests.campaigns.simulation.model import Model
from tests.campaigns.simulation.settings import LIMITS
from tests.campaigns.simulation.state import Refusal, Violation, require
from tests.campaigns.simulation.translation import entry_of
from tests.support.inside_sqlite import write_connection
from tests.unit.samples import logged

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World


@dataclass
class Step:
    """An operation of a group, as it was carried out."""

    call: Call | None
    session_id: str | None
    sequence: int | None
    now: int
    result: Any = None
    error: DomainError | None = None


def tell(world: "World", steps: list[Step]) -> None:
    """Tells the model, and compares what is seen at once."""
    try:
        world.model.overdue(min(step.now for step in steps))
        for step in steps:
            _judge(world, step)
    except Violation as violation:
        world.failures.append(violation)


def _judge(world: "World", step: Step) -> None:
    model, error = world.model, None if step.error is None else step.error.reason
    if step.session_id is None:
        with closing(write_connection(world.store).execute("SELECT id FROM sessions")) as found:
            model.purged([row[0] for row in found], step.now)
        world.note("work", step.result)
        if step.result and world.chance.random() < 0.3:
            _watch_purged(world, step.now)
        return
    outcome = step.result if isinstance(step.result, Outcome) else None
    entries = [] if outcome is None or outcome.replayed else [entry_of(entry) for entry in logged(outcome)]
    world.note("did", step.session_id, step.sequence, error, entries, step.now)
    world.counts["writes"] += 1
    if step.call is None or step.call.arguments["kind"] == "connect":
        session = model.sessions.get(step.session_id)
        model.did(step.session_id, step.sequence, step.now, entries, error)
        for delivery in [outcome.delivery] if outcome and outcome.delivery else ():
            if delivery.state is DeliveryState.LEASED:
                world.counts["leases"] += 1
                model.leased(step.session_id, delivery.sequence, step.now)
            elif session and delivery.lost_connections > session.deliveries[delivery.sequence].lost:
                world.counts["lost connections"] += 1
                gone = world.stopping or session.state.agent in world.departed
                model.lost(step.session_id, delivery.sequence, delivery.lost_connections, gone=gone)
            elif session and delivery.attempts < session.deliveries[delivery.sequence].attempts:
                world.counts["leases given back"] += 1
                model.given_back(step.session_id, delivery.sequence, stopping=world.stopping)
        for entry in entries:
            world.counts[entry["kind"] + ("s by agents" if entry["kind"] == "message" else "s")] += 1
        assert session is None or session.log is not None
        return
    # What a rule refuses is not a replay either.
    fresh = not outcome.replayed if outcome else error != "REQUEST_ID_REUSED"
    observed: dict[str, Any] = {"fresh": fresh}
    if outcome and step.call.arguments["kind"] == "create":
        observed |= {"id": outcome.session.id, "channel": outcome.session.channel_id}
    elif outcome and outcome.entry and outcome.entry.message:
        observed["id"] = outcome.entry.message.id
    elif step.error is not None:
        observed["id"] = f"none {world.lines}"
    require(step.call.answers is None, "a call was carried out twice:", step.call.arguments)
    session = model.sessions.get(step.session_id)
    length = len(session.log) if session else 0
    step.call.answers = model.carried_out(step.call.arguments, step.now, observed)
    refused = Refusal(error) if error else None
    require(
        any(
            answer == refused if refused else not isinstance(answer, Refusal) for answer in step.call.answers
        ),
        f"{step.call.arguments} at {step.now} was answered {refused or 'well'}, not one of "
        f"{step.call.answers}",
    )
    made = session.log[length:] if session and step.call.arguments["kind"] != "delete" else []
    require(
        made == entries, "the log should grow by", made, "but grows by", entries, "with", step.call.arguments
    )


def _watch_purged(world: "World", now: int) -> None:
    """Somebody comes for a log while the purge is at it: a moment that chance alone would hardly meet."""
    old = [
        one
        for one in world.model.sessions.values()
        if one.expired and one.is_expired(now - LIMITS.retention_ms)
    ]
    if old:
        session = world.chance.choice(old)
        world.chance.choice(world.watchers).join(session.state.id, world.chance.randrange(len(session.log)))


def compare_with_file(path: Path, model: Model) -> None:
    """The file holds what the model says, and all of it fits together."""
    with closing(sqlite3.connect(path)) as connection:
        require(not (problems := list(sqlite_check.problems(connection))), "check:", problems)
        found: dict[str, list[Any]] = {row[0]: [] for row in connection.execute("SELECT id FROM sessions")}
        for row in connection.execute(
            "SELECT session_id, sequence, at_ms, kind, message_id, content, answers FROM log "
            "WHERE session_id NOT IN (SELECT id FROM removed_sessions) ORDER BY session_id, sequence"
        ):
            found[row[0]].append(row[1:])
    wanted = {
        session_id: [
            (
                entry["sequence"],
                entry["at"],
                entry["kind"],
                entry.get("id"),
                entry.get("content"),
                entry.get("answers") if "content" in entry else None,
            )
            for entry in session.log
        ]
        for session_id, session in model.sessions.items()
    }
    for session_id in wanted.keys() | found.keys():
        here, there = found.get(session_id), wanted.get(session_id)
        require(here == there, "the file has", here, "of", session_id, "but should have", there)
