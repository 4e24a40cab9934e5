"""Numbers that clients write as text."""

from typing import Final

MAX_INT64: Final = 2**63 - 1
"""The greatest number of a field of the API's messages."""


def whole_number(text: str, most: int = MAX_INT64) -> int | None:
    """A whole number of 0 to `most`, maybe with zeros in front; None for any other text."""
    # int() refuses very many digits, zeros too.
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(most)):
        return None
    number = int(digits or "0")
    return number if number <= most else None
