"""How SQLite carries out the statements of the store, by its own word (EXPLAIN QUERY PLAN)."""

import ast
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

from server.store.sqlite import store as sqlite

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
_NOT_OF_THE_STORE: Final = {"check.py", "compact.py", "copy.py", "copying.py"}
"""Modules of commands that are meant to read everything."""

ONE_ROW: Final = {
    "sessions": {
        "sqlite_autoindex_sessions_1 (id=?)",
        "sqlite_autoindex_sessions_2 (channel_id=?)",
        "INTEGER PRIMARY KEY (rowid=?)",
    },
    "log": {
        "log_by_sequence (session_id=? AND sequence=?)",
        "log_of_replies (session_id=? AND answers=?)",
        "log_of_failures (session_id=? AND failed_sequence=?)",
        "INTEGER PRIMARY KEY (rowid=?)",
    },
    "deliveries": {"PRIMARY KEY (session_id=? AND sequence=?)"},
    "requests": {"PRIMARY KEY (scope=? AND id=?)"},
    "agents": {"sqlite_autoindex_agents_1 (id=?)"},
    "removed_sessions": {"sqlite_autoindex_removed_sessions_1 (id=?)"},
    "session_counts": {"PRIMARY KEY (state=? AND agent_id=? AND user_id=? AND tenant=?)"},
}
"""Searches that find one row at most, by table."""

