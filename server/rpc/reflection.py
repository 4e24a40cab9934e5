"""Server reflection under both of its names: the library has `v1alpha` alone, newer tools ask for `v1`."""

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from server.rpc.services import Services

ALPHA_PACKAGE: Final = "grpc.reflection.v1alpha"
PACKAGE: Final = "grpc.reflection.v1"
SERVICE_NAMES: Final = (f"{PACKAGE}.ServerReflection", f"{ALPHA_PACKAGE}.ServerReflection")


def add_reflection(names: Sequence[str], server: Services) -> None:
    """Serves reflection for the services of these names, and for itself."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer((*names, *SERVICE_NAMES))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # The messages of both versions are the same on the wire.
    handlers = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
    server.add_registered_method_handlers(SERVICE_NAMES[0], handlers)


def _describe_v1() -> None:
    """Adds the file of `v1`, a copy of `v1alpha` in another package, so that tools can describe it."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = PACKAGE
    for message in file.message_type:
        for field in filter(lambda field: field.HasField("type_name"), message.field):
            field.type_name = field.type_name.replace(ALPHA_PACKAGE, PACKAGE)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(ALPHA_PACKAGE, PACKAGE)
        method.output_type = method.output_type.replace(ALPHA_PACKAGE, PACKAGE)
    descriptor_pool.Default().Add(file)
