"""The audit log: one line for each admin action, with who has done what, and to what."""

from typing import Any

import structlog

from server.domain.access import Principal
from server.rpc.gate import RULES_BY_PATH

log = structlog.get_logger()


def log_audited(method: str, principal: Principal, request: Any, answer: Any) -> None:
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
    )


def _target(message: Any) -> str:
    """The id of what a request or an answer is about; empty where it has none."""
    about = getattr(message, "agent", message)
    return str(getattr(about, "agent_id", "") or getattr(about, "user_id", ""))
