"""Requests that schemathesis makes of the OpenAPI document, good and bad: the document tells of each answer,
and none is a 5xx.
"""

import uuid
from collections import Counter
from contextlib import suppress
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from urllib3.exceptions import HTTPError, LocationParseError

from eliza.sessions.v1 import clock_service_pb2
from tests.contract import openapi
from tests.support.service import ECHO, Serve
from tests.support.waiting import PATIENCE_SECONDS

_REFUSED: Final = (400, 415)
_BEYOND_SCHEMAS: Final = {
    ("INVALID_PAGINATION", "pageToken"),
    ("INVALID_FIELD", "after"),
    ("INVALID_FIELD", "advanceMs"),
    ("INVALID_FIELD", "now"),
    ("INVALID_FIELD", "seconds"),
}
"""What depends on what is stored, on the time, or on a setting."""

_MODES: Final = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


class Sessions:
    """Sessions of every kind, so that requests that were made up meet some that are there."""

    KINDS: Final = ("live", "live", "live", "expired", "deleted", "made up")

    def __init__(self, service: Serve) -> None:
        self._service = service
        self._live = ""
        self._expired = service.create()["sessionId"]
        service.clock.AdvanceClock(
            clock_service_pb2.AdvanceClockRequest(advance_ms=7 * 60 * 60_000), timeout=10
        )
        self._deleted = service.create()["sessionId"]
        service.http.delete(f"{service.url}/{self._deleted}", timeout=10).raise_for_status()

    def of(self, kind: str) -> str:
        """The id of a session of that kind."""
        if kind == "live" and not self._lives():
            self._live = self._service.create(userId=str(uuid.uuid4()))["sessionId"]
        return {"live": self._live, "expired": self._expired, "deleted": self._deleted}[kind]

    def _lives(self) -> bool:
        return (
            bool(self._live)
            and self._service.http.get(f"{self._service.url}/{self._live}", timeout=10).status_code == 200
        )


class RestExamples:
    """A run against a service that has a test clock."""

    def __init__(self, service: Serve, run_seed: int, examples: int) -> None:
        self._service = service
        self._seed = run_seed
        self._examples = examples
        self._sessions = Sessions(service)
        self.statuses: Counter[str] = Counter()
        self.problems: list[str] = []

    def run(self) -> None:
        """Tries every operation with good and with bad data; the one that moves the clock comes last, because
        it spoils the sessions.
        """
        schema = schemathesis.openapi.from_dict(openapi.DOCUMENT)
        operations = [result.ok() for result in schema.get_all_operations()]
        for last in (False, True):
            wanted = self._examples * (1 if last else len(operations) - 1) // len(operations)
            tries = [
                (operation, mode)
                for operation in operations
                for mode in _MODES
                if (operation.label == "POST /test/clock") is last
            ]
            self._try_all(tries, wanted)

    def _try_all(self, tries: list[tuple[Any, GenerationMode]], wanted: int) -> None:
        """Shares the examples out; what has no more different ones (a GET without parameters has one) leaves
        its share to the others.
        """
        number = 0
        while wanted > 0 and tries:
            share = -(-wanted // len(tries))
            going_on = []
            for operation, mode in tries:
                number += 1
                made = self._try(operation, mode, min(share, wanted), self._seed + number)
                wanted -= made
                if made == share:
                    going_on.append((operation, mode))
            tries = going_on

    def _try(self, operation: Any, mode: GenerationMode, count: int, run_seed: int) -> int:
        """Makes up to so many requests; returns how many there were to make."""
        strategy = operation.as_strategy(generation_mode=mode)
        before = self.statuses.total()

        @seed(run_seed)
        @settings(
            max_examples=max(1, count),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy, kind=st.sampled_from(Sessions.KINDS))
        def attempt(case: Any, kind: str) -> None:
            self._send(case, kind, mode)

        with suppress(Unsatisfiable):
            # An operation to which nothing can be given has no bad data.
            attempt()
        return self.statuses.total() - before

    def _send(self, case: Any, kind: str, mode: GenerationMode) -> None:
        sent = case.as_transport_kwargs(base_url=f"http://{self._service.rest}")
        if "{sessionId}" in case.operation.path and kind != "made up":
            sent["url"] = f"http://{self._service.rest}" + case.operation.path.replace(
                "{sessionId}", self._sessions.of(kind)
            )
        if (
            case.operation.label == "POST /api/messaging/sessions"
            and kind == "live"
            and isinstance(sent.get("json"), dict)
        ):
            sent["json"] = {**sent["json"], "agentId": ECHO}
        label = mode.value
        try:
            with self._service.http.request(**sent, stream=True, timeout=PATIENCE_SECONDS) as answer:
                endless = answer.status_code == 200 and case.operation.label.endswith("/events")
                content = None if endless else answer.content
                self._judge(case, mode, answer, content)
                self.statuses[f"{label} {answer.status_code}"] += 1
        except (
            requests.exceptions.InvalidHeader,
            requests.exceptions.InvalidURL,
            LocationParseError,
            UnicodeError,
        ):
            # HTTP has no way to write it.
            self.statuses[f"{label} unwritable"] += 1
        except (requests.RequestException, HTTPError) as error:
            self.statuses[f"{label} no answer"] += 1
            self.problems.append(f"{case.operation.label} has no answer: {error!r}; sent {_shown(sent)}")

    def _judge(
        self, case: Any, mode: GenerationMode, answer: requests.Response, content: bytes | None
    ) -> None:
        request = answer.request
        found = openapi.problems(
            request.method or "", request.url or "", answer.status_code, answer.headers, content
        )
        if answer.status_code >= 500:
            found.append(f"{case.operation.label} is answered with {answer.status_code}: {content!r}")
        if mode is GenerationMode.POSITIVE and answer.status_code in _REFUSED and not _is_right(answer):
            found.append(f"{case.operation.label} refuses what the document allows: {content!r}")
        self.problems += [f"{problem}; sent {_shown(vars(request))}" for problem in found]


def _is_right(answer: requests.Response) -> bool:
    """Whether a refusal is for what a schema cannot say: a state, or a header that asked for it."""
    body = answer.json()
    details = body["details"]
    is_strict = answer.request.headers.get("Prefer") == "handling=strict"
    has_unknown = str(details.get("reason")).startswith("unknown fields:")
    return (is_strict and has_unknown) or (
        body["code"],
        details.get("parameter", details.get("field")),
    ) in _BEYOND_SCHEMAS


def _shown(sent: Any) -> str:
    return repr(
        {
            key: sent.get(key)
            for key in ("method", "url", "headers", "params", "json", "data", "body")
            if sent.get(key)
        }
    )[:1000]
