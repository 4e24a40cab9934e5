"""What a store has that several servers share. On a store of one server alone there is nothing to it."""

from collections.abc import Collection, Mapping

from server.domain.log import Piece
from server.store.hints import HintListener


class Sharing:
    """The part of a store that concerns other servers. These are the answers of a store without any."""

    is_shared = False
    """Whether other servers may write to the store, and give its deliveries to agents."""

    def add_hint_listener(self, listener: HintListener) -> None:
        """Has the listener called on the event loop when another server has announced what it did."""

    def announce_piece(self, piece: Piece) -> None:
        """Tells the other servers of a piece of a reply. It may be lost."""

    async def find_grown(self, sequences: Mapping[str, int]) -> Mapping[str, int | None]:
        """Tells of sessions those whose logs go beyond these sequences, with their last ones; None: the
        session is gone.

        :raises UnavailableError: and the like
        """
        return {}

    async def find_dead(self, server_ids: Collection[str]) -> Collection[str]:
        """Tells which of these other servers run no more.

        :raises UnavailableError: and the like
        """
        return ()

    async def set_clock(self, now_ms: int) -> None:
        """Sets the test clock of all servers, in ms since the epoch, and waits until they go by it.

        :raises UnavailableError: and the like
        """
