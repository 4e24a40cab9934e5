"""The scope of a call as a condition in SQL, so that another's session takes as long as nobody's."""

from typing import Final

from server.domain.access import EVERYTHING, Scope

_CONDITION: Final = (
    " AND (%(in_tenant)s::text IS NULL OR {0}tenant = %(in_tenant)s::text) "
    "AND (%(of_user)s::uuid IS NULL OR {0}user_id = %(of_user)s::uuid) "
    "AND (%(of_agent)s::uuid IS NULL OR {0}agent_id = %(of_agent)s::uuid) "
    "AND (%(of_session)s::uuid IS NULL OR {0}id = %(of_session)s::uuid)"
)


def in_scope(statement: str, table: str = "") -> dict[bool, str]:
    """A statement by whether it is for a narrower scope than EVERYTHING.

    `{}` in it stands for the condition of the scope, on the columns of `table`.
    """
    condition = _CONDITION.format(table and f"{table}.")
    return {False: statement.replace("{}", ""), True: statement.replace("{}", condition)}


def named(scope: Scope, **values: object) -> dict[str, object]:
    """The parameters of a statement of `in_scope`."""
    if scope == EVERYTHING:
        return values
    return values | {
        "in_tenant": scope.tenant,
        "of_user": scope.user_id,
        "of_agent": scope.agent_id,
        "of_session": scope.session_id,
    }
