"""The text of agents, which is never lost for one character; the text of users is checked instead."""


def clean(text: str) -> str:
    """The text with its UTF-16 halves joined; a half that stays alone becomes U+FFFD, and a NUL is left out."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class TextJoiner:
    """Cleans a text that comes in pieces: a half at the end of a piece waits for its other half."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """The next piece, cleaned, with the half that waited and without one that must wait."""
        text = self._held + piece.replace("\0", "")
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return clean(text[:-1] if self._held else text)

    def flush(self) -> str:
        """What still waits, as U+FFFD: there are no more pieces."""
        held, self._held = self._held, ""
        return clean(held)
