"""The test clock over REST: /test/clock, which exists only where the server's test clock is switched on."""

from typing import Any

import flask
import grpc.aio

from eliza.sessions import times, values
from eliza.sessions.v1.clock_service_pb2 import (
    AdvanceClockRequest,
    GetClockRequest,
    GetClockResponse,
    SetClockRequest,
)
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes import fields, json_body, requests, responses
from rest_facade.shapes.errors import ApiError
from rest_facade.shapes.numbers import MAX_INT64
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

_PATH = "/test/clock"


def add_routes(app: flask.Flask, backend: Backend) -> None:
    """Gives the app GET and POST /test/clock."""
    views = _Views(backend)
    app.add_url_rule(_PATH, view_func=views.get_clock, methods=["GET"])
    app.add_url_rule(_PATH, view_func=views.move_clock, methods=["POST"])


class _Views:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def get_clock(self) -> Response:
        """Reads the test clock; 404 when it is off."""
        return json_body.respond({"now": responses.iso(self._read().now)})

    def move_clock(self) -> Response:
        """Sets or advances the test clock; 404 when it is off."""
        self._read()
        body = {
            name: value
            for name, value in json_body.read_object(fields.MOVE_CLOCK).items()
            if value is not None
        }
        json_body.refuse_unknown()
        clock, metadata = self._backend.clock, request_metadata()
        if "now" in body and "advanceMs" in body:
            raise _invalid("now", body["now"], "now and advanceMs exclude each other")
        if "now" in body:
            now = self._backend.call(
                clock.SetClock, SetClockRequest(now=values.timestamp(_instant(body["now"]))), metadata
            ).now
        elif "advanceMs" in body:
            now = self._backend.call(
                clock.AdvanceClock, AdvanceClockRequest(advance_ms=_whole(body["advanceMs"])), metadata
            ).now
        else:
            raise ApiError(
                "MISSING_FIELDS", "One of advanceMs and now is required", missingFields=["advanceMs", "now"]
            )
        return json_body.respond({"now": responses.iso(now)})

    def _read(self) -> GetClockResponse:
        try:
            return self._backend.call(self._backend.clock.GetClock, GetClockRequest(), request_metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                raise ApiError("PATH_NOT_FOUND", "The test clock is off", path=_PATH) from error
            raise


def _instant(value: Any) -> int:
    try:
        return times.ms_from_iso(value)
    except (TypeError, ValueError) as error:
        raise _invalid("now", value, "now must be ISO 8601") from error


def _whole(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -MAX_INT64 <= value <= MAX_INT64:
        raise _invalid("advanceMs", value, "advanceMs must be a whole number of milliseconds")
    return value


def _invalid(field: str, value: object, reason: str) -> ApiError:
    return ApiError(
        "INVALID_FIELD",
        f"Invalid {field}: {reason}",
        field=field,
        value=requests.display(value),
        reason=reason,
    )
