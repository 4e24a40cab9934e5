"""What the modules of parts have in common."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from rest_facade.shapes.response import Response

View: TypeAlias = Callable[..., Response]


class Add(Protocol):
    """Adds a route to the console: GET, unless other methods are named. It exists while the console is on."""

    def __call__(self, rule: str, view: View, *methods: str) -> None: ...


PARTS = "/console/parts"
"""Below it are parts of pages in HTML, errors too."""

DATA = "/console/data"
"""Below it are answers in JSON, errors too."""
