"""Our SQL keeps to what the engines can do that shard a database: CockroachDB, YugabyteDB, Citus."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from server.store import postgres

DIRECTORY = Path(postgres.__file__).parent

FORBIDDEN = {
    "a sequence": r"\b(nextval|setval|currval|CREATE SEQUENCE|\w*serial\b|GENERATED [A-Z ]+ AS IDENTITY)",
    "a trigger or a rule": r"\b(CREATE (OR REPLACE )?(CONSTRAINT )?TRIGGER|CREATE (OR REPLACE )?RULE)\b",
    "a stored function": r"\bCREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b",
    "an advisory lock": r"\bpg_\w*advisory\w*",
    "a foreign key": r"\b(REFERENCES|FOREIGN KEY)\b",
    "a lock of a table": r"\bLOCK TABLE\b",
    "a place in the file": r"\b(ctid|oid)\b",
    "a temporary table": r"\bCREATE (TEMP|TEMPORARY)\b",
}
OF_OTHERS = ("requests",)
"""Tables that have a session's id, and are led by another one."""
WAITED_FOR = ("sessions", "session_counts", "schema_version", "agents")
"""What may be waited for: sessions first, in the order of their ids, then the others; see `group`."""


def sources() -> Iterator[tuple[str, str]]:
    """Each text that may be SQL, with the file that it is from."""
    for path in DIRECTORY.glob("*.py"):
        tree = ast.parse(path.read_text())
        documents = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
                yield path.name, node.value
    for path in DIRECTORY.rglob("*.sql"):
        yield path.name, re.sub(r"--.*", "", path.read_text())


def statements() -> Iterator[tuple[str, str]]:
    """The statements that modules name for the tests of their plans."""
    import importlib

    for path in sorted(DIRECTORY.glob("*.py")):
        module = importlib.import_module(f"server.store.postgres.{path.stem}")
        yield from getattr(module, "STATEMENTS", {}).items()


PLANTED = {
    "a sequence": (
        "CREATE TABLE a (id bigserial PRIMARY KEY)",
        "id bigint GENERATED ALWAYS AS IDENTITY",
        "SELECT nextval('numbers')",
        "CREATE SEQUENCE numbers",
    ),
    "a trigger or a rule": (
        "CREATE TRIGGER t AFTER INSERT",
        "CREATE CONSTRAINT TRIGGER t",
        "CREATE OR REPLACE RULE r AS ON INSERT",
    ),
    "a stored function": ("CREATE FUNCTION f() RETURNS int", "create or replace procedure p()"),
    "an advisory lock": (
        "SELECT pg_try_advisory_xact_lock(1)",
        "select pg_advisory_unlock_all()",
    ),
    "a foreign key": ("id uuid REFERENCES sessions (id)", "ADD FOREIGN KEY (id)"),
    "a lock of a table": ("LOCK TABLE sessions",),
    "a place in the file": ("DELETE FROM log WHERE ctid = ANY(%s)",),
    "a temporary table": ("CREATE TEMP TABLE t (id int)", "CREATE TEMPORARY TABLE t (id int)"),
}
"""A breach of each, which the search has to find."""


def breaches(what: str, texts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The texts that have what is forbidden."""
    return [(name, text) for name, text in texts if re.search(FORBIDDEN[what], text, re.IGNORECASE)]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_is_used_that_a_sharded_database_has_not(what: str) -> None:
    assert breaches(what, sources()) == []
    for planted in PLANTED[what]:
        assert breaches(what, [("planted", planted)]), planted


def scripts() -> str:
    return "".join(text for name, text in sources() if name.endswith(".sql"))


def not_led(script: str) -> list[str]:
    """The tables and unique indexes of sessions that are not led by a session's id."""
    found = []
    of_sessions: dict[str, str] = {}
    for table, body in re.findall(r"CREATE TABLE (\w+) \(([^;]*)\)[^;)]*;", script):
        if table == "sessions":
            of_sessions[table] = "id"
        elif re.search(r"\bsession_id uuid", body) and table not in OF_OTHERS:
            of_sessions[table] = "session_id"
        if key := of_sessions.get(table):
            is_led = re.search(rf"PRIMARY KEY \({key}\b|\b{key} uuid PRIMARY KEY", body)
            if not is_led or re.search(r"\bUNIQUE\b", body):
                found.append(table)
    assert {"sessions", "log", "deliveries"} <= of_sessions.keys()
    for name, table, column in re.findall(r"CREATE UNIQUE INDEX (\w+) ON (\w+) \((\w+)", script):
        if table in of_sessions and column != of_sessions[table]:
            found.append(name)
    return found


def test_every_table_of_a_session_is_led_by_its_id() -> None:
    script = scripts()
    assert not_led(script) == []
    planted = (
        "CREATE TABLE notes (\n    id uuid PRIMARY KEY,\n    session_id uuid NOT NULL\n);\n",
        "CREATE TABLE notes (\n    session_id uuid,\n    id uuid,\n    PRIMARY KEY (id, session_id)\n);\n",
        "CREATE UNIQUE INDEX notes ON log (message_id);\n",
        "CREATE UNIQUE INDEX notes ON sessions (channel_id);\n",
    )
    for one in planted:
        assert not_led(script + one) == ["notes"], one


def notifying(texts: Iterable[tuple[str, str]]) -> set[str]:
    """The files with a statement that notifies."""
    return {name for name, text in texts if re.search(r"notify\(|\bNOTIFY\b", text, re.IGNORECASE)}


def test_only_the_announcer_notifies() -> None:
    """In a transaction that writes, a NOTIFY has all commits of the cluster stand in line."""
    assert notifying(sources()) == {"announcer.py"}
    assert notifying([("a", "SELECT PG_NOTIFY('x', '')"), ("b", "NOTIFY x"), ("c", "notified")]) == {"a", "b"}


def unordered(locking: Iterable[tuple[str, str]]) -> list[str]:
    """The names of statements that wait for rows in no order, or for those of other tables."""
    found = []
    for name, text in locking:
        for clause in re.findall(r"FOR (?:NO KEY )?UPDATE(?: OF \w+)?(?: SKIP LOCKED)?", text):
            if clause.endswith("SKIP LOCKED"):
                continue
            table = re.search(r"FROM (?:.* JOIN )?(\w+)", text)
            is_waited_for = table is not None and table[1] in WAITED_FOR
            if not is_waited_for or not re.search(r"ORDER BY|WHERE id = (?!ANY)", text):
                found.append(name)
    return found


def test_what_is_locked_is_waited_for_in_one_order_or_passed_over() -> None:
    locking = {name: text for name, text in statements() if "FOR UPDATE" in text}
    assert len(locking) > 8
    assert unordered(locking.items()) == []
    planted = {
        "no order": "SELECT 1 FROM sessions WHERE id = ANY(%s) FOR UPDATE",
        "another table": "SELECT 1 FROM deliveries ORDER BY session_id FOR UPDATE",
        "weaker": "SELECT 1 FROM log ORDER BY session_id FOR NO KEY UPDATE",
        "passed over": "SELECT 1 FROM log FOR UPDATE SKIP LOCKED",
        "in order": "SELECT 1 FROM sessions ORDER BY id FOR UPDATE",
    }
    assert unordered(planted.items()) == ["no order", "another table", "weaker"]
