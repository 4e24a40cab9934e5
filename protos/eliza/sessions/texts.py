"""What is text: Python's strings, and JSON's, may hold what cannot be encoded. No protobuf here."""


def is_text(value: str) -> bool:
    """Whether a string can be encoded: it holds no lone surrogate."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
