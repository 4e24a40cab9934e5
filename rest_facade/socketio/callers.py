"""Whose the sockets are: each with its credential, and the sessions that those with the same one follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rest_facade.shapes.credentials import Metadata, without_address
from rest_facade.shapes.errors import ApiError
from rest_facade.socketio.members import Outlet
from rest_facade.socketio.rooms import Rooms
from rest_facade.upstream.backend import Backend


@dataclass(slots=True, eq=False)
class _Party:
    """The sockets with one credential: one principal, and so one stream upstream."""

    rooms: Rooms
    socket_ids: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Caller:
    """A socket's side of its calls: what they carry, and its rooms."""

    metadata: Metadata
    rooms: Rooms


class Callers:
    """The connected sockets."""

    def __init__(self, backend: Backend, outlet: Outlet, on_refused: Callable[[Sequence[str]], None]) -> None:
        """`on_refused` gets the sockets whose credential is no longer good."""
        self._backend = backend
        self._outlet = outlet
        self._on_refused = on_refused
        self._callers: dict[str, Caller] = {}
        self._parties: dict[Metadata, _Party] = {}

    @property
    def is_idle(self) -> bool:
        """Whether no socket follows or joins a session."""
        return all(party.rooms.is_idle for party in self._parties.values())

    def add(self, socket_id: str, metadata: Metadata) -> None:
        """Adds a socket that has connected. Each of its calls carries this metadata."""
        credential = without_address(metadata)
        party = self._parties.get(credential)
        if party is None:
            rooms = Rooms(self._backend, self._outlet, credential, partial(self._refuse, credential))
            party = self._parties[credential] = _Party(rooms)
        party.socket_ids.add(socket_id)
        self._callers[socket_id] = Caller(metadata, party.rooms)

    def find(self, socket_id: str) -> Caller:
        """Returns a socket's side of its calls. Raises ApiError when it is gone."""
        if caller := self._callers.get(socket_id):
            return caller
        raise ApiError("UNAUTHENTICATED", "The socket is not connected")

    def forget(self, socket_id: str) -> None:
        """Forgets a socket that is gone. The last one with its credential ends their stream."""
        caller = self._callers.pop(socket_id, None)
        if caller is None:
            return
        caller.rooms.forget(socket_id)
        credential = without_address(caller.metadata)
        party = self._parties[credential]
        party.socket_ids.discard(socket_id)
        if not party.socket_ids:
            party.rooms.close()
            del self._parties[credential]

    def close(self) -> None:
        """Closes all streams upstream."""
        for party in self._parties.values():
            party.rooms.close()

    def _refuse(self, credential: Metadata) -> None:
        if party := self._parties.get(credential):
            self._on_refused(sorted(party.socket_ids))
