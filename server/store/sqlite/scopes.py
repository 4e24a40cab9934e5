"""The scope of a call as a condition in SQL, so that another's session takes as long as nobody's."""

from server.domain.access import EVERYTHING, Scope

_CONDITION = (
    " AND (:tenant IS NULL OR {0}tenant = :tenant) AND (:user_id IS NULL OR {0}user_id = :user_id) "
    "AND (:agent_id IS NULL OR {0}agent_id = :agent_id) AND (:session_id IS NULL OR {0}id = :session_id)"
)


def in_scope(statement: str, table: str = "") -> dict[bool, str]:
    """A statement by whether it is for a narrower scope than EVERYTHING.

    `{}` in it stands for the condition of the scope, on the columns of `table`.
    """
    condition = _CONDITION.format(table and f"{table}.")
    return {False: statement.replace("{}", ""), True: statement.replace("{}", condition)}


def one_in_scope(select: str, column: str) -> dict[bool, str]:
    """Selects the session with a unique value in a column, as `in_scope` does.

    The next session is read where there is none with the value: to look at another's takes no longer.
    """
    nearest = f"(SELECT rowid FROM sessions WHERE {column} >= :{column} ORDER BY {column} LIMIT 1)"
    condition = _CONDITION.format("").removeprefix(" AND ")
    return {
        False: f"{select} WHERE {column} = :{column}",
        True: f"{select} WHERE rowid = {nearest} AND {condition} AND {column} = :{column}",
    }


def is_narrow(scope: Scope) -> bool:
    """Whether a scope leaves anything out."""
    return scope != EVERYTHING


def named(scope: Scope, **values: object) -> dict[str, object]:
    """The parameters of a statement of `in_scope`."""
    return values if scope == EVERYTHING else values | scope._asdict()
