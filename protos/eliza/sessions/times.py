"""Instants as milliseconds since the epoch, and as the text that the contract writes. No protobuf here."""

import datetime as dt

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS = dt.timedelta(milliseconds=1)

LATEST_MS = (dt.datetime(9000, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MS
"""The last instant that a client may name, in ms: far from the end of what a Timestamp can hold, so that sums stay inside."""


FIRST_MS = (dt.datetime(1, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MS
LAST_MS = (dt.datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=dt.UTC) - _EPOCH) // _MS
"""What a Timestamp can hold, in ms: the years 1 to 9999."""


def iso(ms: int) -> str:
    """Writes an instant in ms as ISO 8601 in UTC with exactly three fractional digits: `2026-01-31T09:05:00.000Z`."""
    return (_EPOCH + dt.timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")[:-6] + "Z"


def ms_from_iso(text: str) -> int:
    """Reads ISO 8601, in UTC where it names no zone, as ms; what is finer is cut off. Raises ValueError for anything else."""
    try:
        when = dt.datetime.fromisoformat(text)
        return ((when if when.tzinfo else when.replace(tzinfo=dt.UTC)) - _EPOCH) // _MS
    except OverflowError as error:
        raise ValueError(f"out of range: {text!r}") from error
