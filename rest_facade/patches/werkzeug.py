"""werkzeug 3.1's rules without what builds URLs.

For each rule it compiles two functions, which is a third of a start's own time. Nobody here asks for a URL.
Where werkzeug no longer asks for them by this name, it compiles as it would, and nothing else changes.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from werkzeug.routing import Rule


class MatchedRule(Rule):
    """A rule that requests are matched with. To build a URL of it fails."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., NoReturn]:
        return _build_nothing


def _build_nothing(rule: Rule, **values: Any) -> NoReturn:
    raise NotImplementedError(f"no URL is built of {rule.rule}")
