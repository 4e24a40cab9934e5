"""No statement of the service reads a whole table: the plans that PostgreSQL makes for them, whatever their
parameters, in a store that has some content.
"""

import ast
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.store import postgres
from server.store.postgres.group import begin
from server.store.postgres.place import Place
from tests.store.postgres.opened import Cluster
from tests.support.plans import reads_whole

pytestmark = pytest.mark.postgres

LARGE = (
    *("sessions", "log", "deliveries", "requests", "commits", "agents"),
    *("session_counts", "removed_sessions"),
)
SESSIONS = 60_000
FILL = f"""
INSERT INTO sessions SELECT md5('s' || n)::uuid, md5('c' || n)::uuid, md5('a' || n % 20)::uuid, md5('u' || n % 5000)::uuid,
    't' || n % 3, '{{}}', 30, true, 720, 5, n, n, n, n + 1800000, 0, false, n % 10 > 0, 4, n, (n % 50 = 0)::int, 0, (n % 500 = 0)::int,
    CASE WHEN n % 100 = 0 THEN 60000 END, CASE WHEN n % 10 = 0 THEN n + 1800000 END,
    CASE WHEN n % 10 > 0 THEN n + 1800000 END, NULL
    FROM generate_series(1, {SESSIONS}) AS n;
INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed, is_near_expiration, size,
    message_id, is_agent, content, metadata, answers)
    SELECT md5('s' || n)::uuid, m, n + m, 'message', 1, 0, true, false, 10, 'm', m % 2 = 0, 'content', '{{}}',
    CASE WHEN m % 2 = 0 THEN m - 1 END FROM generate_series(1, {SESSIONS}) AS n, generate_series(1, 4) AS m;
INSERT INTO deliveries SELECT md5('s' || n)::uuid, m, md5('a' || n % 20)::uuid,
    CASE WHEN n % 50 = 0 AND m = 3 THEN 'pending' ELSE 'answered' END, 0, CASE WHEN n % 50 = 0 AND m = 3 THEN n END, 0, NULL, NULL,
    CASE WHEN n % 50 = 0 AND m = 3 THEN n END, NULL FROM generate_series(1, {SESSIONS}) AS n, generate_series(1, 3, 2) AS m;
INSERT INTO requests SELECT 'session:' || n, 'r', 'f', '1', n, md5('s' || n)::uuid FROM generate_series(1, {SESSIONS}) AS n;
INSERT INTO commits SELECT md5('t' || n)::uuid, true FROM generate_series(1, {SESSIONS}) AS n;
INSERT INTO agents SELECT md5('a' || n)::uuid, 'a', 'echo', n, n, NULL, NULL, NULL, NULL, NULL, NULL, 't' || n % 100
    FROM generate_series(1, 5000) AS n;
INSERT INTO session_counts SELECT 'live', '', md5('u' || n), 't', 0, 1 FROM generate_series(1, {SESSIONS}) AS n;
INSERT INTO removed_sessions SELECT md5('r' || n)::uuid FROM generate_series(1, {SESSIONS}) AS n;
"""  # noqa: E501
"""Most have expired, as in a store that has run for a while."""


MODULES = {path.stem: path for path in Path(postgres.__file__).parent.glob("*.py") if path.stem != "__init__"}
NOT_SERVING = {
    "check": "`eliza-sessions check` reads everything",
    "copying": "`eliza-sessions copy-store` reads and writes all of a store that nobody serves",
    "schema": "makes and migrates the tables before anything is served",
}
"""Modules whose statements are not looked at."""
WHOLE = {
    "deliveries._COUNT_OPEN": "called once, at the start; reads what is open, from an index of that",
    "deliveries._OLDEST_OPEN": "for metrics; reads what is open, from an index of that",
    "deliveries._GIVE_BACK": "reads what servers have in hand, from an index of that",
    "removal._CLEAR": "a setting of those who try the service out",
}
"""Statements that may read all of something, and why."""
VERBS = re.compile(r"\(?(SELECT|INSERT|UPDATE|DELETE|WITH|TRUNCATE)\b")


def texts(name: str, value: object) -> Iterator[tuple[str, str]]:
    """The texts in a constant of a module, by where they are."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from texts(f"{name}[{key}]", inner)
    elif isinstance(value, tuple | list):
        for number, inner in enumerate(value):
            yield from texts(f"{name}[{number}]", inner)


def statements() -> dict[str, str]:
    """Every statement that a constant of the back end holds, by its name; parts of others are not."""
    found: dict[str, str] = {}
    for module in sorted(MODULES):
        if module in NOT_SERVING:
            continue
        constants = vars(importlib.import_module(f"server.store.postgres.{module}")).items()
        for name, text in (one for item in constants if item[0] != "STATEMENTS" for one in texts(*item)):
            # A text with `{}` is a form for others.
            if VERBS.match(text) and "{}" not in text and text not in found.values():
                found[f"{module}.{name}"] = text
    return {
        name: text
        for name, text in found.items()
        if not any(text in other for other in found.values() if other != text)
    }


STATEMENTS = statements()


def numbered(statement: str) -> str:
    """A statement with the server's own marks for its parameters."""
    names: list[str] = []

    def mark(found: "re.Match[str]") -> str:
        name = found[1] or f"{len(names)}"
        if found[1] is None or name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return re.sub(r"%(?:\((\w+)\))?s", mark, statement).replace("%%", "%")


