"""One run: a seeded sequence of what clients, workers, watchers, time and crashes do to the service."""

import gc
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.campaigns.simulation.pinned import world_of
from tests.campaigns.simulation.settings import AGENTS, T0, USERS
from tests.campaigns.simulation.workers import Worker
from tests.campaigns.simulation.world import World

ACTIONS = 60


@dataclass(frozen=True)
class Report:
    """What a run was: the digest of its trace, how often things happened, and what was found."""

    seed: int
    digest: str
    counts: Counter[str]
    problem: str | None = None


def run(seed: int, actions: int = ACTIONS, *, verbose: bool = False) -> Report:
    """Runs the world of a seed."""
    collecting = gc.isenabled()
    # When garbage is collected is no part of the seed.
    gc.disable()
    problem = None
    try:
        with world_of(seed) as world:
            world.verbose = verbose
            try:
                _act(world, actions)
            # Whatever it is, its seed is told.
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                if verbose:
                    raise
            counts = +world.counts + Counter(callbacks=world.loop.steps)
            return Report(seed, world.digest(), counts, problem)
    finally:
        if collecting:
            gc.enable()


def _act(world: World, actions: int) -> None:
    world.start()
    for agent_id in world.workers:
        Worker(world, agent_id, world.chance.randint(1, 3)).connect()
    for _ in range(actions):
        name = world.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if not world.model.sessions and world.chance.random() < 0.5:
            name = "create"
        DEEDS[name](world)
        let_pass(world)
    world.heal()
    world.forget()


def let_pass(world: World) -> None:
    """Some callbacks, or some time."""
    chance = world.chance
    if chance.random() < 0.75:
        world.go(0.05, chance.choice((0, 1, 2, 5, 20, 80)))
    else:
        world.go(chance.choice((0.001, 0.2, 1, 5, 12, 30)))


def _session(world: World) -> str:
    """A session, mostly one that is there."""
    chance, model = world.chance, world.model
    if model.gone and chance.random() < 0.04:
        return chance.choice(list(model.gone))
    if not model.sessions or chance.random() < 0.01:
        return "20000000-0000-4000-8000-000000000000"
    live = [
        session_id for session_id, session in model.sessions.items() if not session.is_expired(world.now_ms())
    ]
    return chance.choice(live) if live and chance.random() < 0.9 else chance.choice(list(model.sessions))


def _request_id(world: World) -> str:
    return world.chance.choice(("", f"request {world.chance.randrange(12)}", f"request {world.loop.steps}"))


def _timeout(world: World, low: float) -> dict[str, Any]:
    chance = world.chance
    choices: dict[str, tuple[Any, ...]] = {
        "timeout": (low, 1, 2, 5, 10, 15, 60, 100),
        "auto_renew": (True, False),
        "duration": (2, 7, 20, 100, 1000),
        "warning": (0, 1, 1.5, 3, 30),
    }
    return {name: chance.choice(options) for name, options in choices.items() if chance.random() < 0.4}


def _create(world: World) -> None:
    chance = world.chance
    if len(world.model.sessions) >= 6:
        return
    agent = "30000000-0000-4000-8000-000000000000" if chance.random() < 0.03 else chance.choice(AGENTS)
    metadata = chance.choice(({}, {"room": "a"}))
    world.call(
        "create",
        agent=agent,
        user=chance.choice(USERS),
        metadata=metadata,
        timeout=_timeout(world, 0.1),
        request=_request_id(world),
    )


def _send(world: World) -> None:
    chance = world.chance
    for _ in range(chance.choice((1, 1, 1, 4))):
        content = (
            chance.choice((f"message {world.loop.steps}", "the same", "", "x" * 4001))
            if chance.random() < 0.2
            else f"m{world.loop.steps}"
        )
        metadata = {"own": "x"} if chance.random() < 0.1 else {}
        request, converse = _request_id(world), chance.random() < 0.25
        world.call(
            "send",
            session=_session(world),
            content=content,
            metadata=metadata,
            request=request,
            converse=converse,
        )


def _again(world: World) -> None:
    """Repeats a call with its request id, and mostly with its content."""
    if world.past:
        call = {key: value for key, value in world.chance.choice(world.past[-12:]).items() if key != "at"}
        if world.chance.random() < 0.2:
            call["metadata"] = {"other": world.chance.randrange(3)}
        world.call(call.pop("kind"), **call)


