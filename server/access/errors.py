"""What stops a start: a source of credentials that cannot be used."""


class AccessError(Exception):
    """A source of credentials cannot be used. The text names the variable, the file and the line or key."""
