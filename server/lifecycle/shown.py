"""What one reader was told of replies under way, so that it hears when that is void.

A server that is killed takes back none of its pieces.
"""

from collections.abc import Iterator

from server.domain.log import Abort, Chunk, Entry, Piece, ReplyFailure
from server.domain.messages import AgentMessage


class Shown:
    """The attempts whose pieces a reader was told, until the reply is stored, has failed or they are void.

    One attempt at a reply is made at a time. So pieces of another attempt void those before, and so does the
    end of the reply with another id.
    """

    def __init__(self) -> None:
        # By the sequence of the message that is answered: what voids the attempt.
        self._shown: dict[int, Abort] = {}
        # The attempt that was over last: more of it may be on its way from another server.
        self._over_id = ""

    def take_piece(self, piece: Piece) -> Iterator[Piece]:
        """Gives what to tell of a piece, in its place."""
        if piece.message_id == self._over_id:
            return
        shown = self._shown.get(piece.answers)
        is_same = shown is not None and shown.message_id == piece.message_id
        if isinstance(piece, Abort):
            self._over_id = piece.message_id
            if is_same:
                del self._shown[piece.answers]
        elif not is_same:
            if shown and piece.attempt < shown.attempt:
                return
            if shown:
                self._over_id = shown.message_id
                yield shown
            self._shown[piece.answers] = abort_of(piece)
        yield piece

    def take_entry(self, entry: Entry) -> Iterator[Piece]:
        """Gives what to tell ahead of an entry."""
        if entry.answers is None or not (shown := self._shown.pop(entry.answers, None)):
            return
        self._over_id = shown.message_id
        match entry.event:
            case AgentMessage(id=shown.message_id) | ReplyFailure(reply_message_id=shown.message_id):
                pass
            case _:
                yield shown


def abort_of(chunk: Chunk) -> Abort:
    """Says that the pieces of an attempt are void, of which this is one."""
    return Abort(
        chunk.session_id, chunk.agent_id, chunk.message_id, chunk.answers, chunk.attempt, chunk.after
    )
