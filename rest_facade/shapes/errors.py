"""REST's errors: the exception that carries one, and how an RPC's error becomes one."""

import math
import uuid
from collections.abc import Mapping
from typing import Any, Final

import grpc.aio
import structlog

from eliza.sessions import json_text
from eliza.sessions.errors import TABLE, error_info
from eliza.sessions.v1 import errors_pb2

RETRY_AFTER_SECONDS: Final = 1
"""When a client may try again, where the server does not say."""

CHALLENGE: Final = 'Bearer realm="eliza-sessions"'
"""What a 401 says in WWW-Authenticate (RFC 6750): which credential is wanted."""

INVALID_TOKEN: Final = f'{CHALLENGE}, error="invalid_token"'
"""The same where there is a credential, which is not good, or no longer."""

_OUT_OF_REACH: Final = "The session service is out of reach"

_RENAMED: Final = {"after_sequence": "after", "lifetime": "seconds"}
"""The fields that REST calls by another name."""

_log = structlog.get_logger(__name__)

_WITHOUT_INFO: Final[Mapping[grpc.StatusCode, tuple[str, str, Mapping[str, Any]]]] = {
    grpc.StatusCode.UNAVAILABLE: ("UNAVAILABLE", _OUT_OF_REACH, {"retryAfterSeconds": RETRY_AFTER_SECONDS}),
    # Not cancelled by us, who would not read the answer: the server stops and could wait no longer.
    grpc.StatusCode.CANCELLED: (
        "UNAVAILABLE",
        "The session service is stopping",
        {"retryAfterSeconds": RETRY_AFTER_SECONDS},
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        "RESOURCE_EXHAUSTED",
        "The session service has more to do than it can",
        {"retryAfterSeconds": RETRY_AFTER_SECONDS},
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "DEADLINE_EXCEEDED",
        "The session service did not answer in time",
        {},
    ),
}


class ApiError(Exception):
    """A row of the table of errors, with a message and details for the client."""

    def __init__(self, reason: str, message: str, /, **details: Any) -> None:
        """`reason` names a row of the table; `details` are spelt and typed as in the JSON body."""
        super().__init__(message)
        self.message = message
        self.row = TABLE[reason]
        self.details = details

    @property
    def http_status(self) -> int:
        return self.row.http_status

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer: `{"error", "details", "code"}`."""
        return {"error": self.message, "details": self.details, "code": self.row.reason}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers: `Retry-After` in whole seconds with 429 and 503, the policy of a rate limit,
        a challenge with 401, and `Allow` with 405.
        """
        match self.http_status:
            case 401:
                is_expired = self.row.reason == "CREDENTIAL_EXPIRED"
                return {
                    "WWW-Authenticate": INVALID_TOKEN if is_expired else CHALLENGE,
                    "Cache-Control": "no-store",
                }
            case 405:
                return {"Allow": ", ".join(self.details["allowed"])}
            case 429 | 503:
                seconds = math.ceil(self.details.get("retryAfterSeconds", RETRY_AFTER_SECONDS))
                return {"Retry-After": str(seconds), **self._rate_limit(seconds)}
        return {}

    def headers_for(self, *, has_credential: bool) -> dict[str, str]:
        """The headers of the answer to a request with or without a credential."""
        headers = self.headers
        if has_credential and self.http_status == 401:
            headers["WWW-Authenticate"] = INVALID_TOKEN
        return headers

    def _rate_limit(self, seconds: int) -> dict[str, str]:
        """The headers of draft-ietf-httpapi-ratelimit-headers-10, where a rate limit refuses."""
        if (
            self.row.reason != "RATE_LIMITED"
            or not {"policy", "limit", "windowSeconds"} <= self.details.keys()
        ):
            return {}
        policy = self.details["policy"]
        return {
            "RateLimit-Policy": f'"{policy}";q={self.details["limit"]};w={self.details["windowSeconds"]}',
            "RateLimit": f'"{policy}";r=0;t={seconds}',
        }


def from_rpc(error: grpc.aio.AioRpcError) -> ApiError:
    """Returns the server's own error of a failed call, or the row that fits its status."""
    info = error_info(error)
    if info is not None and info.reason in TABLE:
        return from_row(info.reason, error.details() or info.reason, info.metadata)
    if error.code() in _WITHOUT_INFO:
        reason, message, defaults = _WITHOUT_INFO[error.code()]
        return ApiError(reason, message, **defaults)
    return _internal(rpc_status=error.code().name, rpc_details=error.details())


def from_row(reason: str, message: str, details: Mapping[str, str]) -> ApiError:
    """An error of the server's in the words and types of REST."""
    kinds = TABLE[reason].details
    typed = {
        name: _to_json_type(kinds.get(name, errors_pb2.DETAIL_KIND_UNSPECIFIED), text)
        for name, text in details.items()
    }
    return ApiError(reason, _to_rest_spelling(message, kinds, details), **typed)


def out_of_reach() -> ApiError:
    """Makes the error for a server that does not answer."""
    return ApiError("UNAVAILABLE", _OUT_OF_REACH, retryAfterSeconds=RETRY_AFTER_SECONDS)


def stopping() -> ApiError:
    """Makes the error for a request that comes, or still waits, while the facade stops."""
    return ApiError("UNAVAILABLE", "The service is stopping", retryAfterSeconds=RETRY_AFTER_SECONDS)


def unforeseen(error: BaseException) -> ApiError:
    """Makes an error of an unforeseen exception. The log gets cause and id, the client the id alone."""
    return _internal(exc_info=error)


def _internal(**cause: object) -> ApiError:
    error_id = str(uuid.uuid4())
    _log.error("unforeseen error", error_id=error_id, **cause)
    return ApiError("INTERNAL", "Internal error", errorId=error_id)


def _to_json_type(kind: int, text: str) -> Any:
    """A detail of an ErrorInfo in its JSON type."""
    match kind:
        case errors_pb2.DETAIL_KIND_NUMBER:
            return json_text.number(float(text))
        case errors_pb2.DETAIL_KIND_FIELD:
            return _rest_name(text)
        case errors_pb2.DETAIL_KIND_FIELD_LIST:
            return [_rest_name(name) for name in text.split(",")]
        case _:
            return text


def _to_rest_spelling(message: str, kinds: Mapping[str, int], texts: Mapping[str, str]) -> str:
    """The server's message with the fields that its details name spelt as in REST."""
    for name, kind in kinds.items():
        if kind in (errors_pb2.DETAIL_KIND_FIELD, errors_pb2.DETAIL_KIND_FIELD_LIST):
            for field in texts.get(name, "").split(","):
                is_other = "_" in field or field in _RENAMED
                message = message.replace(field, _rest_name(field)) if is_other else message
    return message


def _rest_name(path: str) -> str:
    """Returns REST's name of a field or a path: `timeout_config.auto_renew` is `timeoutConfig.autoRenew`."""
    if path in _RENAMED:
        return _RENAMED[path]
    head, *rest = path.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)
