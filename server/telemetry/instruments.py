"""Counters and histograms that cost a look-up and an addition, and the samples that a scrape makes of them.

They are read on the event loop, and each is changed by one thread alone, so they need no locks. Their samples
are made one by one, so that a scrape can let the loop go on between them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

Key: TypeAlias = tuple[str, ...]
"""The values of a series' labels, in the order of their names."""

OTHER: Final = "other"


class Family(Protocol):
    """A metric, with all its series. `kind` is counter, gauge or histogram."""

    name: str
    text: str
    kind: str

    def samples(self) -> Iterator[Sample]:
        """All samples as they are now."""


class Counter:
    """How often things happened, by labels."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        """`name` without the `_total` that its samples have."""
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._counts: dict[Key, float] = {}

    def add(self, *key: str, count: float = 1) -> None:
        self._counts[key] = self._counts.get(key, 0) + count

    def samples(self) -> Iterator[Sample]:
        for key, count in list(self._counts.items()):
            yield Sample(f"{self.name}_total", dict(zip(self.labels, key, strict=True)), count)


class _Observed:
    """The observations of one series: how many in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Histogram:
    """How values are distributed over fixed buckets, by labels."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        """`bounds` are the upper ones of the buckets, but for the last, which has none."""
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._les = (*map(floatToGoString, self._bounds), "+Inf")
        self._series: dict[Key, _Observed] = {}

    def observe(self, value: float, *key: str) -> None:
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Observed(len(self._les))
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def samples(self) -> Iterator[Sample]:
        for key, series in list(self._series.items()):
            labels = dict(zip(self.labels, key, strict=True))
            # As they are at one moment: others go on between two samples.
            counts, total, sum_so_far = series.counts.copy(), series.total, 0
            for le, count in zip(self._les, counts, strict=True):
                sum_so_far += count
                yield Sample(f"{self.name}_bucket", {**labels, "le": le}, sum_so_far)
            yield Sample(f"{self.name}_count", labels, sum_so_far)
            yield Sample(f"{self.name}_sum", labels, total)


class Gauge:
    """Present values, by labels. A probe gives them at each scrape."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self.values: dict[Key, float] = {}

    def samples(self) -> Iterator[Sample]:
        for key, value in list(self.values.items()):
            yield Sample(self.name, dict(zip(self.labels, key, strict=True)), value)


class BoundedLabel:
    """The first `most` values of a label as they are; the rest as `other`, lest strangers make series."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {}

    def of(self, value: str) -> str:
        found = self._known.get(value)
        if found is None:
            if len(self._known) >= self._most:
                return OTHER
            found = self._known[value] = value
        return found
