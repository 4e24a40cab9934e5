"""A collector of OpenTelemetry's protocol: what services send it, it keeps."""

import threading
from concurrent import futures
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Sent:
    """A span, as it came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens on a port of its own. A context manager, which ends it.

    Where it is `stuck`, it answers nothing until it ends.
    """

    def __init__(self, *, stuck: bool = False) -> None:
        self.spans: list[Sent] = []
        self.asked = threading.Event()
        self._ended = threading.Event()
        if not stuck:
            self._ended.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.stop(None).wait()

    @property
    def variables(self) -> dict[str, str]:
        """What sends the spans of a service here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def Export(self, request: Any, context: Any) -> Any:
        self.asked.set()
        self._ended.wait()
        for resource in request.resource_spans:
            facts = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    self.spans.append(Sent(facts["service.name"], span.name, *ids))
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Sent]:
        return [span for span in self.spans if span.name == name]
