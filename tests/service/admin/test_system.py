"""GetSystem over gRPC: what runs, how each part is, and whether the last backup is good."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eliza.sessions.v1 import admin_service_pb2 as pb
from eliza.sessions.v1.session_service_pb2 import GetServiceStatusResponse
from server.store.sqlite.file import schema_version
from server.version import VERSION
from tests.service.admin.asking import SECONDS, admin
from tests.service.agents.test_status import KEY, webhook
from tests.support.clients import create, run, send
from tests.support.service import Serve, Start
from tests.support.waiting import until

HEALTHY = GetServiceStatusResponse.HEALTH_HEALTHY
DEGRADED = GetServiceStatusResponse.HEALTH_DEGRADED
UNHEALTHY = GetServiceStatusResponse.HEALTH_UNHEALTHY
SECRET = "a-secret-of-more-than-16-characters"


def system(service: Serve) -> pb.GetSystemResponse:
    options = {"metadata": (("x-api-key", service.key),)} if hasattr(service, "key") else {}
    answer: pb.GetSystemResponse = admin(service).GetSystem(pb.GetSystemRequest(), timeout=SECONDS, **options)
    return answer


def part(service: Serve, name: str) -> pb.GetSystemResponse.Part:
    (found,) = [one for one in system(service).parts if one.name == name]
    return found


def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.mark.sqlite
def test_the_version_the_changed_settings_and_the_parts_are_told(start: Start, tmp_path: Path) -> None:
    service = start("--no-rest", DELIVERY_ATTEMPTS="3", LOG_FORMAT="json")
    found = system(service)
    assert (found.version, found.schema_version, found.is_protected) == (VERSION, schema_version(), False)
    changed = {one.name: (one.value, one.default_value) for one in found.changed_settings}
    assert changed["DELIVERY_ATTEMPTS"] == ("3", "5")
    assert changed["DATABASE_URL"] == (url(tmp_path / "store.db"), "sqlite:///eliza-sessions.db")
    assert "SESSION_DEFAULT_TIMEOUT_MINUTES" not in changed
    assert [one.name for one in found.changed_settings] == sorted(changed)
    assert {one.name for one in found.parts} == {
        *("store", "sessions", "expiry", "purge", "credentials", "agents")
    }
    assert {(one.health, one.reason) for one in found.parts} == {(HEALTHY, "")}
    assert {one.since.ToMilliseconds() >= found.started_at.ToMilliseconds() for one in found.parts} == {True}
    store = found.store
    assert store.path == str(tmp_path / "store.db")
    assert store.data_bytes == (tmp_path / "store.db").stat().st_size
    assert 0 < store.disk_free_bytes < store.disk_total_bytes
    assert store.gives_back_space
    assert not found.HasField("last_backup")
    assert not found.HasField("last_check")


def test_no_secret_is_told(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    made = run("keys", "add", "--role", "admin", "--tenant", "*", "--file", str(keys), cwd=tmp_path)
    assert made.status == 0, made.errors
    service = start("--no-rest", KEYS_FILE=str(keys), ELIZA_SERVER_AUTH_TOKEN=SECRET)
    service.key = made.out.split()[-1]
    found = system(service)
    changed = {one.name: one.value for one in found.changed_settings}
    assert changed["ELIZA_SERVER_AUTH_TOKEN"] == "(set)"
    assert SECRET not in str(found)
    assert found.is_protected


@pytest.mark.sqlite
def test_the_last_backup_and_the_last_check_are_told(start: Start, tmp_path: Path) -> None:
    service = start("--no-rest")
    send(service, create(service).session_id, "hello")
    path = tmp_path / "store.db"
    assert run("backup", "copy.db", cwd=tmp_path, DATABASE_URL=url(path)).status == 0
    backup = system(service).last_backup
    assert (backup.is_good, backup.detail) == (True, str(tmp_path / "copy.db"))
    # The file is there already.
    assert run("backup", "copy.db", cwd=tmp_path, DATABASE_URL=url(path)).status == 1
    failed = system(service).last_backup
    assert failed.at.ToMilliseconds() >= backup.at.ToMilliseconds()
    assert not failed.is_good
    assert "exists already" in failed.detail
    assert run("check", cwd=tmp_path, DATABASE_URL=url(path)).status == 0
    check = system(service).last_check
    assert (check.is_good, check.detail.split(",")[0]) == (True, "1 sessions")
    assert service.stop() == 0
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sessions SET open_deliveries = 5")
    assert run("check", cwd=tmp_path, DATABASE_URL=url(path)).status == 1
    again = start("--no-rest")
    bad = system(again).last_check
    assert not bad.is_good
    assert bad.detail.startswith("1 problems; session ")


@pytest.mark.sqlite
def test_a_store_that_cannot_write_is_told_with_its_reason(start: Start, tmp_path: Path) -> None:
    service = start("--no-rest")
    before = part(service, "store")
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        found = until(
            lambda: one if (one := part(service, "store")).health == UNHEALTHY else None, "the trouble"
        )
        assert "cannot be used now" in found.reason
        assert found.since.ToMilliseconds() > before.since.ToMilliseconds()
        outsider.execute("ROLLBACK")
    until(lambda: part(service, "store").health == HEALTHY, "the end of it")
    assert part(service, "store").reason == ""


def test_an_agent_that_cannot_be_asked_is_told(start: Start) -> None:
    # Without the variable of its secret.
    service = start("--no-rest", AGENT_SECRET_HOOK=KEY, AGENT_ALLOWED_HOSTS="127.0.0.1")
    agent = webhook(service, "http://127.0.0.1:1/")
    assert service.stop() == 0
    again = start("--no-rest", AGENT_ALLOWED_HOSTS="127.0.0.1")
    send(again, create(again, agent.agent_id).session_id, "hello")
    found = until(
        lambda: one if (one := part(again, "agents")).health == DEGRADED else None, "the agent's trouble"
    )
    assert agent.agent_id in found.reason
    assert found.reason.startswith("1 cannot be asked")


def test_a_keys_file_that_went_bad_is_told(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    made = run("keys", "add", "--role", "admin", "--tenant", "*", "--file", str(keys), cwd=tmp_path)
    service = start("--no-rest", KEYS_FILE=str(keys))
    service.key = made.out.split()[-1]
    assert part(service, "credentials").health == HEALTHY
    good = keys.read_text()
    keys.write_text("no [toml")
    found = until(
        lambda: one if (one := part(service, "credentials")).health == DEGRADED else None, "the trouble"
    )
    assert "KEYS_FILE" in found.reason
    keys.write_text(good)
    until(lambda: part(service, "credentials").health == HEALTHY, "the end of it")
