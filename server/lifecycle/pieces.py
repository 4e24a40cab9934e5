"""Keeps the pieces of replies under way, once for all watches of a session. The store does not have them."""

from collections import deque
from dataclasses import replace
from itertools import chain, islice
from typing import Final

from server.domain.log import Abort, Chunk, Piece

WAITING_CHUNKS: Final = 1000
WAITING_CODE_POINTS: Final = 200_000
"""How many pieces of a session's replies are kept, and how much text: twice what a reply may have."""

PIECES_APART: Final = 8
"""How many pieces may wait for a session's fastest watch before further chunks are merged."""


class Pieces:
    """The latest pieces of a session's replies. Each has a number; a watch keeps the number of its next one.

    Where PIECES_APART wait for every watch, further chunks are merged with the last of them.
    """

    def __init__(self) -> None:
        self._kept: deque[Piece] = deque()
        self._first = 0
        self._code_points = 0
        # Aborts that were dropped, with their numbers: a slow watch may have sent the chunks that they void.
        self._lost_aborts: deque[tuple[int, Piece]] = deque(maxlen=WAITING_CHUNKS)
        # How many have come since anyone took some; and the texts of the last chunk, while it grows.
        self._untaken = 0
        self._texts: list[str] = []

    def join(self) -> int:
        """Returns the number of the next piece."""
        self._seal()
        self._untaken = 0
        return self._first + len(self._kept)

    def add(self, piece: Piece) -> None:
        """Keeps a piece; lets the oldest go where there are too many."""
        if isinstance(piece, Chunk):
            self._code_points += len(piece.text)
            last = self._kept[-1] if self._untaken >= PIECES_APART else None
            if isinstance(last, Chunk) and last.message_id == piece.message_id:
                self._texts = self._texts or [last.text]
                self._texts.append(piece.text)
                return
        self._seal()
        self._kept.append(piece)
        self._untaken += 1
        while len(self._kept) > WAITING_CHUNKS or (
            self._code_points > WAITING_CODE_POINTS and len(self._kept) > 1
        ):
            oldest = self._kept.popleft()
            if isinstance(oldest, Chunk):
                self._code_points -= len(oldest.text)
            else:
                self._lost_aborts.append((self._first, oldest))
            self._first += 1

    def take(self, number: int, up_to: int) -> tuple[list[Piece], int]:
        """Returns the pieces from a number on, and the number to go on from.

        Only attempts count that began when the log ended at this sequence or before. Chunks that an abort
        among them voids are left out. One abort is enough, because no chunk of a second one was sent.
        """
        end = self._first + len(self._kept)
        if number >= end:
            return [], number
        self._seal()
        self._untaken = 0
        first = max(number, self._first)
        lost = ((at, abort) for at, abort in self._lost_aborts if at >= number)
        kept = enumerate(islice(self._kept, first - self._first, None), first)
        found: list[Piece] = []
        for at, piece in chain(lost, kept):
            if piece.after > up_to:
                end = at
                break
            found.append(piece)
        void = {piece.message_id for piece in found if isinstance(piece, Abort)}
        told: list[Piece] = []
        is_aborted = False
        for piece in found:
            if not isinstance(piece, Abort):
                if piece.message_id not in void:
                    told.append(piece)
            elif not is_aborted:
                is_aborted = True
                told.append(piece)
        return told, end

    def _seal(self) -> None:
        """Closes the last chunk: later ones are not merged with it."""
        if self._texts:
            last = self._kept.pop()
            assert isinstance(last, Chunk)
            self._kept.append(replace(last, text="".join(self._texts)))
            self._texts = []
