"""What the cases of several subjects say and are answered."""

from typing import Any, Final

from tests.contract.shapes import UUID, Some
from tests.contract.steps import DAY, At, Fails, Step, advance, call
from tests.support.service import ECHO

NOT_FOUND = Fails("SESSION_NOT_FOUND", {"sessionId": "$sid"})
PURGED = advance(3 * DAY + 1)
"""Whatever there was has expired and is purged, so that counts over everything are known."""

JSON_TYPES = "a proto's field has one type"
JSON_NULL = "a proto has no null for a field"
JSON_TEXT = "a proto is no text"
PATHS = "gRPC has no paths"
REST_PAGES = "gRPC refuses a negative size and takes 0 for the default"
NO_REST = "REST has no paths for it"
GRPC_NUMBERS = "JSON does not write this number"

METADATA_LIMIT: Final = 10_240
ASTRAL = "\U0001f600"


def metadata_of(size: int, letter: str = "x") -> dict[str, str]:
    """Metadata of so many bytes as compact JSON in UTF-8."""
    count, rest = divmod(size - len('{"k":""}'), len(letter.encode()))
    return {"k": letter * count + "x" * rest}


def nested(depth: int) -> dict[str, Any]:
    """An object of so many levels."""
    return {"k": nested(depth - 1)} if depth > 1 else {}


def expired(minutes: float, session: str = "$sid") -> Fails:
    return Fails("SESSION_EXPIRED", {"sessionId": session, "expiresAt": At(minutes)})


def renewal_failed(max_duration: float) -> Fails:
    return Fails(
        "SESSION_RENEWAL_FAILED", {"sessionId": "$sid", "maxDurationMinutes": max_duration, "createdAt": At()}
    )


def config(**fields: Any) -> dict[str, Any]:
    """Settings in force: the service's defaults where nothing is named."""
    return {
        "timeoutMinutes": 30,
        "autoRenew": True,
        "maxDurationMinutes": 720,
        "warningThresholdMinutes": 5,
        **fields,
    }


def bad_timeout(field: str) -> Fails:
    return Fails("INVALID_TIMEOUT_CONFIG", {"field": field})


def user_message(content: str, at: At, **fields: Any) -> dict[str, Any]:
    return {
        "id": UUID,
        "content": content,
        "authorId": "$user",
        "isAgent": False,
        "createdAt": at,
        "metadata": {"sessionId": "$sid"},
        **fields,
    }


def reply(content: str, at: At) -> dict[str, Any]:
    return {**user_message(content, at), "authorId": ECHO, "isAgent": True}


def contents(*contents: str) -> list[Any]:
    return [Some({"content": content}) for content in contents]


def changed(
    paths: list[str] | None = None, *, gives: Any = None, fails: Fails | None = None, **fields: Any
) -> Step:
    """Changes the case's agent."""
    mask = {} if paths is None else {"paths": paths}
    return call("update_agent", {"agent": {"agentId": "$agent", **fields}, **mask}, gives=gives, fails=fails)
