"""The settings of the webhooks that the tests ask, and their secrets."""

import base64
import ssl
from pathlib import Path
from typing import Any

from server.domain.agents import WebhookSettings
from tests.support.waiting import PATIENCE_SECONDS

TLS = Path(__file__).parents[2] / "tls"

KEY = base64.b64encode(bytes(range(32))).decode()

MEGABYTES_100 = 100 * 1024 * 1024

BRIEF = 0.1


def settings(url: str, timeout_seconds: float = PATIENCE_SECONDS, **fields: Any) -> WebhookSettings:
    return WebhookSettings(
        **{"url": url, "secret": "env:AGENT_SECRET_HOOK", "timeout_seconds": timeout_seconds, **fields}
    )


def served() -> ssl.SSLContext:
    """The side of a server that is `localhost` and `sessions.test`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
    return context
