"""The service itself: version, health, settings, store, backup and check."""

from eliza.sessions.v1.admin_service_pb2 import GetSystemRequest
from rest_facade.console.parts import PARTS, Add
from rest_facade.console.render import respond_part
from rest_facade.console.status import HEALTHS
from rest_facade.routes.caller import request_metadata
from rest_facade.shapes.response import Response
from rest_facade.upstream.backend import Backend


def add_parts(add: Add, backend: Backend) -> None:
    """Gives the console what it tells of the service itself."""

    def show_system() -> Response:
        """The whole of the page's data: one call answers it all."""
        system = backend.call(backend.admin.GetSystem, GetSystemRequest(), request_metadata())
        return respond_part("parts/system.html", system=system, healths=HEALTHS)

    add(f"{PARTS}/system", show_system)
