"""Metrics in Prometheus' text format, written in pieces between which the event loop goes on."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server.telemetry.instruments import Family

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

PIECE: Final = 50
"""How many samples are written at a time: about half a millisecond's worth."""

_COMMENTS: Final = 2
"""How many lines stand before a metric's samples."""


class _One(Collector):
    """One metric, as the library wants it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


async def write_families(families: Iterable[Family]) -> bytes:
    """Writes metrics."""
    parts: list[bytes] = []
    for family in families:
        samples, is_first = family.samples(), True
        while (piece := list(islice(samples, PIECE))) or is_first:
            metric = Metric(family.name, family.text, family.kind)
            metric.samples = piece
            text = generate_latest(_One(metric))
            parts.append(text if is_first else text.split(b"\n", _COMMENTS)[_COMMENTS])
            is_first = False
            await asyncio.sleep(0)
    return b"".join(parts)
