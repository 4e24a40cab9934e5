"""Cleans the text of agents, so that one bad character does not cost a reply.

Pieces may be cut between the halves of a surrogate pair, and text may hold a NUL.
"""

from eliza.sessions.texts import is_text

REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """An agent's text without NULs, its surrogate halves joined, and each lone half a U+FFFD."""
    return join_halves(text.replace("\0", ""))


def join_halves(text: str) -> str:
    """The text with its surrogate halves joined; each lone half becomes U+FFFD."""
    if is_text(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class TextJoiner:
    """Cleans a text that comes in pieces. All it returns is together what `clean` makes of the whole text."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, piece: str) -> str:
        """Takes a piece and returns the cleaned text. Holds back a high half at the end, for its low half."""
        if piece.isascii() and not self._half:
            return piece.replace("\0", "")
        text = self._half + piece.replace("\0", "")
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return join_halves(text[: len(text) - len(self._half)])

    def flush(self) -> str:
        """Ends the text. Returns what was held back: a U+FFFD for a half that stayed alone."""
        half, self._half = self._half, ""
        return REPLACEMENT if half else ""
