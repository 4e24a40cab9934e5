"""The simulated service as a state machine of hypothesis: it chooses what is done, and shrinks what went
wrong to the little that it takes.

Each step has a seed of its own, from which the world draws the details and the order of callbacks: so what is
left of a failure when other steps are gone still means the same.
"""

import gc
from collections import Counter
from contextlib import ExitStack
from typing import ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.campaigns.simulation.pinned import world_of
from tests.campaigns.simulation.run import ACTIONS, DEEDS, WEIGHTS, let_pass
from tests.campaigns.simulation.workers import Worker
from tests.campaigns.simulation.world import World

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(round(2 * weight))])


class SimulatedService(RuleBasedStateMachine):
    """A world; what it finds raises.

    At the end all faults are over, and everything that was promised must be there.
    """

    counts: ClassVar[Counter[str]] = Counter()
    """How often things happened, in all runs together."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._world: World | None = None

    @initialize(details=SEEDS)
    def start(self, details: int) -> None:
        # When garbage is collected is no part of the seed.
        gc.disable()
        self._stack.callback(gc.enable)
        self._world = world = self._stack.enter_context(world_of(details))
        world.start()
        for agent_id in world.workers:
            Worker(world, agent_id, world.chance.randint(1, 3)).connect()
        DEEDS["create"](world)

    @rule(name=NAMES, details=SEEDS)
    def do(self, name: str, details: int) -> None:
        assert self._world
        self._world.chance.seed(details)
        DEEDS[name](self._world)
        let_pass(self._world)

    def teardown(self) -> None:
        with self._stack:
            if self._world:
                self._world.heal()
                self._world.forget()
                self.counts.update(self._world.counts)


def explore(runs: int, start: int, phases: tuple[Phase, ...] = (Phase.generate,)) -> None:
    """So many runs, of a seed.

    Raises what was found, with the steps that it takes: few after Phase.shrink, which takes minutes.
    """
    seed(start)(SimulatedService)
    options = settings(
        max_examples=runs,
        stateful_step_count=ACTIONS,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(SimulatedService, settings=options)