def _give_up(world: World) -> None:
    """A client goes while its call is under way."""
    if world.calls:
        call = world.chance.choice(list(world.calls))
        assert call.task is not None
        call.task.cancel()
        world.calls.pop(call, None)
        world.note("gives up", call.arguments)


def _etag(world: World, session_id: str) -> str:
    known = [etag for owner, etag in world.model.etags if owner == session_id]
    kind = world.chance.random()
    if kind < 0.5 or not known:
        return ""
    return "*" if kind < 0.55 else known[-1] if kind < 0.85 else world.chance.choice(known)


def _heartbeat(world: World) -> None:
    world.call("heartbeat", session=_session(world))


def _renew(world: World) -> None:
    session_id = _session(world)
    world.call("renew", session=session_id, etag=_etag(world, session_id))


def _patch(world: World) -> None:
    session_id = _session(world)
    world.call("patch", session=session_id, etag=_etag(world, session_id), timeout=_timeout(world, 1))


def _delete(world: World) -> None:
    session_id = _session(world)
    world.call("delete", session=session_id, etag=_etag(world, session_id))


def _get(world: World) -> None:
    world.call("get", session=_session(world))


def _list(world: World) -> None:
    chance, session_id = world.chance, _session(world)
    session = world.model.sessions.get(session_id)
    times = [None, *([entry["at"] for entry in session.log] if session else []), T0]
    if chance.random() < 0.2:
        world.call(
            "list_sessions",
            user=chance.choice(("", *USERS)),
            agent=chance.choice(("", *AGENTS)),
            limit=chance.randint(1, 5),
        )
        return
    before, after = chance.choice(times), chance.choice(times)
    world.call(
        "list_messages",
        session=session_id,
        limit=chance.choice((0, 1, 2, 5, 200)),
        before=before,
        after=after,
    )


def _watch(world: World) -> None:
    chance, watcher = world.chance, world.chance.choice(world.watchers)
    match chance.choice(("join", "join", "join", "join", "join", "leave", "go", "come", "come", "slow")):
        case "join":
            session_id = _session(world)
            if session_id in world.model.sessions:
                last = len(world.model.sessions[session_id].log)
                watcher.join(session_id, chance.choice((0, 0, None, chance.randint(0, last))))
        case "leave":
            if watcher.places:
                watcher.leave(chance.choice(list(watcher.places)))
        case "go":
            watcher.disconnect()
        case "come":
            watcher.connect()
        case "slow":
            watcher.slow = not watcher.slow


def _worker(world: World) -> None:
    agent_id = world.chance.choice(list(world.workers))
    workers = world.workers[agent_id]
    if workers and world.chance.random() < 0.4:
        world.chance.choice(workers).disconnect()
    elif len(workers) < 3:
        Worker(world, agent_id, world.chance.randint(1, 3)).connect()


def _wait(world: World) -> None:
    """Time passes, sometimes so much that sessions expire or are purged."""
    choices = (10, 20, 30, 45, 60, 60, 60, 90, 120, 120, 200, 300, 300, 900, 4000)
    world.go(world.chance.choice(choices) * world.chance.uniform(0.9, 1.1))


def _crash(world: World) -> None:
    world.crash()
    if world.chance.random() < 0.4:
        # It is down for a while.
        world.loop.step(world.loop.time() + world.chance.choice((1, 30, 120, 1800)))
    world.start()


def _stop(world: World) -> None:
    world.stop()
    world.start()


WEIGHTS = {
    "create": 10,
    "send": 28,
    "again": 8,
    "give up": 3,
    "heartbeat": 6,
    "renew": 4,
    "patch": 6,
    "delete": 2,
    "get": 4,
    "list": 6,
    "watch": 16,
    "worker": 5,
    "wait": 5,
    "crash": 3,
    "stop": 0.5,
}
"""How often what is done."""

DEEDS = {
    "create": _create,
    "send": _send,
    "again": _again,
    "give up": _give_up,
    "heartbeat": _heartbeat,
    "renew": _renew,
    "patch": _patch,
    "delete": _delete,
    "get": _get,
    "list": _list,
    "watch": _watch,
    "worker": _worker,
    "wait": _wait,
    "crash": _crash,
    "stop": _stop,
}
"""What is done."""
