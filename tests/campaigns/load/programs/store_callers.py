"""Callers of stores without any RPC, for whoever gives this process lines: a JSON array each, and an answer
in JSON to each.

`["fill", url, count]` makes the sessions that loads are on. `["load", url, "send" or "get", callers,
sessions, seconds]` is answered with `"ready"` once each caller has had an answer. It begins with the next
line, and comes to a `told`.
"""

import asyncio
import hashlib
import json
import logging
import random
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog
import uvloop

from server.domain.access import EVERYTHING
from server.domain.agents import Agent, AgentKind
from server.domain.ids import id_at
from server.domain.messages import Draft
from server.domain.sessions import create, send_message
from server.settings import Settings
from server.store import build_clock, open_store
from server.store.contract import Store

SILENT: Final = "00000000-0000-4000-8000-0000000000f0"
"""An agent that nobody works for: messages for it are stored, and get no replies."""
USER: Final = "11111111-1111-4111-8111-111111111111"
CONTENT: Final = "How do I reset my password?"
AT_A_TIME: Final = 2000
WITHOUT_END: Final = 10**9

_answers: Final = sys.stdout

Call = Callable[[str], Awaitable[object]]


def session_id(number: int) -> str:
    """The id of a session, as SQL says it, too: `md5('s' || number)::uuid`."""
    return str(uuid.UUID(hashlib.md5(f"s{number}".encode()).hexdigest()))


async def fill(url: str, count: int) -> None:
    store = await open_store(url, build_clock(url, is_test=False))
    await store.create_agent(Agent(SILENT, "nobody works for it", AgentKind.STREAM, 0, 0))
    settings = Settings(session_default_timeout_minutes=1440, session_max_duration_minutes=1440)
    for begin in range(1, count + 1, AT_A_TIME):
        rules = (
            partial(
                create,
                session_id=session_id(number),
                channel_id=str(uuid.uuid4()),
                agent_id=SILENT,
                user_id=USER,
                metadata="{}",
                policy=settings.timeout_policy,
            )
            for number in range(begin, min(begin + AT_A_TIME, count + 1))
        )
        await asyncio.gather(*(store.create_session(SILENT, rule, scope=EVERYTHING) for rule in rules))
    await store.close()


def _call(what: str, store: Store) -> Call:
    if what == "get":
        return partial(store.get_session, scope=EVERYTHING)

    def send(session: str) -> Awaitable[object]:
        rule = partial(
            send_message,
            message_id=id_at(time.time_ns() // 10**6),
            draft=Draft(CONTENT),
            max_open=WITHOUT_END,
        )
        return store.apply(session, rule, scope=EVERYTHING)

    return send


async def load(url: str, what: str, callers: int, sessions: int, seconds: float) -> dict[str, float]:
    store = await open_store(url, build_clock(url, is_test=False))
    call, ids = _call(what, store), [session_id(number) for number in range(1, sessions + 1)]
    await asyncio.gather(*(call(random.choice(ids)) for _ in range(callers)))
    say("ready")
    await next_line()
    taken: list[float] = []
    begun, begun_cpu = time.perf_counter(), time.process_time()
    end = begun + seconds

    async def caller() -> None:
        while (now := time.perf_counter()) < end:
            await call(random.choice(ids))
            taken.append(time.perf_counter() - now)

    await asyncio.gather(*(caller() for _ in range(callers)))
    found = told(taken, time.perf_counter() - begun, time.process_time() - begun_cpu)
    await store.close()
    return found


def told(taken: list[float], seconds: float, cpu_seconds: float) -> dict[str, float]:
    """What came of a load: how many calls in how many seconds, the CPU time of who made them, and how long
    the calls took.
    """
    cuts = statistics.quantiles(taken, n=100)
    return {
        "done": len(taken),
        "seconds": seconds,
        "cpu seconds": cpu_seconds,
        "p50 ms": cuts[49] * 1000,
        "p99 ms": cuts[98] * 1000,
    }


def say(answer: object) -> None:
    """Gives an answer."""
    print(json.dumps(answer), file=_answers, flush=True)


async def next_line() -> str:
    """The next line of the standard input; empty at its end."""
    return await asyncio.to_thread(sys.stdin.readline)


async def serve(do: Callable[..., Awaitable[object]]) -> None:
    """Carries out what the lines of the standard input say, and prints what that returns. The log of the
    store goes to the standard error.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    while line := await next_line():
        say(await do(*json.loads(line)))


async def _do(what: str, *arguments: Any) -> object:
    return await {"fill": fill, "load": load}[what](*arguments)


if __name__ == "__main__":
    uvloop.run(serve(_do))