IN_ORDER: Final = {
    "SEARCH log USING INDEX log_by_sequence (session_id=? AND sequence>?)": "a page of the log",
    "SEARCH log USING INDEX log_of_messages (session_id=? AND at_ms>? AND at_ms<?)": "a page of messages",
    "SEARCH log USING INDEX log_by_place (session_id=? AND place<?)": "the latest messages of a conversation",
    "SEARCH sessions USING INDEX sessions_live (tenant=? AND (created_at_ms,id)>(?,?))": "a page of sessions",
    "SEARCH sessions USING INDEX sessions_of_agent "
    "(agent_id=? AND tenant=? AND (created_at_ms,id)>(?,?))": "a page of sessions",
    "SEARCH sessions USING INDEX sessions_of_user "
    "(user_id=? AND tenant=? AND expired=? AND (created_at_ms,id)>(?,?))": "a page of sessions",
    "SEARCH sessions USING INDEX sessions_of_user "
    "(user_id=? AND tenant=? AND expired=? AND (created_at_ms,id)<(?,?))": "a page of a user's sessions",
    "SEARCH sessions USING INDEX sessions_of_agent_and_user (agent_id=? AND user_id=? AND tenant=? AND "
    "(created_at_ms,id)>(?,?))": ("a page of sessions"),
    "SEARCH sessions USING INDEX sqlite_autoindex_sessions_1 (id>?)": "the next session, one row; "
    "or a search by the beginning of an id, MAX_LOOKED_AT rows",
    "SEARCH sessions USING INDEX sessions_live (tenant=? AND (created_at_ms,id)<(?,?))": "a search",
    "SEARCH sessions USING INDEX sessions_ended (tenant=? AND (created_at_ms,id)<(?,?))": "a search",
    "SEARCH sessions USING INDEX sessions_of_agent "
    "(agent_id=? AND tenant=? AND (created_at_ms,id)<(?,?))": "a search",
    "SEARCH sessions USING INDEX sessions_ended_of_agent "
    "(agent_id=? AND tenant=? AND (created_at_ms,id)<(?,?))": "a search",
    "SEARCH sessions USING INDEX sessions_of_agent_and_user (agent_id=? AND user_id=? AND tenant=? AND "
    "(created_at_ms,id)<(?,?))": "a search",
    "SEARCH sessions USING COVERING INDEX sessions_of_user "
    "(user_id=? AND tenant=? AND expired=? AND (created_at_ms,id)<(?,?))": "a search",
    "SEARCH deliveries USING INDEX deliveries_failed (session_id=? AND sequence<?)": "a page of a session's",
    "SEARCH deliveries USING INDEX deliveries_open (session_id=? AND sequence<?)": "a page of a session's",
    "SEARCH deliveries USING INDEX deliveries_failed (session_id=? AND sequence>?)": "a page of an agent's",
    "SEARCH deliveries USING INDEX deliveries_open (session_id=? AND sequence>?)": "a page of an agent's",
    "SEARCH sessions USING INDEX sessions_by_head (agent_id=? AND (head_due_ms,head_sequence)>(?,?))": "as "
    "above, MAX_LOOKED_AT sessions",
    "SEARCH sessions USING INDEX sessions_failed "
    "(agent_id=? AND tenant=? AND (created_at_ms,id)<(?,?))": "as above",
    "SEARCH sessions USING INDEX sessions_failed (agent_id=? AND (tenant,created_at_ms,id)<(?,?,?))": "as "
    "above",
    "SEARCH sessions USING INDEX sessions_failed (agent_id=?)": "how many have failed, up to MAX_QUEUED",
    "SEARCH sessions USING INDEX sessions_failed (agent_id=? AND tenant=?)": "as above",
    "SEARCH sessions USING COVERING INDEX "
    "sqlite_autoindex_sessions_2 (channel_id>?)": "the next session, one row",
    "SEARCH deliveries USING PRIMARY KEY (session_id=? AND sequence<?)": "how many messages, up to a limit",
    "SEARCH log USING COVERING INDEX log_of_replies "
    "(session_id=? AND answers<?)": "how many replies, up to a limit",
    "SEARCH deliveries USING INDEX "
    "deliveries_open (session_id=?)": "the first open delivery, or all that end with their session",
    "SEARCH sessions USING INDEX sessions_by_head (agent_id=? AND head_due_ms<?)": "deliveries that are due",
    "SEARCH sessions USING INDEX sessions_by_head "
    "(agent_id=? AND head_due_ms>?)": "the earliest that is due, behind those in hand",
    "SCAN sessions USING INDEX sessions_by_head": "count_open reads all sessions with open deliveries, once "
    "at the start and off the loop",
    "SEARCH sessions USING INDEX sessions_by_head": "oldest_open_ms reads as many, as rarely",
    "SEARCH sessions USING INDEX sessions_by_due (due_at_ms<?)": "those that are due",
    "SEARCH sessions USING COVERING INDEX sessions_by_due (due_at_ms>?)": "the earliest that is due",
    "SEARCH agents USING INDEX agents_by_creation ((created_at_ms,id)>(?,?))": "a page of agents",
    "SEARCH agents USING INDEX agents_of_tenant (tenant=? AND (created_at_ms,id)>(?,?))": "a page of agents",
    "SEARCH agents USING COVERING INDEX agents_of_tenant (tenant=?)": "how many there are, up to a quota",
    "SEARCH sessions USING INDEX sessions_of_user (user_id=?)": "a step of an erase",
    "SCAN pending_rewrite": "it has one row at most",
    "SEARCH session_counts USING PRIMARY KEY (state=? AND agent_id=? AND user_id=?)": "one of each tenant",
    "SEARCH requests USING COVERING INDEX requests_by_age (created_at_ms<?)": "a step of forgetting requests",
    "SEARCH sessions USING INDEX "
    "sessions_expired (expires_at_ms<?)": "a step of the purge: those that expired first",
    "SEARCH sessions USING INDEX "
    "sessions_kept (<expr><?)": "a step of the purge: those whose own retention ended first",
    "SCAN removed_sessions": "a step of the purge: the first ones, up to a limit, in the order of the table",
    "SEARCH requests USING COVERING INDEX requests_by_session (session_id=?)": "a step of the purge",
    "SEARCH deliveries USING PRIMARY KEY (session_id=?)": "a step of the purge",
    "SEARCH log USING COVERING INDEX log_by_sequence (session_id=?)": "a step of the purge",
}
"""Searches of more than one row that use the intended index: they read what they give out, up to a limit, and
in order.
"""

