"""What tests see of the Socket.IO server behind its events: the one place that knows its parts."""

from typing import Any

from rest_facade.socketio.client_events import ClientEvents
from rest_facade.socketio.rooms import Rooms
from rest_facade.socketio.sockets import Sockets


def watched_in(rooms: Rooms) -> dict[str, Any]:
    """By session: what the facade watches for its sockets, and which of them are its members."""
    watched: dict[str, Any] = rooms._watch.sessions
    return watched


def joins_in(rooms: Rooms) -> dict[str, Any]:
    """By session: the joins under way."""
    joins: dict[str, Any] = rooms._joins
    return joins


def replays_in(rooms: Rooms) -> dict[tuple[str, str], Any]:
    """By socket and session: who catches up."""
    replays: dict[tuple[str, str], Any] = rooms._replays
    return replays


def io_of(sockets: Sockets) -> Any:
    """The library's server."""
    return sockets._io


def events_of(sockets: Sockets) -> ClientEvents:
    """What handles the events of clients."""
    return sockets._events
