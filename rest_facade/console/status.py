"""The line in every page's header: how the service is, which version, and since when."""

from typing import Final

from eliza.sessions.v1.session_service_pb2 import GetServiceStatusRequest, GetServiceStatusResponse
from rest_facade.console.parts import DATA, PARTS, Add
from rest_facade.console.render import respond_data, respond_part
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend

HEALTHS: Final = {
    GetServiceStatusResponse.HEALTH_UNSPECIFIED: ("unknown", "off"),
    GetServiceStatusResponse.HEALTH_HEALTHY: ("healthy", "good"),
    GetServiceStatusResponse.HEALTH_DEGRADED: ("degraded", "warn"),
    GetServiceStatusResponse.HEALTH_UNHEALTHY: ("unhealthy", "bad"),
}
"""Each health in a word, and the class of its badge."""


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console the status line, and the check of a key."""

    def read() -> GetServiceStatusResponse:
        return backend.call(backend.sessions.GetServiceStatus, GetServiceStatusRequest(), request_metadata())

    def show_status() -> Response:
        """How the service is."""
        status = read()
        return respond_part("parts/status.html", status=200, service=status, health=HEALTHS[status.health])

    def check_key() -> Response:
        """Whether the service takes the caller's credential: 401 where not."""
        read()
        return respond_data({"isGood": True})

    add(f"{PARTS}/status", show_status)
    add(f"{DATA}/key", check_key)
