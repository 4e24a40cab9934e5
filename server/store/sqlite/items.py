"""Sets of rows as a statement takes them: one JSON array of arrays."""


def item_values(count: int) -> str:
    """The columns of an INSERT whose rows are the arrays of a JSON array, as `item`."""
    return ", ".join(f"item.value ->> {index}" for index in range(count))
