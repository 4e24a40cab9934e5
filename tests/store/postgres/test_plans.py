"""No statement of the service reads a whole table: the plans that PostgreSQL makes for them, whatever their
parameters, in a store that has some content.
"""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from server.store import postgres
from tests.store.postgres.opened import Cluster

pytestmark = pytest.mark.postgres

LARGE = ("sessions", "log", "deliveries", "requests", "commits", "agents")
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
INSERT INTO session_counts SELECT 'live', '', md5('u' || n), 't', 0, 1 FROM generate_series(1, 20000) AS n;
"""  # noqa: E501
"""Most have expired, as in a store that has run for a while."""


def statements() -> Iterator[tuple[str, str]]:
    for path in sorted(Path(postgres.__file__).parent.glob("*.py")):
        module = importlib.import_module(f"server.store.postgres.{path.stem}")
        yield from getattr(module, "STATEMENTS", {}).items()


STATEMENTS = dict(statements())


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


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(link: "psycopg.Connection[Any]", statement: str) -> list[str]:
    """The large tables that a statement reads from end to end."""
    ((plan,),) = link.execute(
        f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered(statement)}".encode()
    ).fetchall()
    found = json.loads(plan) if isinstance(plan, str) else plan
    return [
        node["Relation Name"]
        for node in nodes(found[0]["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in LARGE
    ]


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_reads_a_whole_table(filled: "psycopg.Connection[Any]", name: str) -> None:
    assert scans(filled, STATEMENTS[name]) == []


def test_a_statement_that_does_is_found(filled: "psycopg.Connection[Any]") -> None:
    assert scans(filled, "SELECT count(*) FROM sessions WHERE metadata = %s") == ["sessions"]


def test_updates_of_a_message_stay_within_their_page(filled: "psycopg.Connection[Any]") -> None:
    """No index has anything that a message changes."""
    changing = {"last_activity_ms", "renewed_at_ms", "expires_at_ms", "renewal_count", "last_sequence"}
    changing |= {"last_entry_ms", "open_deliveries", "stored_bytes", "warned"}
    found = filled.execute(
        "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey) "
        "WHERE indrelid = 'sessions'::regclass"
    ).fetchall()
    assert not changing & {name for (name,) in found}
