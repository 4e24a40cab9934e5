"""Those who follow sessions: each entry of a log must come once, in order, over all that happens to them and
to the service.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from eliza.sessions.v1 import errors_pb2
from eliza.sessions.v1 import session_service_pb2 as sessions_pb
from server.domain.errors import DomainError
from server.rpc.call import Call as Context
from tests.campaigns.simulation.calls import Stream
from tests.campaigns.simulation.settings import LIMITS
from tests.campaigns.simulation.state import require
from tests.campaigns.simulation.translation import logged, received, seen

if TYPE_CHECKING:
    from tests.campaigns.simulation.world import World


class Watcher:
    """A client that follows sessions, goes and comes back, and keeps the place up to which it has seen each
    log.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._stream = Stream()
        self._task: asyncio.Task[None] | None = None
        self.slow = False
        self.places: dict[str, int | None] = {}
        """The last sequence that was seen; None until it is known."""
        self._replies: set[str] = set()
        self._drafts: dict[str, set[str]] = {}
        """By session, the replies of which this connection has brought pieces, and no end yet."""
        self._void: set[str] = set()
        self._deleted: set[str] = set()
        self._asked: deque[tuple[str, str]] = deque()
        """The changes that were sent and not answered yet, as far as one can tell."""

    def connect(self) -> None:
        """Connects, if it is not, and resumes where it stood."""
        if self._task is not None:
            return
        self._stream = Stream()
        self._asked.clear()
        self._drafts.clear()
        self._task = self._world.guarded(self._run, self._stream, self._world.life)
        for session_id in list(self.places):
            self._join(session_id)

    def disconnect(self) -> None:
        if self._task is not None:
            self._world.note("watcher goes")
            self._task.cancel()
            self.lost()

    def lost(self) -> None:
        self._task = None

    def join(self, session_id: str, after: int | None) -> None:
        """Begins to follow a session."""
        if self._task is not None and session_id not in self.places:
            self.places[session_id] = after
            self._join(session_id)

    def leave(self, session_id: str) -> None:
        if self._task is not None and session_id in self.places:
            self._asked.append(("leave", session_id))
            del self.places[session_id]
            self._drafts.pop(session_id, None)
            leave = sessions_pb.WatchSessionsRequest.Leave(session_id=session_id)
            self._stream.send(sessions_pb.WatchSessionsRequest(leave=leave))

    def check_complete(self) -> None:
        for session_id, place in self.places.items():
            last = len(self._world.model.log_of(session_id))
            require(place == last, "a watcher of", session_id, "has seen", place, "entries of", last)
        drafts = [session_id for session_id, drafts in self._drafts.items() if drafts]
        require(not drafts, "a watcher is left with pieces of replies that are not coming, of", drafts)

    def _join(self, session_id: str) -> None:
        self._asked.append(("join", session_id))
        join = sessions_pb.WatchSessionsRequest.Join(
            session_id=session_id, after_sequence=self.places[session_id]
        )
        self._stream.send(sessions_pb.WatchSessionsRequest(join=join))

    async def _run(self, stream: Stream, life: int) -> None:
        try:
            async for response in self._world.session_service.WatchSessions(stream.requests(), Context(None)):
                if life != self._world.life or stream is not self._stream:
                    return
                self._take(received(sessions_pb.WatchSessionsResponse, response))
                if self.slow:
                    await asyncio.sleep(self._world.chance.choice((0, 0.01, 1, 20)))
        except DomainError as error:
            require(
                error.reason == "UNAVAILABLE" and (self._world.stopping or life != self._world.life),
                "a watch ends:",
                error,
            )

    def _take(self, response: sessions_pb.WatchSessionsResponse) -> None:
        world, model = self._world, self._world.model
        match response.WhichOneof("event"):
            case "joined":
                session_id = response.joined.session.session_id
                # Changes are made in order, so those before this one are made.
                while self._asked.popleft() != ("join", session_id):
                    pass
                if self._leaves(session_id):
                    return
                place = self.places[session_id]
                wanted = response.joined.session.last_sequence if place is None else place
                require(
                    response.joined.after_sequence == wanted,
                    "joined behind",
                    response.joined.after_sequence,
                    "not",
                    wanted,
                )
                self.places[session_id] = wanted
            case "entry":
                entry, session_id = response.entry, response.entry.session_id
                world.note("seen", session_id, entry.sequence)
                if self._leaves(session_id):
                    return
                place = self.places.get(session_id)
                require(place is not None, "an entry of a session that is not watched:", session_id)
                assert place is not None
                require(
                    entry.sequence == place + 1,
                    "a watcher of",
                    session_id,
                    "has seen",
                    place,
                    "and now",
                    entry.sequence,
                )
                log = model.log_of(session_id)
                require(entry.sequence <= len(log), "a watcher has seen what is not there:", entry)
                wanted = log[entry.sequence - 1]
                require(
                    logged(entry) == seen(wanted), "a watcher has seen", logged(entry), "of", seen(wanted)
                )
                self.places[session_id] = entry.sequence
                self._replies.add(wanted.get("id", ""))
                ended = {entry.message.message_id, entry.reply_failure.reply_message_id}
                require(not ended & self._void or entry.HasField("reply_failure"), "a reply was void:", entry)
                self._drafts.setdefault(session_id, set()).difference_update(ended)
                failed_with_pieces = entry.HasField("reply_failure") and self._drafts[session_id]
                require(not failed_with_pieces, "a reply has failed, and its pieces stand:", entry)
                if entry.HasField("expiry"):
                    self._drafts.pop(session_id)
                world.counts["entries seen"] += 1
            case "chunk":
                chunk = response.chunk
                require(chunk.message_id not in self._replies, "a chunk after its reply:", chunk)
                require(chunk.message_id not in self._void, "a chunk after it was void:", chunk)
                require(chunk.attempt > 0, "a chunk of no attempt:", chunk)
                if chunk.session_id in self.places and not self._leaves(chunk.session_id):
                    self._drafts.setdefault(chunk.session_id, set()).add(chunk.message_id)
                world.counts["chunks seen"] += 1
            case "aborted":
                aborted = response.aborted
                require(aborted.message_id not in self._replies, "a reply that is there is void:", aborted)
                self._void.add(aborted.message_id)
                self._drafts.get(aborted.session_id, set()).discard(aborted.message_id)
                world.counts["aborts seen"] += 1
            case "deleted":
                session_id = response.deleted.session_id
                require(
                    session_id not in model.sessions,
                    "a session is there that is said to be deleted:",
                    session_id,
                )
                self._deleted.add(session_id)
                world.counts["deletions seen"] += 1
            case "end":
                self._end(response.end)

    def _leaves(self, session_id: str) -> bool:
        return ("leave", session_id) in self._asked

    def _end(self, end: sessions_pb.WatchSessionsResponse.End) -> None:
        world, session_id = self._world, end.session_id
        reason = errors_pb2.ErrorReason.Name(end.reason).removeprefix("ERROR_REASON_")
        world.note("end", session_id, reason)
        session = world.model.sessions.get(session_id)
        if reason == "UNSPECIFIED" and self._leaves(session_id):
            # Where the session has expired, nobody can tell whether this is the answer to the leaving or the
            # end that came before it.
            if session is not None and not session.expired:
                self._asked.remove(("leave", session_id))
            return
        place = self.places.pop(session_id, None)
        self._drafts.pop(session_id, None)
        if reason == "SESSION_NOT_FOUND":
            purging = session is not None and session.is_expired(world.now_ms() - LIMITS.retention_ms)
            require(session is None or purging, "not found, but there:", session_id)
            return
        log = world.model.log_of(session_id)
        require(log and log[-1]["kind"] == "expiry", "the watch of a live session ends:", session_id, reason)
        require(reason in ("UNSPECIFIED", "SESSION_EXPIRED"), "a watch ends with", reason)
        require(
            place is None or place == len(log),
            "a watcher of",
            session_id,
            "has seen",
            place,
            "of",
            len(log),
            "at the end",
        )
