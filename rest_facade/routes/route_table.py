"""Finds the route of a request in one look, where werkzeug goes through the segments of its path."""

import re
from collections import defaultdict
from typing import Final, NamedTuple

from werkzeug.routing import BaseConverter, Map, Rule

_VARIABLE: Final = re.compile(r"<(?:(\w+):)?(\w+)>")
"""A segment of a rule that is a variable: its converter, if it names one, and its name."""


class _Variable(NamedTuple):
    """A rule with one variable, and which values that may have."""

    rule: Rule
    name: str
    values: re.Pattern[str]


class RouteTable:
    """The rules of a map in which at most one segment is a variable, and that one alone. Others are left to
    werkzeug, and so is what no rule has: it knows whether that is a 404 or a 405.
    """

    def __init__(self, routes: Map) -> None:
        # By method and path.
        self._constant: dict[tuple[str, str], Rule] = {}
        # By method and segments, with an empty one in place of the variable.
        self._variable: dict[tuple[str, ...], _Variable] = {}
        places: dict[int, set[int]] = defaultdict(set)
        for rule in routes.iter_rules():
            segments = rule.rule.split("/")
            variables = [place for place, segment in enumerate(segments) if "<" in segment]
            if not variables:
                self._constant.update({(method, rule.rule): rule for method in rule.methods or ()})
            elif len(variables) == 1 and (variable := _read(rule, segments[variables[0]], routes)):
                segments[variables[0]] = ""
                places[len(segments)].add(variables[0])
                self._variable.update({(method, *segments): variable for method in rule.methods or ()})
        # Werkzeug, too, prefers the rule whose variable comes later.
        self._places = {length: sorted(found, reverse=True) for length, found in places.items()}

    def find(self, method: str, path: str) -> tuple[Rule, dict[str, str]] | None:
        """The rule of a request, and the values of its variables; None: werkzeug has to look."""
        if rule := self._constant.get((method, path)):
            return rule, {}
        segments = path.split("/")
        for place in self._places.get(len(segments), ()):
            value, segments[place] = segments[place], ""
            found = self._variable.get((method, *segments))
            if found and found.values.fullmatch(value):
                return found.rule, {found.name: value}
            segments[place] = value
        return None


def _read(rule: Rule, segment: str, routes: Map) -> _Variable | None:
    """A rule by its variable segment; None where the value is not one whole segment, as it is."""
    if not (variable := _VARIABLE.fullmatch(segment)):
        return None
    converter = routes.converters[variable[1] or "default"]
    regex = converter(routes).regex
    if converter.to_python is not BaseConverter.to_python or re.fullmatch(regex, "a/b"):
        return None
    return _Variable(rule, variable[2], re.compile(regex))
