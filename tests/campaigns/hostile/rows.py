"""Every row: what a stranger can ask for that costs much.

Numbers are those of the list of what is bounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.campaigns.hostile import rows_of_memory as memory
from tests.campaigns.hostile import rows_of_time as slow
from tests.campaigns.hostile import stores
from tests.campaigns.hostile.playing import Playing


@dataclass(frozen=True)
class Row:
    """Something that a stranger does.

    `fill` makes the store that it needs, `prepare` what it needs of a running service: what that takes does
    not count. `is_at_start`: its cost begins with the service.
    """

    number: str
    name: str
    play: Callable[[Playing], None]
    fill: Callable[[float, int], str] | None = None
    prepare: Callable[[Playing], object] | None = None
    is_at_start: bool = False


ROWS: Final = (
    Row("1", "large messages that are refused", memory.refused_sends),
    Row("2", "very many values, also compressed", memory.empty_values),
    Row("2b", "half-sent messages on many streams", memory.half_sent_messages),
    Row("3", "answers that nobody reads", memory.answers_unread, prepare=memory.heavy_session),
    Row("4", "input without end, silent connections", memory.endless_input),
    Row("5", "streams that say nothing", memory.silent_streams),
    Row("6", "a message of 20,000 values, watched", slow.many_values),
    Row("7", "a session of 100,000 messages", slow.long_conversation, stores.large),
    Row("8", "lists and health with 200,000 sessions", slow.long_lists, stores.large),
    Row("9", "the purge of 100,000 sessions", slow.background_work, stores.expired, is_at_start=True),
    Row("10", "the deletion of 200,000 entries", slow.large_deletion, stores.large),
    Row("11", "a start with 200,000 overdue", slow.background_work, stores.overdue, is_at_start=True),
    Row("12", "a repeated conversation, 200,000 entries", slow.repeated_conversation, stores.large),
    Row("13", "a reply word by word, watched", slow.many_chunks),
    Row("14", "a list of agents with long prompts", slow.long_prompts, prepare=slow.long_prompted_agents),
    Row("15", "agents whose names hang", slow.hanging_names),
    Row("16", "secrets that hang", slow.hanging_secrets),
)
