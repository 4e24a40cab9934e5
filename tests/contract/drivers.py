"""What carries out a step: through gRPC (`grpc_driver.py`) or through REST (`rest_driver.py`)."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from tests.contract.answers import Failure, Success

PATIENCE_SECONDS: Final = 120
"""How long anything that must happen may take on a busy machine."""


class Driver(Protocol):
    """A transport."""

    def perform(self, call: str, session: str, given: Any) -> Success | Failure:
        """Makes one call."""


def saved_value(name: str, answer: Mapping[str, Any]) -> Any:
    """A value of an answer by its path: `cursors.before`, `messages.0.id`."""
    value: Any = answer
    for part in name.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value
