"""Instants as milliseconds since the epoch, and as the text that the API writes. No protobuf here."""

import datetime as dt
from functools import lru_cache

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)

LATEST_MS = (dt.datetime(9000, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MS
"""The last instant that a client may name, in ms. It is far from LAST_MS, so that sums stay inside."""


FIRST_MS = (dt.datetime(1, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MS
LAST_MS = (dt.datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC) - _EPOCH) // _MS
"""The first and the last instant of a Timestamp, in ms: the years 1 to 9999."""


def iso(ms: int) -> str:
    """Writes an instant in ms as ISO 8601 in UTC with exactly three fractional digits:
    `2026-01-31T09:05:00.000Z`.
    """
    return iso_within(*divmod(ms, 1000))


def iso_within(seconds: int, ms: int) -> str:
    """The same, of whole seconds and the ms within the next one."""
    return f"{_iso_second(seconds)}.{ms:03d}Z"


@lru_cache(maxsize=1024)
def _iso_second(seconds: int) -> str:
    """The text of a second: those of a page are few."""
    return (_EPOCH + dt.timedelta(seconds=seconds)).isoformat()[:-6]


def ms_from_iso(text: str) -> int:
    """The instant of an ISO 8601 text, in ms, rounded down. Without a zone it is UTC. Raises ValueError."""
    try:
        when = dt.datetime.fromisoformat(text)
        return ((when if when.tzinfo else when.replace(tzinfo=dt.UTC)) - _EPOCH) // _MS
    except OverflowError as error:
        raise ValueError(f"out of range: {text!r}") from error
