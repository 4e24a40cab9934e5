"""Our SQL keeps to what the engines can do that shard a database: CockroachDB, YugabyteDB, Citus."""

import ast
import re
from collections.abc import Iterator
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
OF_SESSIONS = ("sessions", "log", "deliveries")
SMALL = ("sessions", "session_counts", "schema_version", "agents")
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


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_is_used_that_a_sharded_database_has_not(what: str) -> None:
    found = [(name, text) for name, text in sources() if re.search(FORBIDDEN[what], text, re.IGNORECASE)]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a sequence", "CREATE TABLE a (id bigserial PRIMARY KEY)"),
        ("a sequence", "id bigint GENERATED ALWAYS AS IDENTITY"),
        ("an advisory lock", "SELECT pg_try_advisory_xact_lock(1)"),
        ("a foreign key", "id uuid REFERENCES sessions (id)"),
        ("a trigger or a rule", "CREATE TRIGGER t AFTER INSERT"),
    ],
)
def test_the_search_finds_what_it_looks_for(what: str, text: str) -> None:
    assert re.search(FORBIDDEN[what], text, re.IGNORECASE)


def test_every_table_of_a_session_is_led_by_its_id() -> None:
    script = "".join(text for name, text in sources() if name.endswith(".pre.sql"))
    for table in OF_SESSIONS:
        body = re.search(rf"CREATE TABLE {table} \((.*?)\n\)", script, re.DOTALL)
        assert body, table
        first = body[1].split()[0]
        assert first in ("id", "session_id"), table
        assert re.search(rf"PRIMARY KEY \({first}|^\s*{first} uuid PRIMARY KEY", body[1]), table


def test_only_the_announcer_notifies() -> None:
    """In a transaction that writes, a NOTIFY has all commits of the cluster stand in line."""
    assert {name for name, text in sources() if re.search(r"notify\(|\bNOTIFY\b", text)} == {"announcer.py"}


def test_what_is_locked_is_waited_for_in_one_order_or_passed_over() -> None:
    locking = {name: text for name, text in statements() if "FOR UPDATE" in text}
    assert len(locking) > 8
    for name, text in locking.items():
        for clause in re.findall(r"FOR UPDATE(?: OF \w+)?(?: SKIP LOCKED)?", text):
            if clause.endswith("SKIP LOCKED"):
                continue
            table = re.search(r"FROM (?:.* JOIN )?(\w+)", text)
            assert table, name
            assert table[1] in SMALL, name
            assert "ORDER BY" in text or "WHERE id = " in text, name
