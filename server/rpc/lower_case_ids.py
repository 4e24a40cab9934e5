"""The one door at which the ids of requests become lower case, which they are in the store.

A caller may write a UUID in either case. Nobody behind this door changes the case of an id.
"""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from eliza.sessions.v1 import (
    admin_service_pb2,
    agent_service_pb2,
    clock_service_pb2,
    message_service_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from server.rpc.large_requests import Read

IDS: Final = frozenset(("session_id", "channel_id", "agent_id", "user_id", "delivery_id", "message_id"))
"""The names of the fields that hold ids."""

EXEMPT: Final = frozenset(
    (
        # `uuid_field` reads these; its error repeats them as they were sent.
        "CreateSessionRequest.agent_id",
        "CreateSessionRequest.user_id",
        "ListSessionsRequest.agent_id",
        "ListSessionsRequest.user_id",
        "CreateAgentRequest.agent.agent_id",
        "SearchSessionsRequest.agent_id",
        "SearchSessionsRequest.user_id",
        "ListUserSessionsRequest.user_id",
        "ExportUserDataRequest.user_id",
        "DeleteUserDataRequest.user_id",
        # Nobody reads this: a status is not for clients to set.
        "CreateAgentRequest.agent.status.last_failure.session_id",
        "CreateAgentRequest.agent.status.last_failure.message_id",
        "UpdateAgentRequest.agent.status.last_failure.session_id",
        "UpdateAgentRequest.agent.status.last_failure.message_id",
    )
)
"""The ids in requests that keep their case."""

_Path = tuple[tuple[str, ...], str]
"""The messages on the way to a field, and the field."""


def lower_ids(method: str, read: Read) -> Read:
    """Makes a reader of a method's requests that also lower-cases their ids, in place.

    It leaves alone what is no message, such as a HalvedChunk.
    """
    paths = _PATHS.get(method)
    if not paths:
        return read

    def read_and_lower(raw: Any) -> Any:
        request = read(raw)
        if isinstance(request, Message):
            for parents, name in paths:
                holder: Any = request
                for parent in parents:
                    holder = getattr(holder, parent)
                text = getattr(holder, name)
                if (lowered := text.lower()) != text:
                    setattr(holder, name, lowered)
        return request

    return read_and_lower


def find_ids(request: Descriptor) -> Iterator[_Path]:
    """Finds the ids of a request that are not exempt, also those of the messages inside it."""
    for parents, name in _find_named(request, ()):
        if ".".join((request.name, *parents, name)) not in EXEMPT:
            yield parents, name


def _find_named(message: Descriptor, parents: tuple[str, ...]) -> Iterator[_Path]:
    for field in message.fields:
        inner = field.message_type
        if field.name in IDS:
            yield parents, field.name
        elif inner is not None and inner.file.package == message.file.package:
            yield from _find_named(inner, (*parents, field.name))


_PATHS: Final[dict[str, tuple[_Path, ...]]] = {
    f"/{service.full_name}/{method.name}": tuple(find_ids(method.input_type))
    for module in (
        session_service_pb2,
        message_service_pb2,
        agent_service_pb2,
        user_data_service_pb2,
        admin_service_pb2,
        clock_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
