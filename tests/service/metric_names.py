"""The metrics that deploy/ asks for: on Grafana's dashboard, and in Prometheus' rules."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml

from tests.service.docs.pages import ROOT

DASHBOARD: Final = ROOT / "deploy" / "grafana" / "eliza-sessions.json"
CONFIGURATION: Final = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yml"

_WORDS: Final = frozenset(["sum", "min", "max", "rate", "increase", "histogram_quantile", "time"])
_OF_PROMETHEUS: Final = frozenset(["up"])
"""Made by Prometheus itself."""

_TARGET_LABELS: Final = frozenset(["instance", "job"])
"""What Prometheus adds to each sample."""


class Selector(NamedTuple):
    """A metric in an expression, and the labels that it is chosen by: with their values, where they are given
    one by one.
    """

    where: str
    name: str
    labels: tuple[tuple[str, tuple[str, ...]], ...]


def expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard and the rules, with where it stands."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


def selectors(where: str, expression: str) -> Iterator[Selector]:
    """The metrics in an expression."""
    # Labels that are grouped by, and ranges, are no metrics.
    bare = re.sub(r"\b(?:by|without) \([^)]*\)|\[[^\]]*\]", "", expression)
    if bare.startswith("label_values("):
        bare = bare.removeprefix("label_values(").split(",")[0]
    for found in re.finditer(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})?", bare):
        if found[1] not in _WORDS | _OF_PROMETHEUS:
            yield Selector(where, found[1], tuple(_labels(found[2] or "")))


def grouped_labels(expression: str) -> set[str]:
    """The labels that an expression groups by, but for Prometheus' own."""
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")} - _TARGET_LABELS


def _labels(text: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for label, operator, value in re.findall(r'(\w+)(=~|!=|!~|=)"([^"]*)"', text):
        if label not in _TARGET_LABELS:
            is_plain = operator in ("=", "!=") or re.fullmatch(r"[\w|]+", value)
            yield label, tuple(value.split("|")) if is_plain else ()
