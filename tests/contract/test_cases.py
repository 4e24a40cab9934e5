"""Every case through gRPC and, both ways, through REST; and that the cases leave nothing of the API out."""

import uuid
from pathlib import Path

import pytest

from eliza.sessions.errors import TABLE
from eliza.sessions.v1 import agent_service_pb2, clock_service_pb2, message_service_pb2, session_service_pb2
from tests.contract.answers import Failure, Success
from tests.contract.cases import CASES
from tests.contract.contract import ENDPOINTS, ERRORS, STATUSES
from tests.contract.drivers import Driver, saved_value
from tests.contract.grpc_driver import GrpcDriver, now_ms
from tests.contract.rest_driver import ROUTES, RestDriver
from tests.contract.shapes import ANYTHING, SHAPES, Some, consistent, differences
from tests.contract.steps import Case, Step, resolve
from tests.support.service import Serve

RPCS = {
    "CreateSession": "create",
    "GetSession": "get",
    "ListSessions": "list",
    "DeleteSession": "delete",
    "RenewSession": "renew",
    "UpdateTimeout": "update_timeout",
    "SendHeartbeat": "heartbeat",
    "CreateAccessToken": "token",
    "ExportTranscript": "transcript",
    "GetServiceStatus": "health",
    "WatchSession": "watch",
    "WatchSessions": "watch_many",
    "SendMessage": "send",
    "Converse": "converse",
    "ListMessages": "messages",
    "CreateAgent": "create_agent",
    "GetAgent": "get_agent",
    "ListAgents": "list_agents",
    "UpdateAgent": "update_agent",
    "DeleteAgent": "delete_agent",
    "Connect": "connect",
    "Reply": "reply",
    "GetClock": "clock",
    "SetClock": "set_clock",
    "AdvanceClock": "advance",
}
"""The operation of each RPC."""

ELSEWHERE = {
    "SESSION_CREATION_FAILED": "test_faults.py",
    "MESSAGE_SEND_FAILED": "test_faults.py",
    "AGENT_REPLY_TIMEOUT": "test_faults.py",
    "INTERNAL": "test_faults.py",
    "RESOURCE_EXHAUSTED": "test_faults.py",
    "REQUEST_ID_REUSED": "test_retries.py",
    "ETAG_MISMATCH": "test_retries.py",
    "OVERLOADED": "test_retries.py",
    "UNAVAILABLE": "test_outage.py",
    "ORIGIN_NOT_ALLOWED": "test_origins.py",
    "HOST_NOT_ALLOWED": "test_origins.py",
    "DEADLINE_EXCEEDED": "test_outage.py",
    **dict.fromkeys(
        ("UNAUTHENTICATED", "CREDENTIAL_EXPIRED", "PERMISSION_DENIED", "RATE_LIMITED", "QUOTA_EXCEEDED"),
        "test_credentials.py",
    ),
}
"""Reasons that only a server in trouble or a protected one gives, and the tests that make it so."""


def run(case: Case, driver: Driver, service: Serve) -> None:
    """Plays a case and compares every answer."""
    saved = {"user": str(uuid.uuid4()), "t0": now_ms(service)}
    for number, step in enumerate(case.steps, 1):
        for _ in range(step.times):
            answer = driver.perform(step.call, resolve(step.session, saved), resolve(step.given, saved))
            problems = _problems(step, answer, saved)
            assert not problems, (number, step.call, problems)
            if isinstance(answer, Success):
                saved.update(
                    {
                        name: saved_value(path, {**answer.extras, **answer.body})
                        for name, path in step.saves.items()
                    }
                )


def _problems(step: Step, answer: Success | Failure, saved: dict[str, object]) -> list[str]:
    if step.fails is not None:
        if isinstance(answer, Success):
            return [f"succeeds with {answer.body}, not {step.fails.code}"]
        wanted = Some(resolve(step.fails.details, saved))
        return [
            *differences(step.fails.code, answer.code, "code"),
            *differences(wanted, answer.details, "details"),
        ]
    if isinstance(answer, Failure):
        return [f"fails: {answer}"]
    # An answer with a reply in it was asked for as such.
    shape = SHAPES.get("converse" if "agentResponse" in answer.body else step.call, ANYTHING)
    problems = list(differences(shape, answer.body))
    whole = {**answer.extras, **answer.body}
    return [
        *problems,
        *consistent(step.call, answer.body),
        *differences(Some(resolve(step.gives, saved)), whole),
    ]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name[:80]) for case in CASES if not case.grpc_only]
)
def test_rest_answers_as_told(case: Case, rest_service: Serve) -> None:
    run(case, RestDriver(rest_service), rest_service)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name[:80]) for case in CASES if not case.rest_only]
)
def test_grpc_answers_as_told(case: Case, service: Serve) -> None:
    run(case, GrpcDriver(service), service)


def test_no_case_is_told_twice() -> None:
    told = [(case.name, case.rest_only, case.grpc_only) for case in CASES]
    assert len(set(told)) == len(told)


def test_every_endpoint_of_the_contract_has_a_case_of_its_success_and_of_each_of_its_errors() -> None:
    steps = [step for case in CASES if not case.grpc_only for step in case.steps]
    seen = {(step.call, TABLE[step.fails.code].http_status if step.fails else 0) for step in steps}
    operations = {route: operation for operation, route in ROUTES.items()}
    assert operations.keys() == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        operation = operations[endpoint.method, endpoint.path]
        # test_outage.py has a service that cannot serve.
        documented = {status for status in endpoint.errors if status != 503}
        assert {status for call, status in seen if call == operation} >= {0, *documented}, endpoint


def test_every_rpc_has_a_case_of_its_success() -> None:
    seen = {step.call for case in CASES if not case.rest_only for step in case.steps if not step.fails}
    modules = (session_service_pb2, message_service_pb2, agent_service_pb2, clock_service_pb2)
    methods = {
        method.name
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == RPCS.keys()
    assert seen >= set(RPCS.values())


def test_every_reason_has_a_case() -> None:
    steps = [step for case in CASES for step in case.steps]
    seen = {step.fails.code for step in steps if step.fails}
    # A worker is told of an error without its stream being ended.
    told = (event.fields for step in steps for event in step.gives.get("told", ()) if isinstance(event, Some))
    seen |= {fields["reason"] for fields in told if fields["event"] == "refused"}
    assert seen | ELSEWHERE.keys() == TABLE.keys()
    assert not seen & ELSEWHERE.keys()
    for reason, name in ELSEWHERE.items():
        assert f'"{reason}"' in Path(__file__).with_name(name).read_text(), reason


def test_the_table_of_errors_is_the_contracts() -> None:
    for documented in ERRORS:
        row = TABLE[documented.code]
        assert (row.error_class, row.http_status, tuple(row.details)) == (
            documented.error_class,
            documented.status,
            documented.details,
        )
    assert {reason: row.http_status for reason, row in TABLE.items()} == STATUSES
