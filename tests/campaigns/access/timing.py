"""`python -m tests.campaigns.access.timing`: whether the time of an answer tells what it must not tell.

Another's session against nobody's, by reads and by writes, over gRPC and REST; and a key that is wrong in its
last character against one that is wrong from the first. The calls alternate; the medians may differ by 5 %.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

import grpc

from eliza.sessions.v1 import message_service_pb2, session_service_pb2
from tests.campaigns.access.subjects import Caller, callers, unknown_id

GOAL: Final = 0.05
BOB: Final = "bbbbbbbb-0000-4000-8000-00000000000b"


def refused(call: Callable[[], object]) -> float:
    """Microseconds until a call is refused."""
    begun = time.perf_counter()
    try:
        call()
    except grpc.RpcError:
        return (time.perf_counter() - begun) * 1e6
    raise RuntimeError("the call was answered")


def not_found(caller: Caller, session_id: str, headers: dict[str, str]) -> float:
    """Microseconds of a REST get that finds nothing."""
    begun = time.perf_counter()
    answer = caller.service.http.get(f"{caller.service.url}/{session_id}", headers=headers, timeout=30)
    taken = (time.perf_counter() - begun) * 1e6
    if answer.status_code != 404:
        raise RuntimeError(answer.text)
    return taken


def pairs(caller: Caller) -> dict[str, tuple[Callable[[], float], Callable[[], float]]]:
    """What is compared: by name, two measurements that must take the same time."""
    headers = {**caller.headers, "x-on-behalf-of": BOB}
    metadata, service, theirs, nobodys = tuple(headers.items()), caller.service, *_ids(caller)
    options = {"metadata": metadata, "timeout": 30}

    def read(session_id: str) -> float:
        request = session_service_pb2.GetSessionRequest(session_id=session_id)
        return refused(lambda: service.sessions.GetSession(request, **options))

    def write(session_id: str) -> float:
        request = message_service_pb2.SendMessageRequest(session_id=session_id, content="Hello")
        return refused(lambda: service.messages.SendMessage(request, **options))

    def present(key: str) -> float:
        request = session_service_pb2.GetSessionRequest(session_id=nobodys)
        return refused(
            lambda: service.sessions.GetSession(request, metadata=(("x-api-key", key),), timeout=30)
        )

    key = caller.headers["x-api-key"]
    last, first = key[:-1] + ("A" if key[-1] != "A" else "B"), key.replace("es_", "ex_", 1)
    return {
        "gRPC GetSession, another's and nobody's": (partial(read, theirs), partial(read, nobodys)),
        "gRPC SendMessage, another's and nobody's": (partial(write, theirs), partial(write, nobodys)),
        "REST get, another's and nobody's": (
            partial(not_found, caller, theirs, headers),
            partial(not_found, caller, nobodys, headers),
        ),
        "a key wrong at its end and at its beginning": (partial(present, last), partial(present, first)),
    }


def _ids(caller: Caller) -> tuple[str, str]:
    return caller.session_ids[0], unknown_id()


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints. Ends with status 1 where the medians of a pair differ by more than the goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5000, help="of each, alternating (default 5000)")
    options = parser.parse_args(arguments)
    missed = []
    with callers(1) as subjects:
        for name, (one, other) in pairs(subjects["a key"]).items():
            found: tuple[list[float], list[float]] = [], []
            for _ in range(options.calls):
                found[0].append(one())
                found[1].append(other())
            medians = median(found[0]), median(found[1])
            difference = abs(medians[0] - medians[1]) / min(medians)
            print(f"{name}: {medians[0]:.0f} and {medians[1]:.0f} µs, {difference:.1%} apart", flush=True)
            if difference > GOAL:
                missed.append(name)
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
