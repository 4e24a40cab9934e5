"""The audit log: one line for each admin action, with who has done what, and to what."""

import asyncio
from typing import Any, Final

import structlog

from server.domain.access import Principal
from server.rpc.call import RequestId
from server.rpc.gate import RULES_BY_PATH

_TARGETS: Final = ("agent_id", "user_id", "session_id")
"""The fields that name what an action is about."""

log = structlog.get_logger()


class StreamAudit:
    """Logs a stream once it ends, where it is an admin action. One that breaks off has done a part of it.

    `has_begun`: it has told its caller something.
    """

    __slots__ = ("_call", "_request_id", "has_begun")

    def __init__(self, method: str, principal: Principal, request: Any, request_id: RequestId) -> None:
        self._call = (method, principal, request)
        self._request_id = request_id
        self.has_begun = False

    def __enter__(self) -> "StreamAudit":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            log_audited(*self._call, None, self._request_id)
        elif self.has_begun or _has_left(error):
            log_audited(*self._call, None, self._request_id, broken_off=True)


def log_audited(
    method: str, principal: Principal, request: Any, answer: Any, request_id: RequestId, **facts: object
) -> None:
    """Logs a call that has succeeded, where it is an admin action."""
    rule = RULES_BY_PATH.get(method)
    if rule is None or not rule.is_audited:
        return
    log.info(
        "audit",
        principal=principal.id,
        role=str(principal.role),
        tenant=principal.tenant,
        method=method.removeprefix("/"),
        target=_target(request) or _target(answer),
        request_id=str(request_id),
        **facts,
    )


def _has_left(error: BaseException | None) -> bool:
    """Whether a call ends because its caller has left."""
    return isinstance(error, (asyncio.CancelledError, GeneratorExit))


def _target(message: Any) -> str:
    """The id of what a request or an answer is about; empty where it has none."""
    about = getattr(message, "agent", message)
    return str(next(filter(None, (getattr(about, name, "") for name in _TARGETS)), ""))
