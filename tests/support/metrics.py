"""Scrapes of a service's metrics, read as Prometheus reads them."""

from dataclasses import dataclass, field

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import PATIENCE_SECONDS

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


@dataclass
class Scrape:
    """What a process told: `text` as it came, and the samples in it.

    `labels`: of the samples of each name. `empty`: the names of metrics without samples.
    """

    text: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"{key} comes twice"
                self.samples[key] = sample.value
                self.labels.setdefault(sample.name, set()).update(sample.labels)
            if not family.samples:
                self.empty |= {family.name + suffix for suffix in _SUFFIXES[family.type]}

    def sum(self, name: str, **labels: str) -> float:
        """The sum of all samples of a name that have these labels."""
        wanted = labels.items()
        return sum(
            value for (one, of), value in self.samples.items() if one == name and of >= frozenset(wanted)
        )


def scrape(address: str) -> Scrape:
    """Scrapes a process's metrics."""
    answer = requests.get(f"http://{address}/metrics", timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    return Scrape(answer.text)
