"""pgbench, which comes with PostgreSQL: the service's statements one after the other, in a transaction for
each message, as a program without groups would send them.
"""

import re
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from server.store.postgres import rows
from tests.campaigns.load.postgres_subjects import Load, database_cpu
from tests.campaigns.load.programs.store_callers import CONTENT
from tests.support.postgres import PostgresServer

_SESSION: Final = ", ".join(rows.SESSION)
_FIND: Final = f"SELECT {_SESSION} FROM sessions WHERE id = md5('s' || :number)::uuid"
_NOW: Final = "greatest(:last_entry_ms::bigint + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"
_SIZE: Final = len(CONTENT) + len("{}")
SCRIPTS: Final = {
    "get": f"\\set number random(1, :sessions)\n{_FIND};\n",
    "send": f"""\\set number random(1, :sessions)
BEGIN;
{_FIND} FOR UPDATE \\gset
UPDATE sessions SET last_activity_ms = {_NOW}, renewed_at_ms = {_NOW}, expires_at_ms = {_NOW} + 1800000,
    renewal_count = renewal_count + 1, last_sequence = last_sequence + 1, last_entry_ms = {_NOW},
    open_deliveries = open_deliveries + 1, stored_bytes = stored_bytes + {_SIZE} WHERE id = :id;
INSERT INTO log (session_id, sequence, at_ms, kind, expires_at_ms, renewal_count, was_renewed,
    is_near_expiration, size, message_id, is_agent, content, metadata) VALUES (:id, :last_sequence + 1,
    {_NOW}, 'message', {_NOW} + 1800000, :renewal_count::integer + 1, true, false, {_SIZE},
    gen_random_uuid()::text, false, '{CONTENT}', '{{}}');
INSERT INTO deliveries (session_id, sequence, agent_id, state, attempts, due_at_ms, lost_connections,
    head_due_ms) VALUES (:id, :last_sequence + 1, :agent_id, 'pending', 0, {_NOW}, 0,
    CASE WHEN :open_deliveries::integer = 0 THEN {_NOW} END);
COMMIT;
""",
}
"""What a call does to the tables, as the store's lanes do it: the session locked and read, changed, its entry
and its delivery added.
"""
THREADS: Final = 2
FEW: Final = 3


def drive(
    server: PostgresServer, database: str, what: str, clients: int, sessions: int, seconds: int
) -> Load:
    """Runs a script of SCRIPTS by so many clients, each statement prepared; for 0 s: a few times each.

    PostgreSQL's CPU is what it takes beyond a run of one transaction a client: connections cost as much as
    many of these. Raises RuntimeError.
    """
    limit = ["--time", str(seconds)] if seconds else ["--transactions", str(FEW)]
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "script"
        script.write_text(SCRIPTS[what])
        command = [
            *(str(server.binaries / "pgbench"), "--no-vacuum", "--protocol", "prepared"),
            *("--client", str(clients), "--jobs", str(min(THREADS, clients)), "--file", str(script)),
            *("--define", f"sessions={sessions}", "--username", "eliza", "--host", "127.0.0.1"),
            *("--port", str(server.port)),
        ]
        _, connecting, _ = _run(server, [*command, "--transactions", "1", database])
        text, spent, own = _run(server, [*command, *limit, database])
    done = int(_found(r"actually processed: (\d+)", text))
    if failed := int(_found(r"failed transactions: (\d+)", text)):
        raise RuntimeError(f"{failed} transactions of pgbench have failed")
    return Load(
        done=done,
        rate=float(_found(r"tps = ([\d.]+)", text)),
        own_us=own / done * 1e6,
        database_us=max(spent - connecting, 0) / max(done - clients, 1) * 1e6,
        details={"mean ms": float(_found(r"latency average = ([\d.]+)", text))},
    )


def _run(server: PostgresServer, command: list[str]) -> tuple[str, float, float]:
    """What pgbench prints, and the CPU seconds of PostgreSQL and its own."""
    before, before_own = database_cpu(server), _own_cpu()
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise RuntimeError(f"pgbench has failed: {told.stdout}{told.stderr}")
    return told.stdout, database_cpu(server) - before, _own_cpu() - before_own


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"pgbench did not end as it should: {text}")
    return found[1]
