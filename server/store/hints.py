"""What servers that share a store tell each other of it.

Hints only: all that matters is in the store, and who misses one finds it there a little later.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from server.domain.log import Piece


@dataclass(frozen=True, slots=True)
class Hint:
    """What another server has done.

    `grown`: the sessions whose logs have grown, with their last sequences; `deleted`: those that it has
    deleted. `due`: agents that may have something to answer; `agents`: those that were changed or removed.
    `pieces`: those of replies under way; `sender`: the id of that server. `all`: anything may have happened,
    because hints were lost.
    """

    grown: Mapping[str, int] = field(default_factory=dict)
    deleted: Collection[str] = ()
    due: Collection[str] = ()
    agents: Collection[str] = ()
    pieces: Sequence[Piece] = ()
    sender: str = ""
    all: bool = False


HintListener: TypeAlias = Callable[[Hint], None]
"""Is told what another server has done. It must not raise, nor take long."""
