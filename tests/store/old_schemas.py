"""Stores as services of earlier schemas left them."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from unittest import mock

from server.store.sqlite import file as sqlite_file
from tests.support.inside_sqlite import all_migrations
from tests.unit.samples import AGENT, MINUTE, T0, USER

LIVE: Final = "10000000-0000-4000-8000-000000000001"
EXPIRED: Final = "10000000-0000-4000-8000-000000000002"
GONE: Final = "10000000-0000-4000-8000-000000000003"
"""The id of a session that was deleted under schema 4, which left its requests."""

_EXPIRY_MS = T0 + 30 * MINUTE

WRITTEN: Final = {
    1: f"""
INSERT INTO agents VALUES ('{AGENT}', 'old', 'echo', {T0}, {T0}, 45.0, 0, NULL, NULL);
INSERT INTO sessions VALUES ('{LIVE}', '{LIVE}', '{AGENT}', '{USER}', '{{"a":1}}', 30.0, 1, 720.0, 5.0, {T0}, {T0 + 2}, {T0 + 2},
    {T0 + 2 + 30 * MINUTE}, 2, 0, 0, 2, {T0 + 2}, {T0 + 2 + 25 * MINUTE});
INSERT INTO log VALUES ('{LIVE}', 1, {T0 + 1}, 'message', {_EXPIRY_MS}, 1, 1, 0, 'm1', 0, 'hi', '{{}}', NULL, NULL, NULL);
INSERT INTO log VALUES ('{LIVE}', 2, {T0 + 2}, 'message', {_EXPIRY_MS}, 1, 0, 0, 'm2', 1, 'ho', '{{}}', '[1]', '"hm"', '["X"]');
INSERT INTO sessions VALUES ('{EXPIRED}', '{EXPIRED}', '{AGENT}', '{USER}', '{{}}', 30.0, 1, 720.0, 5.0, {T0}, {T0}, {T0},
    {_EXPIRY_MS}, 0, 1, 1, 1, {_EXPIRY_MS}, NULL);
INSERT INTO log VALUES ('{EXPIRED}', 1, {_EXPIRY_MS}, 'expiry', {_EXPIRY_MS}, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
""",
    2: f"""
INSERT INTO log VALUES ('{LIVE}', 3, {T0 + 3}, 'timeout_change', {_EXPIRY_MS}, 2, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    '{{"timeout_minutes":30.0,"auto_renew":true,"max_duration_minutes":720.0,"warning_threshold_minutes":5.0}}');
INSERT INTO log VALUES ('{LIVE}', 4, {T0 + 4}, 'message', {_EXPIRY_MS}, 2, 1, 0, 'm3', 0, 'two', '{{}}', NULL, NULL, NULL, NULL);
UPDATE sessions SET last_sequence = 4, last_entry_ms = {T0 + 4} WHERE id = '{LIVE}';
""",
    3: f"""
INSERT INTO log VALUES ('{LIVE}', 5, {T0 + 5}, 'message', {_EXPIRY_MS}, 2, 1, 0, 'm4', 0, 'three', '{{}}', NULL, NULL, NULL, NULL, NULL,
    NULL);
INSERT INTO deliveries VALUES ('{LIVE}', 5, 'answered', 1, NULL);
INSERT INTO log VALUES ('{LIVE}', 6, {T0 + 6}, 'message', {_EXPIRY_MS}, 2, 0, 0, 'm5', 1, 're', '{{}}', NULL, NULL, NULL, NULL, 5, NULL);
UPDATE sessions SET last_sequence = 6, last_entry_ms = {T0 + 6} WHERE id = '{LIVE}';
""",
    4: f"""
INSERT INTO log VALUES ('{LIVE}', 7, {T0 + 7}, 'message', {_EXPIRY_MS}, 2, 1, 0, 'm6', 0, 'four', '{{}}', NULL, NULL, NULL, NULL, NULL,
    NULL);
INSERT INTO deliveries VALUES ('{LIVE}', 7, 'pending', 0, {T0 + 7});
UPDATE sessions SET last_sequence = 7, last_entry_ms = {T0 + 7} WHERE id = '{LIVE}';
INSERT INTO requests VALUES ('session:{LIVE}', 'message', 'print', '7', {T0 + 7});
INSERT INTO requests VALUES ('user:{USER}', 'create', 'print', '{{"id":"{LIVE}","user_id":"{USER}"}}', {T0});
INSERT INTO requests VALUES ('session:{GONE}', 'message', 'print', '1', {T0 + 1});
INSERT INTO requests VALUES ('user:{USER}', 'gone', 'print', '{{"id":"{GONE}","user_id":"{USER}"}}', {T0});
""",
}
"""What a service of each schema wrote; where a schema is not named, nothing more."""


def make_old_store(path: Path, version: int, written: Mapping[int, str] = WRITTEN) -> None:
    """Makes a store that services of all schemas up to this one have written to, one after the other."""
    migrations = all_migrations()
    for number in range(1, version + 1):
        with (
            mock.patch.object(sqlite_file, "_migrations", return_value=migrations[:number]),
            # Services of that time did neither.
            mock.patch.object(sqlite_file, "rewrite"),
            mock.patch.object(sqlite_file, "AUTO_VACUUM", "PRAGMA auto_vacuum = NONE"),
        ):
            sqlite_file.prepare(path).release()
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(written.get(number, ""))
    path.with_name(path.name + ".lock").unlink()
