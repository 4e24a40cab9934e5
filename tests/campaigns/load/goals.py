"""What the benchmark measures, and what is wanted of it: the table of rows."""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Row:
    """One figure of a checkout."""

    name: str
    what: str
    unit: str = ""
    goal: float | None = None
    better: Literal["more", "less"] = "less"
    of_other: bool = False
    """The goal is a share of the second checkout's figure, not a figure."""

    def told_goal(self) -> str:
        """The goal in words."""
        if self.goal is None:
            return ""
        return f"{'≥' if self.better == 'more' else '≤'} {self.goal:g}{' of other' if self.of_other else ''}"

    def is_reached(self, figure: float, other: float | None) -> bool | None:
        """Whether a figure is as wanted; None where nothing is wanted, or nothing is there to
        compare with.
        """
        if self.goal is None or (self.of_other and not other):
            return None
        bound = self.goal * other if self.of_other and other else self.goal
        return figure >= bound if self.better == "more" else figure <= bound


HELLO: Final = "rate, of a Flask hello's under gunicorn"
NO_OP: Final = "CPU, of a no-op's of the same size"

ROWS: Final = (
    Row("rest-get", f"REST get: {HELLO}", "×", 2.6, "more"),
    Row("rest-create", f"REST create: {HELLO}", "×", 1.2, "more"),
    Row("rest-send", f"REST send, its reply in the background: {HELLO}", "×", 1.0, "more"),
    Row("rest-reply", f"REST send with reply: {HELLO}", "×", 0.8, "more"),
    Row("rest-page", f"REST page of 50: {HELLO}", "×", 0.5, "more"),
    Row("host-cpu", "REST get: CPU, of a constant view's with stock Flask on the same host", "×", 1.5),
    Row("rich-page", "REST page of 50, metadata of four nested fields: CPU", "µs"),
    Row("rich-list", "REST list of 100, the same metadata: CPU", "µs"),
    Row("rich-send", "REST send and its reply, the same metadata: CPU", "µs"),
    Row(
        "list-stored", "REST list of 10: rate with many sessions stored, of that with 100", "×", 0.95, "more"
    ),
    Row("grpc-get", f"gRPC GetSession: {NO_OP}", "×", 1.45),
    Row("grpc-send", f"gRPC SendMessage: {NO_OP}", "×", 1.6),
    Row("grpc-reply", f"gRPC SendMessage and the echo's reply: {NO_OP}", "×", 3.5),
    Row("no-op-beside-pages", "a gRPC no-op beside saturating REST pages: p50", "ms", 12),
    Row("lag-grpc", "lag of the loop, a session with many gRPC watchers written to: p99", "ms", 20),
    Row("lag-rest", "lag of the loop, a session with many event streams written to: p99", "ms", 20),
    Row("memory", "memory of serve at rest, all its processes (PSS)", "MiB", 0.7, of_other=True),
    Row("start", "start of serve until `ready`", "s", 0.6, of_other=True),
    Row("overload-grpc", "gRPC overload at up to four times the peak: goodput of the peak", "×", 0.8, "more"),
    Row("health-grpc", "health over gRPC meanwhile: p99", "ms", 100),
    Row("overload-rest", "REST overload at up to four times the peak: goodput of the peak", "×", 0.8, "more"),
    Row("health-rest", "health over REST meanwhile: p99", "ms", 100),
)
BY_NAME: Final = {row.name: row for row in ROWS}
