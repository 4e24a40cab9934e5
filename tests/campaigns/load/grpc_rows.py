"""gRPC by h2load: the CPU time of calls beside that of a no-op whose messages have the same sizes."""

from contextlib import ExitStack
from typing import Final

import psutil

from eliza.sessions.v1 import agent_pb2, agent_service_pb2, message_service_pb2, session_service_pb2
from tests.campaigns.load import h2load
from tests.campaigns.load.figures import ANSWERED, CPU, Figures, Plan
from tests.campaigns.load.sessions import CONTENT, create, settle
from tests.campaigns.load.subjects import Checkout, no_op, started
from tests.support.service import ECHO, Serve

CONNECTIONS: Final = 8
GET: Final = "/eliza.sessions.v1.SessionService/GetSession"
SEND: Final = "/eliza.sessions.v1.MessageService/SendMessage"


def silent_agent(service: Serve) -> str:
    """The id of an agent that nobody works for: messages for it are stored, and get no replies."""
    agent = agent_pb2.Agent(name="nobody works for it", kind=agent_pb2.AGENT_KIND_STREAM)
    return service.agents.CreateAgent(
        agent_service_pb2.CreateAgentRequest(agent=agent), timeout=30
    ).agent.agent_id


class Grpc:
    """The loads on the service of one checkout, with new sessions for each."""

    def __init__(self, service: Serve, seconds: float) -> None:
        self._service = service
        self._seconds = seconds
        self._process = psutil.Process(service.process.pid)
        self._silent = silent_agent(service)
        self.ids: list[str] = []

    def get(self) -> tuple[h2load.Calls, bytes, int]:
        """The calls, a request, and the size of its answer."""
        requests = [
            session_service_pb2.GetSessionRequest(session_id=one)
            for one in create(self._service, CONNECTIONS)
        ]
        size = self._service.sessions.GetSession(requests[0], timeout=30).ByteSize()
        return self._drive(GET, [one.SerializeToString() for one in requests], size)

    def send(self) -> tuple[h2load.Calls, bytes, int]:
        return self._send(self._silent)

    def reply(self) -> tuple[h2load.Calls, bytes, int]:
        calls, request, size = self._send(ECHO)
        settle(self._process, calls, self._service, self.ids)
        return calls, request, size

    def _send(self, agent_id: str) -> tuple[h2load.Calls, bytes, int]:
        self.ids = create(self._service, CONNECTIONS, agent_id=agent_id)
        requests = [
            message_service_pb2.SendMessageRequest(session_id=one, content=CONTENT) for one in self.ids
        ]
        size = self._service.messages.SendMessage(requests[0], timeout=30).ByteSize()
        return self._drive(SEND, [one.SerializeToString() for one in requests], size)

    def _drive(self, method: str, messages: list[bytes], size: int) -> tuple[h2load.Calls, bytes, int]:
        calls = h2load.drive(self._process, self._service.grpc, method, messages, self._seconds, size)
        return calls, messages[0], size


def measure(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """The CPU time of gRPC calls, in rounds of all that is wanted."""
    with ExitStack() as stack:
        bare = stack.enter_context(started(no_op()))
        services = {one.name: Grpc(stack.enter_context(one.service()), plan.seconds) for one in checkouts}
        for turn in plan.alternate(services):
            for name in ("grpc-get", "grpc-send", "grpc-reply"):
                if not plan.wants(name):
                    continue
                found = {subject: getattr(one, name.removeprefix("grpc-"))() for subject, one in turn}
                _, request, size = next(iter(found.values()))
                method = f"/no-op/{size}"
                nothing = h2load.drive(
                    bare.process, bare.address, method, [request] * CONNECTIONS, plan.seconds, size
                )
                for subject, (calls, _, _) in found.items():
                    figures.add(
                        name,
                        subject,
                        calls.cpu_us / nothing.cpu_us,
                        **{"per s": calls.done / calls.seconds, CPU: calls.cpu_us, ANSWERED: calls.answered},
                        **{
                            "failed": calls.failed,
                            "no-op CPU µs": nothing.cpu_us,
                            "no-op per s": nothing.done / nothing.seconds,
                        },
                    )
