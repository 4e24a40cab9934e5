"""`python -m tests.campaigns.access.cost`: what a credential costs a call, as a share of an open one.

A REST get by wrk and a SendMessage by h2load, for each kind of credential, in alternating rounds of one run.
The share is that of the CPU time of an open call in that of an authenticated one, so 1 means that the
credential is free; the goal is 0.95, and 0.9 for a JWT.
"""

import argparse
import sys
from statistics import median
from typing import Final

import psutil

from eliza.sessions.v1 import message_service_pb2
from tests.campaigns.access.subjects import Caller, callers
from tests.campaigns.load import h2load, wrk

SEND: Final = "/eliza.sessions.v1.MessageService/SendMessage"
CONNECTIONS: Final = 8
GOALS: Final = {"a JWT": 0.9}
GOAL: Final = 0.95


def rest_get(caller: Caller, seconds: int) -> float:
    """CPU microseconds of a REST get."""
    paths = [f"/api/messaging/sessions/{one}" for one in caller.session_ids]
    process = psutil.Process(caller.service.process.pid)
    load = wrk.drive(process, caller.service.rest, "GET", paths, None, seconds, headers=caller.headers)
    if load.answered < 1:
        raise RuntimeError(f"only {load.answered:.3f} of the requests were answered")
    return load.cpu_us


def grpc_send(caller: Caller, seconds: int) -> float:
    """CPU microseconds of a SendMessage."""
    ids = [caller.session_ids[n % len(caller.session_ids)] for n in range(CONNECTIONS)]
    requests = [message_service_pb2.SendMessageRequest(session_id=one, content="Hello") for one in ids]
    answer = caller.service.messages.SendMessage(
        requests[0], metadata=tuple(caller.headers.items()), timeout=30
    )
    process = psutil.Process(caller.service.process.pid)
    messages = [one.SerializeToString() for one in requests]
    load = h2load.drive(
        process, caller.service.grpc, SEND, messages, seconds, answer.ByteSize(), caller.headers
    )
    if load.answered < 0.9:
        raise RuntimeError(f"only {load.answered:.3f} of the calls were answered")
    return load.cpu_us


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints. Ends with status 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args(arguments)
    missed = []
    with callers(1) as subjects:
        print(f"{'':18} {'call':14} {'CPU µs':>8} {'share':>6}  of an open call")
        for name, measure in (("REST get", rest_get), ("gRPC SendMessage", grpc_send)):
            found: dict[str, list[float]] = {subject: [] for subject in subjects}
            for number in range(options.rounds):
                turns = list(subjects.items())
                # There and back, so that what grows on the way hits all alike.
                for subject, caller in turns if number % 2 else turns[::-1]:
                    found[subject].append(measure(caller, options.seconds))
            for subject, values in found.items():
                # Of the same round each, so that a busy moment of the machine hits both.
                shares = [before / after for before, after in zip(found["open"], values, strict=True)]
                share = median(shares)
                print(f"{name:18} {subject:16} {median(values):8.0f} {share:6.2f}", flush=True)
                if share < GOALS.get(subject, GOAL):
                    missed.append(f"{name} with {subject}: {share:.2f}")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
