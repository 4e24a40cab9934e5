"""gRPC on a Unix socket."""

import os
import stat
from pathlib import Path

import pytest

from tests.support.clients import create, refused, run
from tests.support.service import Start


def test_a_unix_socket_is_the_owners_and_works(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    service = start("--no-rest", GRPC_ADDRESS=f"unix:{path}")
    assert service.grpc == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert create(service).session_id
    for arguments in (("probe", "--server", service.grpc), ("agents", "--server", service.grpc, "list")):
        done = run(*arguments, cwd=tmp_path)
        assert done.status == 0, done.errors
    assert service.stop() == 0
    assert not path.exists()


def test_only_the_socket_of_a_dead_server_is_replaced(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    address = f"unix:{path}"
    first = start("--no-rest", GRPC_ADDRESS=address)
    line = refused(
        "serve", "--no-rest", "--grpc-address", address, cwd=tmp_path, DATABASE_URL="sqlite:///b.db"
    )
    assert "already in use" in line
    assert create(first).session_id
    first.kill()
    assert path.exists()
    second = start("--no-rest", GRPC_ADDRESS=address)
    assert create(second).session_id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "directory away"])
def test_what_is_no_place_for_a_socket_is_no_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "kept" if kind == "file" else tmp_path / "away" / "grpc.sock"
    if kind == "file":
        path.write_text("kept")
    line = refused("serve", "--no-rest", "--grpc-address", f"unix:{path}", cwd=tmp_path)
    assert os.strerror(17 if kind == "file" else 2) in line
    if kind == "file":
        assert path.read_text() == "kept"


def test_a_unix_socket_has_no_tls_and_no_relative_path(tmp_path: Path) -> None:
    line = refused("serve", "--grpc-address", "unix:here", cwd=tmp_path)
    assert "absolute path" in line
    tls = {"GRPC_TLS_CERTIFICATE": "a", "GRPC_TLS_KEY": "b"}
    assert "has no TLS" in refused("serve", "--grpc-address", "unix:/tmp/x", cwd=tmp_path, **tls)
