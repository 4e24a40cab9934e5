"""The contract as cases: each is told once and runs through REST and through gRPC, which promise the same."""

from typing import Final

from tests.contract.cases import (
    agent_settings,
    agents,
    clock,
    create,
    deliveries,
    history,
    lists,
    reads,
    requests,
    send,
    timeouts,
    tokens,
    transcripts,
)
from tests.contract.steps import Case

CASES: Final[tuple[Case, ...]] = (
    *create.CASES,
    *reads.CASES,
    *send.CASES,
    *history.CASES,
    *timeouts.CASES,
    *tokens.CASES,
    *transcripts.CASES,
    *lists.CASES,
    *agents.CASES,
    *agent_settings.CASES,
    *deliveries.CASES,
    *clock.CASES,
    *requests.CASES,
)
"""All of them."""