@pytest.fixture(scope="module")
def filled(cluster: Cluster) -> Iterator["psycopg.Connection[Any]"]:
    name = cluster.server.make_database(cluster.template)
    with psycopg.connect(cluster.server.url(name), autocommit=True) as link:
        link.execute(FILL.encode())
        link.execute("VACUUM ANALYZE")
        yield link
    cluster.server.remove_database(name)


def explained(link: "psycopg.Connection[Any]", statement: str) -> dict[str, Any]:
    """The plan that PostgreSQL makes for a statement, whatever its parameters."""
    ((plan,),) = link.execute(
        f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}".encode()
    ).fetchall()
    found: dict[str, Any] = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return found


def scans(link: "psycopg.Connection[Any]", statement: str) -> list[str]:
    """The large tables that a statement reads from end to end."""
    return list(reads_whole(explained(link, statement), LARGE))


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - WHOLE.keys()))
def test_no_statement_reads_a_whole_table(filled: "psycopg.Connection[Any]", name: str) -> None:
    assert scans(filled, STATEMENTS[name]) == []


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("SELECT count(*) FROM sessions WHERE metadata = %s", "sessions"),
        # By an index, all of it.
        ("SELECT session_id FROM deliveries WHERE state IN ('pending', 'leased')", "deliveries"),
        ("SELECT id FROM sessions WHERE metadata = %s ORDER BY id LIMIT 1", "sessions"),
        ("SELECT sum(sequence) FROM (SELECT * FROM log ORDER BY session_id, sequence) AS ordered", "log"),
    ],
)
def test_a_statement_that_does_is_found(
    filled: "psycopg.Connection[Any]", statement: str, table: str
) -> None:
    assert scans(filled, statement) == [table]


def test_a_look_at_the_first_rows_is_none(filled: "psycopg.Connection[Any]") -> None:
    assert scans(filled, "SELECT id FROM sessions ORDER BY id LIMIT 1 FOR UPDATE") == []


Function = ast.FunctionDef | ast.AsyncFunctionDef


def hidden_statements(source: str) -> list[str]:
    """The functions of a module that put statements together when they are called, so that no constant has
    these: all with SQL in them but those which only other constants are made with.
    """
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    builders = [one for one in functions if any(VERBS.match(text) for text in constants(one))]
    called = {
        node.id
        for one in functions
        if one not in builders
        for node in ast.walk(one)
        if isinstance(node, ast.Name)
    }
    return [one.name for one in builders if isinstance(one, ast.AsyncFunctionDef) or one.name in called]


def constants(function: Function) -> Iterator[str]:
    """The texts in a function."""
    for node in ast.walk(function):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("module", sorted(MODULES.keys() - NOT_SERVING.keys()))
def test_every_statement_is_in_a_constant(module: str) -> None:
    """So that the test of the plans has it."""
    assert hidden_statements(MODULES[module].read_text()) == []


def test_a_statement_in_a_function_is_found() -> None:
    assert hidden_statements("async def read(link):\n    await link.execute('SELECT 1 FROM log')") == ["read"]
    built = "def _of(table):\n    return f'SELECT 1 FROM {table}'\n"
    assert hidden_statements(f"{built}LOG = _of('log')") == []
    assert hidden_statements(f"{built}async def read(link):\n    await link.execute(_of('log'))") == ["_of"]


@pytest.mark.parametrize("prepares", [True, False])
async def test_a_group_does_not_read_a_small_table_whole_either(database: str, prepares: bool) -> None:
    """As the service connects, also by a pooler: a message costs no more while the store is small."""
    whole = {}
    link = await Place(database, prepares=prepares).connect("test")
    try:
        await begin(link)
        for name, statement in STATEMENTS.items():
            if name.startswith(("group.", "counts.")):
                text = f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}"
                ((plan,),) = await (await link.execute(text.encode(), prepare=False)).fetchall()
                whole[name] = list(reads_whole(plan[0]["Plan"], LARGE))
    finally:
        await link.close()
    assert "group._UPDATE_SESSIONS" in whole
    assert {name: tables for name, tables in whole.items() if tables} == {}


def test_updates_of_a_message_stay_within_their_page(filled: "psycopg.Connection[Any]") -> None:
    """No index has anything that a message changes."""
    changing = {"last_activity_ms", "renewed_at_ms", "expires_at_ms", "renewal_count", "last_sequence"}
    changing |= {"last_entry_ms", "open_deliveries", "stored_bytes", "warned"}
    found = filled.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey) "
        "WHERE indrelid = 'sessions'::regclass"
    ).fetchall()
    assert not changing & {name for (name,) in found}
