"""Pages: how much one holds, and in which order.

The same for every back end, which reads what a page is filled from.
"""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from server.domain.access import Scope
from server.domain.log import Entry
from server.domain.messages import AgentMessage, Message
from server.domain.sessions import Session, is_expired
from server.store.contract import MAX_PASSED, PAGE_BYTES
from server.store.inspection import MAX_LOOKED_AT
from server.store.values import MessagePage, Position, SearchPage, SessionFilter

T = TypeVar("T")

ALWAYS_MS: Final = 2**62
"""Later than every instant; its negative is earlier."""
FIRST: Final = Position(-ALWAYS_MS, "")
"""Before every place in an order of creation."""
LAST: Final = Position(ALWAYS_MS, "")
"""Behind every place in an order of creation."""


def narrow(scope: Scope, agent_id: str | None, user_id: str | None) -> Scope | None:
    """The scope of a list that is filtered by an agent and a user; None where nothing can be in it.

    Whoever sees one session only asks for it, and has no lists.
    """
    if (
        scope.session_id is not None
        or (agent_id is not None and scope.agent_id not in (None, agent_id))
        or (user_id is not None and scope.user_id not in (None, user_id))
    ):
        return None
    return scope._replace(agent_id=agent_id or scope.agent_id, user_id=user_id or scope.user_id)


def fill_page(
    found: Iterable[T], limit: int, size: Callable[[T], int], shared: int = 0
) -> tuple[list[T], bool]:
    """The first `limit` of what was found, or as many as fit PAGE_BYTES, at least one; and whether there is
    more. `shared`: what each holds beside its own size.
    """
    page: list[T] = []
    total = 0
    for item in found:
        total += shared + size(item)
        if len(page) == limit or (page and total > PAGE_BYTES):
            return page, True
        page.append(item)
    return page, False


def text_size(entry: Entry) -> int:
    """How much text an entry holds."""
    message = entry.event
    if not isinstance(message, Message):
        return 0
    size = len(message.content) + len(message.metadata) + len(message.attachments or "")
    if isinstance(message, AgentMessage):
        size += len(message.thought or "") + sum(map(len, message.actions))
    return size


def travels_forward(before_ms: int | None, after_ms: int | None) -> bool:
    """Whether a page of messages begins at its oldest."""
    return after_ms is not None and before_ms is None


def fill_messages(found: Iterable[Entry], session: Session, limit: int, *, forward: bool) -> MessagePage:
    """A page of a session's messages, from those found in the direction of travel."""
    page, has_more = fill_page(found, limit, text_size, len(session.metadata))
    return MessagePage(page[::-1] if forward else page, has_more)


def fill_history(found: Iterable[Entry], limit: int) -> list[Entry]:
    """The latest messages of a conversation, the oldest first, from those found the latest first (see
    `conversation_place`).
    """
    page, _ = fill_page(found, limit, text_size)
    return page[::-1]


def conversation_place(entry: Entry) -> tuple[int, int]:
    """The place of a message in the conversation: a reply stands behind the message that it answers."""
    return (entry.sequence if entry.answers is None else entry.answers), entry.sequence


_ROW: Final = 20
"""How many ids of an index are looked at in the time of one row."""


def fill_search(
    found: Iterable[tuple[int, str]],
    read: Callable[[str], Session | None],
    wanted: SessionFilter,
    scope: Scope,
    now_ms: int,
    limit: int,
) -> SearchPage:
    """The sessions of a page, from the times and ids of those that may be wanted, the newest first.

    `read` gives a session, None for one that is unreadable. Whoever gives this many ids asks an index.
    """
    page: list[Session] = []
    size, left = 0, MAX_LOOKED_AT * _ROW
    last: Position | None = None
    for created_at_ms, session_id in found:
        if created_at_ms < wanted.created_from_ms:
            break
        session = None
        left -= 1
        if session_id.startswith(wanted.id_prefix):
            left -= _ROW
            session = read(session_id)
        if session is not None and scope.has(session) and _is_wanted(session, wanted, now_ms):
            size += len(session.metadata)
            if len(page) == limit or (page and size > PAGE_BYTES):
                return SearchPage(page, last)
            page.append(session)
        last = Position(created_at_ms, session_id)
        if left <= 0:
            return SearchPage(page, last)
    return SearchPage(page, None)


def search_start(wanted: SessionFilter, before: Position | None) -> Position:
    """The place before which a page of a search begins."""
    start, end = before or LAST, Position(wanted.created_before_ms, "")
    return min(start, end, key=lambda place: (place.created_at_ms, place.id))


def _is_wanted(session: Session, wanted: SessionFilter, now_ms: int) -> bool:
    """Whether a session is in the state that is wanted."""
    if wanted.is_expired is None:
        return True
    return session.expiry_logged if wanted.is_expired else not is_expired(session, now_ms)


def fill_active(
    found: Iterable[tuple[Session, bool]], now_ms: int, limit: int, on_unreadable: Callable[[str], None]
) -> tuple[list[Session], Position | None]:
    """The active sessions of a page, from those found in order of creation, each with whether it can be read
    back.

    The place behind which the next page begins comes with it, None where there is no more.
    """
    page: list[Session] = []
    size = passed = 0
    last: Position | None = None
    for session, is_readable in found:
        if not is_readable or is_expired(session, now_ms):
            if not is_readable:
                on_unreadable(session.id)
            passed += 1
            if passed > MAX_PASSED:
                return page, last
        else:
            size += len(session.metadata)
            if len(page) == limit or (page and size > PAGE_BYTES):
                return page, last
            page.append(session)
        last = Position(session.created_at_ms, session.id)
    return page, None
