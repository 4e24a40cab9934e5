"""Plans of PostgreSQL, as EXPLAIN (FORMAT JSON) gives them."""

from collections.abc import Collection, Iterator
from typing import Any


def reads_whole(plan: dict[str, Any], tables: Collection[str], *, is_limited: bool = False) -> Iterator[str]:
    """The tables, of these, that a plan reads from end to end, by themselves or by an index.

    An index without a condition is not read to its end where a limit is near, and no row is passed over.
    """
    kind = plan["Node Type"]
    if plan.get("Relation Name") in tables and kind.endswith("Scan"):
        sought = list(_bitmaps(plan)) if kind == "Bitmap Heap Scan" else [plan]
        is_found = kind != "Seq Scan" and all("Index Cond" in one for one in sought)
        if not (is_found or (kind != "Seq Scan" and is_limited and "Filter" not in plan)):
            yield plan["Relation Name"]
    # A limit reaches through what drops nothing and needs no second row before it gives the first.
    limits = kind == "Limit" or (is_limited and kind in ("LockRows", "Subquery Scan"))
    for child in plan.get("Plans", ()):
        yield from reads_whole(child, tables, is_limited=limits)


def _bitmaps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The looks into an index that a bitmap is made of."""
    for child in plan.get("Plans", ()):
        if child["Node Type"] == "Bitmap Index Scan":
            yield child
        yield from _bitmaps(child)


def tell(plan: dict[str, Any]) -> Iterator[str]:
    """A line for each table or index that a plan looks into, with the rows that came of it and the pages that
    were looked at, where it was carried out.
    """
    name = plan.get("Index Name") or plan.get("Relation Name")
    if name:
        line = f"{plan['Node Type']} {name}"
        if "Actual Rows" in plan:
            pages = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
            line += f": {round(plan['Actual Rows'] * plan['Actual Loops']):,} rows, {pages:,} pages"
        yield line
    for child in plan.get("Plans", ()):
        yield from tell(child)
