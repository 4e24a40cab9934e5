"""Client and agent worker for eliza-sessions. See README.md.

`Client` and `AsyncClient` make calls, `errors` has their errors. `agent` and `run` make a program that
answers for an agent, `converse_with` and `TestWorker` test it.
"""

from eliza_sessions_client import error_classes as errors
from eliza_sessions_client._api import (
    agent_pb2,
    log_pb2,
    message_pb2,
    message_service_pb2,
    session_pb2,
    session_service_pb2,
    user_data_service_pb2,
)
from eliza_sessions_client.agent import Agent, AgentError, Reply, Turn, agent
from eliza_sessions_client.aio import AsyncClient
from eliza_sessions_client.calls import Timeouts
from eliza_sessions_client.client import Client
from eliza_sessions_client.connection import ConnectionOptions
from eliza_sessions_client.errors import SessionsError
from eliza_sessions_client.ids import user_id_for
from eliza_sessions_client.streams import ConversePart, WatchEvent
from eliza_sessions_client.testing import Answer, TestWorker, converse_with
from eliza_sessions_client.values import to_dict, to_list
from eliza_sessions_client.worker import Worker, run, serve

Session = session_pb2.Session
Message = message_pb2.Message
SentMessage = message_service_pb2.SendMessageResponse
LogEntry = log_pb2.LogEntry
ReplyChunk = log_pb2.ReplyChunk
ReplyAborted = log_pb2.ReplyAborted
SessionDeleted = log_pb2.SessionDeleted
AgentRecord = agent_pb2.Agent
AccessToken = session_service_pb2.CreateAccessTokenResponse
ErasureReceipt = user_data_service_pb2.DeleteUserDataResponse.Receipt

__all__ = [
    "AccessToken",
    "Agent",
    "AgentError",
    "AgentRecord",
    "Answer",
    "AsyncClient",
    "Client",
    "ConnectionOptions",
    "ConversePart",
    "ErasureReceipt",
    "LogEntry",
    "Message",
    "Reply",
    "ReplyAborted",
    "ReplyChunk",
    "SentMessage",
    "Session",
    "SessionDeleted",
    "SessionsError",
    "TestWorker",
    "Timeouts",
    "Turn",
    "WatchEvent",
    "Worker",
    "agent",
    "converse_with",
    "errors",
    "run",
    "serve",
    "to_dict",
    "to_list",
    "user_id_for",
]
