"""How a store is used that several servers share."""

from typing import Final, NamedTuple


class SharedOptions(NamedTuple):
    """See the settings of these names.

    `listen_url`: where servers hear of each other, if not at the store's URL. `prepares`: whether statements
    are prepared. `lanes`: groups of writes at a time. `announces`: whether servers tell each other what they
    have written. `wait_s`: how long a call waits for a database that is away.
    """

    listen_url: str = ""
    prepares: bool = True
    lanes: int = 1
    announces: bool = True
    wait_s: float = 10.0


DEFAULT_OPTIONS: Final = SharedOptions()
