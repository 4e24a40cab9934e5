"""How old open deliveries are, and how long replies take: told by commits and by the pieces of replies."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from server.clock import Clock
from server.delivery.statuses import AgentStatuses
from server.domain.deliveries import DeliveryState
from server.domain.log import Chunk, Entry, Piece
from server.domain.messages import AgentMessage, UserMessage
from server.domain.sessions import Outcome
from server.store.contract import Store
from server.store.values import Commit
from server.telemetry.telemetry import Reading, Telemetry

MAX_FOLLOWED: Final = 10_000
"""How many open deliveries are followed one by one: those that were opened first."""

SLOW_SECONDS: Final = 0.1
"""How long a shared store may take to say how old the oldest open delivery is, to be asked each time."""
MOST_ASKING: Final = 20
"""Otherwise: how many times as long its answer is good, because others read by the same connection."""
LONGEST_GOOD_SECONDS: Final = 60.0

ENDED: Final = "ended"
"""How deliveries end with their session."""


class DeliveryMeasures:
    """Made only where somebody listens to the telemetry.

    Of the deliveries beyond MAX_FOLLOWED, and of those of an earlier run, it knows how many there are and how
    old the oldest of them was. So the oldest age may be too great until they are closed, and never too small.

    Other servers that share the store close what was opened here, and this one is not told. There the store
    says how old the oldest is, and the time of a reply is known where one server took message and reply.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        clock: Clock,
        on_piece: Callable[[Piece], None],
        most: int = MAX_FOLLOWED,
    ) -> None:
        """`on_piece` is told every piece that `note_piece` is told."""
        self._telemetry = telemetry
        self._clock = clock
        self._on_piece = on_piece
        self._most = most
        self._shared_store: Store | None = None
        # What it has said last, and until when that is good, in the loop's time.
        self._oldest_ms: int | None = None
        self._good_until_s = 0.0
        # The time of each message, the oldest first, and the sequences of each session.
        self._followed: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._sequences: defaultdict[str, set[int]] = defaultdict(set)
        self._others = 0
        self._others_since_ms = 0

    async def start(self, store: Store) -> None:
        """Counts what an earlier run has left open. Raises the store's errors."""
        # From 0 on, so that Prometheus sees the first one.
        for state in (DeliveryState.ANSWERED.value, DeliveryState.FAILED.value, ENDED):
            self._telemetry.close_deliveries(state, 0)
        if store.is_shared:
            self._shared_store = store
            return
        self._others = sum((await store.count_open()).values())
        self._others_since_ms = await store.oldest_open_ms() or self._clock.now_ms()

    def on_commit(self, commit: Commit) -> None:
        """Takes note of deliveries that a commit has opened and closed."""
        for outcome in commit.outcomes:
            if outcome.entry and outcome.opened:
                self._note(outcome, outcome.entry)
            elif outcome.delivery and outcome.opened:
                # A message that is delivered anew: its reply is waited for from now on.
                self._open(outcome.session.id, outcome.delivery.sequence, self._clock.now_ms())
        for session in commit.deleted:
            self._end_all(session.id, session.open_deliveries)

    def note_piece(self, piece: Piece) -> None:
        """Takes note of the first piece of a reply, and passes every piece on."""
        if isinstance(piece, Chunk) and piece.index == 0:
            since_ms = self._followed.get((piece.session_id, piece.answers))
            if since_ms is not None:
                self._telemetry.note_first_chunk(piece.agent_id, (self._clock.now_ms() - since_ms) / 1000)
        self._on_piece(piece)

    async def read_gauges(self, statuses: AgentStatuses) -> Iterable[Reading]:
        """How many deliveries are open, and how old the oldest one is. Raises the store's errors."""
        age_ms = self.oldest_age_ms() if self._shared_store is None else await self._ask(self._shared_store)
        opened, in_hand = statuses.count_all()
        return [
            # What is open is a few seconds old where other servers change it.
            Reading("eliza_deliveries_open", max(0, opened - in_hand), ("waiting",)),
            Reading("eliza_deliveries_open", in_hand, ("in_hand",)),
            Reading("eliza_delivery_oldest_age_seconds", age_ms / 1000),
        ]

    def oldest_age_ms(self) -> int:
        """How old the oldest open delivery is at most; 0 where none is open."""
        since_ms = [next(iter(self._followed.values()))] if self._followed else []
        if self._others:
            since_ms.append(self._others_since_ms)
        return max(0, self._clock.now_ms() - min(since_ms)) if since_ms else 0

    async def _ask(self, store: Store) -> int:
        """How old the oldest open delivery of all servers is, in ms; 0 where none is open."""
        loop = asyncio.get_running_loop()
        if (begun_s := loop.time()) >= self._good_until_s:
            self._oldest_ms = await store.oldest_open_ms()
            took_s = loop.time() - begun_s
            good_s = min(LONGEST_GOOD_SECONDS, MOST_ASKING * took_s) if took_s > SLOW_SECONDS else 0.0
            self._good_until_s = loop.time() + good_s
        return 0 if self._oldest_ms is None else max(0, self._clock.now_ms() - self._oldest_ms)

    def _note(self, outcome: Outcome, entry: Entry) -> None:
        session = outcome.session
        if isinstance(entry.event, UserMessage):
            self._telemetry.note_message()
            self._open(session.id, entry.sequence, entry.at_ms)
        elif entry.answers is not None:
            since_ms = self._close(session.id, entry.answers)
            is_reply = isinstance(entry.event, AgentMessage)
            state = DeliveryState.ANSWERED if is_reply else DeliveryState.FAILED
            self._telemetry.close_deliveries(state.value)
            if is_reply and since_ms is not None:
                self._telemetry.note_reply(session.agent_id, (entry.at_ms - since_ms) / 1000)
        else:
            self._end_all(session.id, -outcome.opened)

    def _open(self, session_id: str, sequence: int, at_ms: int) -> None:
        if self._shared_store and len(self._followed) >= self._most:
            # Most likely another server has closed it.
            self._close(*next(iter(self._followed)))
        if len(self._followed) < self._most:
            self._followed[session_id, sequence] = at_ms
            self._sequences[session_id].add(sequence)
            return
        if not self._others:
            self._others_since_ms = at_ms
        self._others += 1

    def _close(self, session_id: str, sequence: int) -> int | None:
        """Follows a delivery no longer; returns the time of its message, where it was followed."""
        since_ms = self._followed.pop((session_id, sequence), None)
        if since_ms is None:
            self._others = max(0, self._others - 1)
            return None
        sequences = self._sequences[session_id]
        sequences.discard(sequence)
        if not sequences:
            del self._sequences[session_id]
        return since_ms

    def _end_all(self, session_id: str, count: int) -> None:
        """Takes note that a session has ended, with so many open deliveries."""
        if count <= 0:
            return
        sequences = self._sequences.pop(session_id, set())
        for sequence in sequences:
            del self._followed[session_id, sequence]
        self._others = max(0, self._others - (count - len(sequences)))
        self._telemetry.close_deliveries(ENDED, count)
