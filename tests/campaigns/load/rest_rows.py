"""REST by wrk: rates beside a Flask hello under gunicorn, and CPU beside a constant view on the same host."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import Final

import orjson
import psutil

from eliza.sessions.v1 import message_service_pb2
from tests.campaigns.load import wrk
from tests.campaigns.load.figures import ANSWERED, CPU, Figures, Plan
from tests.campaigns.load.sessions import CONTENT, METADATA, RICH_USER, create, settle, wait_for_replies
from tests.campaigns.load.subjects import Checkout, hello, run, started
from tests.support.service import ECHO, USER, Serve

SESSIONS: Final = "/api/messaging/sessions"
MANY: Final = 64
"""Sessions that a load goes round: twice as many as wrk has connections."""
PAGE: Final = 50


class Rest:
    """The loads on the service of one checkout."""

    def __init__(self, service: Serve, seconds: int) -> None:
        self._service = service
        self._seconds = seconds
        self._process = psutil.Process(service.process.pid)
        self._ids = create(service, MANY)
        self._pages = {rich: self._talks(rich) for rich in (False, True)}

    def get(self) -> wrk.Answers:
        return self._drive("GET", [f"{SESSIONS}/{one}" for one in self._ids])

    def create(self) -> wrk.Answers:
        return self._drive("POST", [SESSIONS], {"agentId": ECHO, "userId": USER})

    def send(self) -> wrk.Answers:
        return self._send({"content": CONTENT})

    def rich_send(self) -> wrk.Answers:
        return self._send({"content": CONTENT, "metadata": METADATA})

    def reply(self) -> wrk.Answers:
        return self._drive(
            "POST", self._messages(create(self._service, MANY)), {"content": CONTENT, "transport": "http"}
        )

    def page(self) -> wrk.Answers:
        return self._drive("GET", [f"{path}?limit={PAGE}" for path in self._messages(self._pages[False])])

    def rich_page(self) -> wrk.Answers:
        return self._drive("GET", [f"{path}?limit={PAGE}" for path in self._messages(self._pages[True])])

    def rich_list(self) -> wrk.Answers:
        return self._drive("GET", [f"{SESSIONS}?userId={RICH_USER}&limit=100"])

    def _send(self, body: object) -> wrk.Answers:
        ids = create(self._service, MANY)
        load = self._drive("POST", self._messages(ids), body)
        settle(self._process, load, self._service, ids)
        return load

    def _drive(self, method: str, paths: list[str], body: object = None) -> wrk.Answers:
        text = None if body is None else orjson.dumps(body).decode()
        return wrk.drive(self._process, self._service.rest, method, paths, text, self._seconds)

    def _talks(self, rich: bool) -> list[str]:
        """Sessions with a page of messages each; where they are rich, in a list of a hundred."""
        ids = (
            create(self._service, 100, user_id=RICH_USER, rich=True)[:4] if rich else create(self._service, 4)
        )
        for session_id in ids:
            for number in range(PAGE // 2):
                request = message_service_pb2.SendMessageRequest(
                    session_id=session_id, content=f"{CONTENT} {number}"
                )
                self._service.messages.SendMessage(request, timeout=30)
        wait_for_replies(self._service, ids)
        return ids

    @staticmethod
    def _messages(ids: list[str]) -> list[str]:
        return [f"{SESSIONS}/{one}/messages" for one in ids]


def details(load: wrk.Answers) -> dict[str, float]:
    """What else is noted of a load."""
    return {"per s": load.rate, CPU: load.cpu_us, "p99 ms": load.p99_ms, ANSWERED: load.answered}


def measure(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """Rates and CPU of REST, in rounds of all that is wanted."""
    if plan.wants("host-cpu"):
        plan = replace(plan, rows=plan.rows | {"rest-get"})
    with ExitStack() as stack:
        flask = stack.enter_context(hello())
        rests = {one.name: Rest(stack.enter_context(one.service()), plan.whole_seconds) for one in checkouts}
        hosts = {
            one.name: stack.enter_context(started(one.program("constant_view.py"), one.root))
            for one in checkouts
            if plan.wants("host-cpu")
        }
        wrk.drive(flask.process, flask.address, "GET", ["/"], None, 1)
        for turn in plan.alternate(rests):
            said = wrk.drive(flask.process, flask.address, "GET", ["/"], None, plan.whole_seconds)
            gets = {}
            for name in filter(
                plan.wants, ("rest-get", "rest-create", "rest-send", "rest-reply", "rest-page")
            ):
                for subject, rest in turn:
                    load = getattr(rest, name.removeprefix("rest-"))()
                    gets.setdefault(subject, load)
                    figures.add(
                        name, subject, load.rate / said.rate, **details(load), **{"hello per s": said.rate}
                    )
            for subject, host in hosts.items():
                load = wrk.drive(host.process, host.address, "GET", ["/"], None, plan.whole_seconds)
                figures.add("host-cpu", subject, gets[subject].cpu_us / load.cpu_us, **details(load))


def measure_rich(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """The CPU time of REST where metadata has nested fields, on services in which nothing else is stored."""
    with ExitStack() as stack:
        rests = {one.name: Rest(stack.enter_context(one.service()), plan.whole_seconds) for one in checkouts}
        for turn in plan.alternate(rests):
            for name in filter(plan.wants, ("rich-page", "rich-list", "rich-send")):
                for subject, rest in turn:
                    load = getattr(rest, name.replace("-", "_"))()
                    figures.add(name, subject, load.cpu_us, **details(load))


def measure_lists(checkouts: list[Checkout], plan: Plan, figures: Figures) -> None:
    """The rate of a list of 10, with few sessions stored and with many."""
    with ExitStack() as stack:
        services: dict[tuple[str, int], Serve] = {}
        for one in checkouts:
            for stored in (100, plan.stored):
                directory = Path(stack.enter_context(TemporaryDirectory()))
                try:
                    run([*one.program("filled.py"), str(directory / "store.db"), str(stored)], one.root)
                except CalledProcessError:
                    if one is checkouts[0]:
                        raise
                    # An earlier version has its store elsewhere, and no program of its own.
                    break
                services[one.name, stored] = one.serve(directory)
                stack.callback(services[one.name, stored].stop)
        for _ in range(plan.rounds):
            for one in (one for one in checkouts if (one.name, plan.stored) in services):
                loads = []
                for stored in (100, plan.stored):
                    service = services[one.name, stored]
                    process = psutil.Process(service.process.pid)
                    path = f"{SESSIONS}?limit=10"
                    loads.append(wrk.drive(process, service.rest, "GET", [path], None, plan.whole_seconds))
                few, many = loads
                noted = {"stored": plan.stored, "per s with 100": few.rate, "CPU µs with 100": few.cpu_us}
                figures.add("list-stored", one.name, many.rate / few.rate, **details(many), **noted)
