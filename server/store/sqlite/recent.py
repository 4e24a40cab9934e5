"""What the writer has written last, as it is stored, so that the next group need not load it."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final

from server.domain.deliveries import OPEN_STATES, Delivery
from server.domain.sessions import Session
from server.store.batch import DeliveryKey, Written

MAX_SESSIONS: Final = 1000
MAX_DELIVERIES: Final = 4000
"""How many are kept, those that were written last."""


class Recent:
    """See the module. A session that is about to be written is none of `sessions`, which readers ask, too.

    `deliveries` are open ones: what becomes of them is written soon.
    """

    def __init__(self) -> None:
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.deliveries: OrderedDict[DeliveryKey, Delivery] = OrderedDict()

    def clear(self) -> None:
        """Forgets everything: nobody knows what is stored."""
        self.sessions.clear()
        self.deliveries.clear()

    def forget(self, session_ids: Collection[str]) -> None:
        """Forgets sessions that are about to be written, and their deliveries."""
        self.hide(session_ids)
        self._forget_deliveries(session_ids)

    def hide(self, session_ids: Collection[str]) -> None:
        """Forgets sessions that are about to be written. What they leave is told to `keep`."""
        for session_id in session_ids:
            self.sessions.pop(session_id, None)

    def keep(self, written: Written) -> None:
        """Takes note of what a batch has stored."""
        for session in (*written.created, *written.changed):
            self.sessions[session.id] = session
        while len(self.sessions) > MAX_SESSIONS:
            self.sessions.popitem(last=False)
        for delivery in written.deliveries:
            key = delivery.session_id, delivery.sequence
            if delivery.state in OPEN_STATES:
                self.deliveries[key] = delivery
            else:
                self.deliveries.pop(key, None)
        while len(self.deliveries) > MAX_DELIVERIES:
            self.deliveries.popitem(last=False)
        if ended := written.removed | written.expired:
            self._forget_deliveries(ended)

    def _forget_deliveries(self, session_ids: Collection[str]) -> None:
        for key in [key for key in self.deliveries if key[0] in session_ids]:
            del self.deliveries[key]
