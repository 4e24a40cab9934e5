"""Bad input over REST, as data: what is sent, and what must come of it."""

from typing import Any, Final

from tests.contract.bad_bodies import bad_values, clock, depths_and_sizes, duplicates, empty, malformed
from tests.contract.bad_heads import bad_paths, content_types, heads, lengths, methods, queries
from tests.contract.bad_pieces import Bad


def _all() -> tuple[Bad, ...]:
    makers: Any = (
        malformed,
        bad_values,
        depths_and_sizes,
        duplicates,
        content_types,
        queries,
        bad_paths,
        methods,
        lengths,
        heads,
        clock,
        empty,
    )
    return tuple(piece for maker in makers for piece in maker())


BAD: Final = _all()
"""All pieces."""