SCANS: Final = {
    "DELETE FROM requests": "clear_sessions removes everything",
    "DELETE FROM deliveries": "clear_sessions removes everything",
    "DELETE FROM log": "clear_sessions removes everything",
    "DELETE FROM sessions": "clear_sessions removes everything",
    "DELETE FROM removed_sessions": "clear_sessions removes everything",
    "DELETE FROM session_counts": "clear_sessions removes everything",
}
"""Statements that are meant to read whole tables."""

_NO_ACCESS = re.compile(
    r"(SCAN \w+ VIRTUAL TABLE INDEX 1:|SCAN removed|SCAN CONSTANT ROW|SCAN \d+ CONSTANT ROWS|"
    r"MATERIALIZE item|CO-ROUTINE item|SCAN item|LIST SUBQUERY \d+|CO-ROUTINE removed|"
    r"(CORRELATED )?SCALAR SUBQUERY \d+|"
    r"COMPOUND QUERY|LEFT-MOST SUBQUERY|UNION ALL|USING INDEX .* FOR IN-OPERATOR)"
)
"""Lines of a plan that say nothing of a table: JSON and rows (`item`) that were handed over, and steps of the
purge in memory.
"""


class Explaining(sqlite3.Connection):
    """A connection that explains each statement when it is executed first."""

    plans: dict[str, list[str]]

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if _STATEMENT.match(statement) and statement not in self.plans:
            explained = super().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            self.plans[statement] = [row[3] for row in explained.fetchall()]
        return super().execute(statement, parameters)


@contextmanager
def explaining() -> Iterator[dict[str, list[str]]]:
    """Has the stores that are opened in the block explain their statements; yields their plans
    by statement.
    """
    plans: dict[str, list[str]] = {}
    kind = type("Explaining", (Explaining,), {"plans": plans})
    connect = sqlite3.connect
    with mock.patch.object(sqlite3, "connect", lambda *args, **named: connect(*args, factory=kind, **named)):
        yield plans


def bad_steps(statement: str, plan: list[str]) -> list[str]:
    """The steps of a plan that are not known to be bounded: scans, sorting, and searches by anything but the
    intended index.
    """
    return [] if statement in SCANS else [step for step in plan if not _is_known(step)]


def _is_known(step: str) -> bool:
    if step in IN_ORDER or _NO_ACCESS.fullmatch(step):
        return True
    found = re.fullmatch(r"SEARCH (\w+) USING (?:COVERING )?(?:INDEX )?(.*?)(?: LEFT-JOIN)?", step)
    return bool(found) and found[2] in ONE_ROW.get(found[1], ())


def statements_in_source() -> dict[str, re.Pattern[str]]:
    """A pattern of each statement in the store's source, by where it stands: whatever the source fills in may
    be anything.
    """
    found: dict[str, re.Pattern[str]] = {}
    for path in sorted(Path(sqlite.__file__).parent.glob("*.py")):
        if path.name in _NOT_OF_THE_STORE:
            continue
        tree = ast.parse(path.read_text())
        for node in _texts(tree):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if isinstance(fixed[0], str) and _STATEMENT.match(fixed[0]):
                pattern = "".join(".*" if text is None else re.escape(text) for text in fixed)
                # A scope's condition, see `scopes.in_scope`.
                pattern = pattern.replace(re.escape("{}"), ".*")
                found[f"{path.name}:{node.lineno}"] = re.compile(pattern, re.DOTALL)
    return found


def _texts(node: ast.AST) -> Iterator[ast.JoinedStr | ast.Constant]:
    """The texts in a tree, but not the pieces of an f-string by themselves."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr) or (
            isinstance(child, ast.Constant) and isinstance(child.value, str)
        ):
            yield child
        else:
            yield from _texts(child)
