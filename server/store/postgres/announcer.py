"""Tells the other servers what this one has committed: after the commit, on a connection of its own, and all
that has gathered meanwhile together.

Never in a transaction that writes: a NOTIFY there has all commits of the cluster stand in line.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from typing import Any, Final

from server.domain.deliveries import DeliveryState
from server.domain.log import Chunk, Piece
from server.store.postgres.frames import write_frames
from server.store.postgres.link import KeptLink, end_of
from server.store.postgres.place import Place
from server.store.values import Commit

CHANNEL: Final = "eliza_sessions_1"
"""The number is that of the form of the messages."""
MOST_PENDING: Final = 20_000
"""How many sessions wait to be told of; beyond that the others are told to look at everything."""
MOST_PIECES: Final = 2_000
MOST_PIECE_CHARACTERS: Final = 1_000_000
"""How many pieces of replies wait, and how much text they have."""
PIECES_SECONDS: Final = 0.05
"""How long pieces of replies gather."""
_IDS: Final = 150
_NOTIFY: Final = f"SELECT pg_notify('{CHANNEL}', told) FROM unnest(%s::text[]) AS told"
_LIGHT: Final = "SET synchronous_commit = off"


class Announcer:
    """See the module. What cannot be told is dropped: the others look by themselves, or are told to."""

    def __init__(self, place: Place, replica_id: str) -> None:
        self._replica_id = replica_id
        self._link = KeptLink(place, "announcements", listens=True)
        self._grown: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._due: set[str] = set()
        self._agents: set[str] = set()
        self._pieces: list[Piece] = []
        self._piece_characters = 0
        self._is_all = False
        self._woken = asyncio.Event()
        self._pieces_timer: asyncio.TimerHandle | None = None
        self._are_ripe = False
        self._is_closed = False
        self._task = asyncio.create_task(self._run())

    def on_commit(self, commit: Commit) -> None:
        """Takes note of what a commit has done."""
        for outcome in commit.outcomes:
            session = outcome.session
            if outcome.entry:
                self._grown[session.id] = session.last_sequence
            if (
                outcome.delivery
                and outcome.delivery.state is not DeliveryState.LEASED
                and session.open_deliveries
            ):
                self._due.add(session.agent_id)
        self._deleted.update(session.id for session in commit.deleted)
        if len(self._grown) + len(self._deleted) > MOST_PENDING:
            self.tell_all()
        self._woken.set()

    def note_agent(self, agent_id: str) -> None:
        """Takes note of an agent that was changed or removed."""
        self._agents.add(agent_id)
        self._woken.set()

    def note_piece(self, piece: Piece) -> None:
        """Takes note of a piece of a reply. The oldest go first where too many wait."""
        last = self._pieces[-1] if self._pieces else None
        if isinstance(piece, Chunk):
            self._piece_characters += len(piece.text)
        if isinstance(piece, Chunk) and isinstance(last, Chunk) and last.message_id == piece.message_id:
            self._pieces[-1] = replace(last, text=last.text + piece.text)
        else:
            self._pieces.append(piece)
        if len(self._pieces) > MOST_PIECES or self._piece_characters > MOST_PIECE_CHARACTERS:
            del self._pieces[: (len(self._pieces) + 1) // 2]
            self._piece_characters = sum(len(one.text) for one in self._pieces if isinstance(one, Chunk))
        if self._pieces_timer is None and not self._is_closed:
            self._pieces_timer = asyncio.get_running_loop().call_later(PIECES_SECONDS, self._ripen)

    def _ripen(self) -> None:
        """Has the pieces told that have gathered."""
        self._are_ripe = True
        self._woken.set()

    def tell_all(self) -> None:
        """Has the others look at everything."""
        self._grown.clear()
        self._deleted.clear()
        self._is_all = True
        self._woken.set()

    async def close(self) -> None:
        """Tells what has gathered, and lets go of the connection."""
        self._is_closed = True
        self._woken.set()
        if self._pieces_timer:
            self._pieces_timer.cancel()
        await end_of(self._task)

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            messages = self._take()
            if messages:
                try:
                    await self._send(messages)
                except Exception as error:  # noqa: BLE001 - without this task nothing would be told any more
                    await self._link.drop()
                    if self._is_closed:
                        break
                    self._link.note_trouble(error)
                    await self._link.pause()
                    # Of what was lost.
                    self.tell_all()
            if self._is_closed and not self._woken.is_set():
                break
        await self._link.drop()

    async def _send(self, messages: list[str]) -> None:
        is_new = self._link.is_lost
        link = await self._link.open()
        with self._link.bounded():
            if is_new:
                await link.execute(_LIGHT)
            await link.execute(_NOTIFY, [messages])

    def _take(self) -> list[str]:
        """What has gathered, as messages."""
        grown, self._grown = self._grown, {}
        deleted, self._deleted = self._deleted, set()
        due, self._due = self._due, set()
        agents, self._agents = self._agents, set()
        pieces: list[Piece] = []
        if self._are_ripe or any(piece.session_id in grown for piece in self._pieces):
            pieces, self._pieces, self._are_ripe = self._pieces, [], False
            self._piece_characters = 0
            if self._pieces_timer:
                self._pieces_timer.cancel()
            self._pieces_timer = None
        is_all, self._is_all = self._is_all, False
        # Before the replies that they are of.
        parts: list[dict[str, Any]] = [{"p": [list(astuple(piece)) for piece in pieces]}] if pieces else []
        parts += [{"*": 1}] if is_all else []
        parts += [{"g": dict(some)} for some in _some(grown.items())]
        for key, ids in (("d", deleted), ("a", due), ("c", agents)):
            parts += [{key: some} for some in _some(ids)]
        return [frame for part in parts for frame in write_frames(self._replica_id, part)]


def _some(items: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(items)
    return (listed[start : start + _IDS] for start in range(0, len(listed), _IDS))
