"""`python -m tests.load.forms`: what metadata and attachments cost as JSON text and as a Struct, and what many watchers cost others.

A fresh service is started, with a session whose metadata has four nested fields. Calls are made one after the other, kinds in turns; what
counts is the CPU time of the service (server and facade) per call. Then messages are sent to sessions that many watch: the CPU time per
event, and how long another client's GetSession takes at worst meanwhile, beside the same at rest.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil

from eliza.sessions import values
from eliza.sessions.v1.json_form_pb2 import JSON_FORM_TEXT
from eliza.sessions.v1.message_service_pb2 import ListMessagesRequest, SendMessageRequest
from eliza.sessions.v1.session_service_pb2 import GetSessionRequest, ListSessionsRequest, WatchSessionRequest
from tests.harness import USER, Serve
from tests.load.bench import CONTENT, cpu_seconds

METADATA = {"plan": "pro", "browser": {"name": "Firefox", "version": [128, 0.5]}, "tags": ["a", "b", "c"], "beta": True}
MANY_VALUES = [{"label": f"value {number} of many of these", "x": number} for number in range(660)]
WORDS = "word " * 800


def call_in_turns(service: Serve, calls: dict[str, Callable[[], object]], turns: int, times: int) -> None:
    """Prints the CPU time per call of each kind."""
    process, spent = psutil.Process(service.process.pid), {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            before = cpu_seconds(process)
            for _ in range(times):
                call()
            spent[name].append((cpu_seconds(process) - before) / times * 1e6)
    for name, found in spent.items():
        print(f"{name:<40} {statistics.median(found):8.0f} µs   (least {min(found):.0f})")


class Prober:
    """Another client: how long its GetSession takes at worst, while it runs."""

    def __init__(self, service: Serve, session_id: str) -> None:
        self._request = GetSessionRequest(session_id=session_id)
        self._service = service
        self._stop = threading.Event()
        self._taken: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            begun = time.perf_counter()
            self._service.sessions.GetSession(self._request, timeout=60)
            self._taken.append(time.perf_counter() - begun)

    def stop(self) -> str:
        """Ends; tells the median and the worst."""
        self._stop.set()
        self._thread.join()
        return f"GetSession: median {statistics.median(self._taken) * 1e3:.1f}, worst {max(self._taken) * 1e3:.0f} ms"


def tell_many(service: Serve, watchers: int, content: str, attachments: list[object] | None, times: int) -> None:
    """Sends messages to a session that many watch over gRPC, until all have the echo's replies; prints what it cost."""
    session_id, other = service.create(metadata=METADATA)["sessionId"], service.create()["sessionId"]
    streams = [service.sessions.WatchSession(WatchSessionRequest(session_id=session_id), timeout=600) for _ in range(watchers)]
    process, told = psutil.Process(service.process.pid), 0

    def read_reply(stream: object, counts: list[int], number: int) -> None:
        for answer in stream:  # type: ignore[attr-defined]
            counts[number] += 1
            if answer.entry.message.is_agent:
                return

    prober = Prober(service, other)
    before = cpu_seconds(process)
    for _ in range(times):
        body: dict[str, object] = {"content": content, **({"attachments": attachments} if attachments else {})}
        assert service.http.post(f"{service.url}/{session_id}/messages", json=body, timeout=60).status_code == 201
        counts = [0] * watchers
        readers = [threading.Thread(target=read_reply, args=(stream, counts, number)) for number, stream in enumerate(streams)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        told += sum(counts)
    each = (cpu_seconds(process) - before) / times
    print(f"  {each * 1e3:.0f} ms of CPU for each message and its reply, {told / times / watchers:.0f} events for each; {prober.stop()}")
    for stream in streams:
        stream.cancel()


def main() -> None:
    """Runs it, and prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="how often each kind has its turn (default 5)")
    parser.add_argument("--times", type=int, default=100, help="how many calls are made in a turn (default 100)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        service = Serve(Path(directory), MAX_OPEN_DELIVERIES="1000000")
        try:
            session_id = service.create(metadata=METADATA)["sessionId"]
            for _ in range(99):
                service.create(metadata=METADATA)
            for number in range(25):
                service.messages.SendMessage(SendMessageRequest(session_id=session_id, content=f"{CONTENT} {number}"), timeout=60)
            url, sends = f"{service.url}/{session_id}/messages", service.create(metadata=METADATA)["sessionId"]
            struct = SendMessageRequest(session_id=sends, content=CONTENT, metadata=values.struct(METADATA))
            text = SendMessageRequest(
                session_id=sends, content=CONTENT, metadata_json=orjson.dumps(METADATA).decode(), json_form=JSON_FORM_TEXT
            )
            page, sessions = ListMessagesRequest(session_id=session_id), ListSessionsRequest(user_id=USER)
            page_text = ListMessagesRequest(session_id=session_id, json_form=JSON_FORM_TEXT)
            sessions_text = ListSessionsRequest(user_id=USER, json_form=JSON_FORM_TEXT)
            body = {"content": CONTENT, "metadata": METADATA}
            messages, http = service.messages, service.http
            call_in_turns(
                service,
                {
                    "page of 50, gRPC, Struct": lambda: messages.ListMessages(page, timeout=60),
                    "page of 50, gRPC, text": lambda: messages.ListMessages(page_text, timeout=60),
                    "page of 50, REST": lambda: http.get(f"{url}?limit=50", timeout=60),
                    "list of 100, gRPC, Struct": lambda: service.sessions.ListSessions(sessions, timeout=60),
                    "list of 100, gRPC, text": lambda: service.sessions.ListSessions(sessions_text, timeout=60),
                    "list of 100, REST": lambda: http.get(f"{service.url}?limit=100", timeout=60),
                    "send and its reply, gRPC, Struct": lambda: messages.SendMessage(struct, timeout=60),
                    "send and its reply, gRPC, text": lambda: messages.SendMessage(text, timeout=60),
                    "send and its reply, REST": lambda: http.post(f"{service.url}/{sends}/messages", json=body, timeout=60),
                },
                arguments.turns,
                arguments.times,
            )
            prober = Prober(service, session_id)
            time.sleep(2)
            print(f"At rest: {prober.stop()}")
            print("A message with 1,980 values to 50 watchers:")
            tell_many(service, 50, "hi", [*MANY_VALUES], 5)
            print("A message of 800 words, echoed word by word, to 100 watchers:")
            tell_many(service, 100, WORDS, None, 5)
        finally:
            service.stop()


if __name__ == "__main__":
    main()
