"""Reads the ErrorInfo of a failed call from the `google.rpc.Status` in its trailing metadata.

The messages of `google.rpc` are declared here once more, as far as they are needed, in a pool of their own:
so the package googleapis-common-protos is not needed, and does no harm where it is installed.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

DOMAIN: Final = "eliza.sessions.v1"
"""The `domain` of the errors of this API."""

_KEY: Final = "grpc-status-details-bin"
_PACKAGE: Final = "eliza_sessions_client.status"
_ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
_MESSAGES: Final = {
    # An `Any` is two fields, and a map is a list of entries.
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "Status": {"details": (3, "Any")},
    "Entry": {"key": (1, "string"), "value": (2, "string")},
    "ErrorInfo": {"reason": (1, "string"), "domain": (2, "string"), "metadata": (3, "Entry")},
}
_SCALARS: Final = {"string": FieldDescriptorProto.TYPE_STRING, "bytes": FieldDescriptorProto.TYPE_BYTES}


class ErrorInfo(NamedTuple):
    """Which row of the error table a failure is, and its details as they came."""

    reason: str
    details: dict[str, str]


def _declare() -> DescriptorPool:
    file = FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = message.field.add(name=field, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind in _SCALARS:
                added.type = _SCALARS[kind]
            else:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
                added.label = FieldDescriptorProto.LABEL_REPEATED
    pool = DescriptorPool()
    pool.Add(file)
    return pool


_POOL: Final = _declare()


def _read(name: str, data: bytes) -> Any:
    message = GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))()
    message.ParseFromString(data)
    return message


def error_info(trailers: Iterable[tuple[str, str | bytes]] | None) -> ErrorInfo | None:
    """The ErrorInfo in a call's trailing metadata; None where there is none of this API."""
    raw = next((value for key, value in trailers or () if key == _KEY), b"")
    try:
        status = _read("Status", raw if isinstance(raw, bytes) else raw.encode())
        infos = [_read("ErrorInfo", one.value) for one in status.details if one.type_url == _ERROR_INFO]
    except DecodeError:
        return None
    for info in infos:
        if info.domain == DOMAIN:
            return ErrorInfo(info.reason, {entry.key: entry.value for entry in info.metadata})
    return None
