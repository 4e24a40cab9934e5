"""The Python client's classes of errors are those of the API's table."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from eliza.sessions.errors import DOMAIN, TABLE, Row, error_trailers
from eliza_sessions_client import SessionsError, errors
from eliza_sessions_client._status import error_info
from eliza_sessions_client.error_classes import CLASSES, STATUSES
from eliza_sessions_client.errors import attribute
from eliza_sessions_client.failures import error_from

GENERATE = Path(__file__).parents[3] / "clients" / "python" / "generate_errors.py"


class Failed(grpc.RpcError):
    """A failed call, as gRPC raises it."""

    def __init__(self, status: grpc.StatusCode, details: str, trailers: object = ()) -> None:
        self._parts = status, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> object:
        return self._parts[2]


def test_the_committed_file_is_what_the_table_gives() -> None:
    done = subprocess.run([sys.executable, GENERATE, "--check"], check=False)
    assert done.returncode == 0, "run python clients/python/generate_errors.py"


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.reason)
def test_each_reason_has_its_class_with_typed_details(row: Row) -> None:
    texts = dict.fromkeys(row.details, "7")
    failed = Failed(row.grpc_status, "Because", error_trailers(row, "Because", texts))
    error = error_from(failed)
    assert type(error) is getattr(errors, row.error_class) is CLASSES[row.reason]
    assert (str(error), error.code, error.status) == ("Because", row.reason, row.grpc_status)
    assert STATUSES[row.reason] is row.grpc_status
    assert error.details == texts
    kinds = {0: "7", 1: 7.0, 2: "7", 3: ("7",)}
    for name, kind in row.details.items():
        assert getattr(error, attribute(name)) == kinds[kind]
        assert attribute(name) in type(error).__annotations__


def test_no_reason_is_missing() -> None:
    assert CLASSES.keys() == TABLE.keys()


def test_a_reason_of_a_newer_service_is_a_bare_error_that_names_it() -> None:
    row = Row("OF_TOMORROW", "", grpc.StatusCode.ABORTED, 409, {})
    error = error_from(Failed(row.grpc_status, "No", error_trailers(row, "No", {"a": "b"})))
    assert (type(error), error.code, error.details) == (SessionsError, "OF_TOMORROW", {"a": "b"})


def test_details_that_did_not_come_are_empty() -> None:
    error = errors.InvalidMetadataError("No", grpc.StatusCode.INVALID_ARGUMENT)
    assert (error.reason, error.max_bytes != error.max_bytes) == ("", True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.CANCELLED, errors.UnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.UNKNOWN, SessionsError),
    ],
)
@pytest.mark.parametrize("trailers", [None, (), (("grpc-status-details-bin", b"\xff"),)])
def test_failures_of_grpc_itself_have_no_details(
    status: grpc.StatusCode, expected: type, trailers: object
) -> None:
    error = error_from(Failed(status, "lost", trailers))
    assert (type(error), error.details) == (expected, {})
    assert "lost" in str(error) or expected is errors.DeadlineExceededError


def test_an_error_of_another_api_is_none_of_ours() -> None:
    row = TABLE["OVERLOADED"]
    ((key, packed),) = error_trailers(row, "No", {})
    assert error_info([(key, packed)]) is not None
    assert error_info([(key, packed.replace(DOMAIN.encode(), b"x" * len(DOMAIN)))]) is None
