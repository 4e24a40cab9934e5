"""Times in buckets of fixed bounds, and what share of them was shorter than what."""

from bisect import bisect_left
from typing import Final

_GROWTH: Final = 1.2
_FIRST_S: Final = 0.001
_BUCKETS: Final = 84

BOUNDS: Final = tuple(_FIRST_S * _GROWTH**number for number in range(_BUCKETS))
"""The upper bounds of the buckets in seconds, from a millisecond to an hour: a percentile is a tenth off at
most. The last bucket has none.
"""


class Times:
    """How many times are in each bucket. To add one costs the same however many there are."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Counts a time."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    def add_all(self, others: "Times") -> None:
        """Counts all of others, too."""
        self._counts = [mine + other for mine, other in zip(self._counts, others._counts, strict=True)]

    def percentile_ms(self, share: float) -> float | None:
        """The time, in ms, that this share of all was not longer than; None where there are none.

        Within a bucket they count as evenly spread.
        """
        total = sum(self._counts)
        if not total:
            return None
        wanted, passed = share * total, 0
        for number, count in enumerate(self._counts):
            if passed + count >= wanted and count:
                low_s = BOUNDS[number - 1] if number else 0.0
                high_s = BOUNDS[number] if number < len(BOUNDS) else low_s
                return (low_s + (high_s - low_s) * (wanted - passed) / count) * 1000
            passed += count
        return BOUNDS[-1] * 1000
