"""What tests see and change of a PostgreSQL store behind its contract: the one place that knows its parts."""

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

from server.store.postgres import schema
from server.store.postgres.announcer import Announcer
from server.store.postgres.front import Front
from server.store.postgres.lane import Lane
from server.store.postgres.listener import Listener
from server.store.postgres.reads import ReadLane
from server.store.postgres.store import PostgresStore


def first_lane(store: PostgresStore) -> Lane:
    """The lane that writes the counts, too."""
    return store._lanes.first


def read_lanes(store: PostgresStore) -> Sequence[ReadLane]:
    """The lanes that read."""
    return store._read_lanes


def listener_of(store: PostgresStore) -> Listener:
    """What hears the other servers."""
    assert store._listener
    return store._listener


def announcer_of(store: PostgresStore) -> Announcer:
    """What tells the other servers."""
    assert store._announcer
    return store._announcer


def link_of(part: Lane | ReadLane | Listener | Announcer) -> Any:
    """The connection of a part."""
    return part._link


def queue_of(lane: Lane) -> list[Any]:
    """The calls that wait for a lane."""
    return lane._queue


def task_of(lane: Lane) -> asyncio.Task[None]:
    """What writes the groups of a lane."""
    return lane._task


def fronts_of(store: PostgresStore) -> MutableMapping[str, Front]:
    """Where the queues of agents begin."""
    return store._fronts


def has_looked(store: PostgresStore) -> bool:
    """Whether the store has learnt the time since it was told that anything may have happened."""
    return store._looking is not None and store._looking.done()


def all_migrations() -> Any:
    """The migrations by number: their parts before and after."""
    return schema._migrations()
