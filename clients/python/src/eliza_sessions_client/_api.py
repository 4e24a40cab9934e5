"""Where the API's stubs are. The wheel has a copy of its own: see hatch_build.py, which changes these
imports.
"""

from eliza.sessions.v1 import (
    agent_pb2,
    agent_service_pb2,
    agent_service_pb2_grpc,
    errors_pb2,
    log_pb2,
    message_pb2,
    message_service_pb2,
    message_service_pb2_grpc,
    session_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    timeout_pb2,
    user_data_service_pb2,
    user_data_service_pb2_grpc,
)

__all__ = [
    "agent_pb2",
    "agent_service_pb2",
    "agent_service_pb2_grpc",
    "errors_pb2",
    "log_pb2",
    "message_pb2",
    "message_service_pb2",
    "message_service_pb2_grpc",
    "session_pb2",
    "session_service_pb2",
    "session_service_pb2_grpc",
    "timeout_pb2",
    "user_data_service_pb2",
    "user_data_service_pb2_grpc",
]
