"""The bounds that the contract sets to what clients send, and those that both servers have to know. No protobuf here."""

from typing import Final

MAX_CONTENT_CODE_POINTS: Final = 4000
"""The longest content of a message, in Unicode code points."""

MAX_REPLY_CODE_POINTS: Final = 100_000
"""The longest content, and the longest thought, of an agent's reply, in Unicode code points."""

MAX_ACTIONS: Final = 100
MAX_ACTION_CODE_POINTS: Final = 1000
"""How many actions a reply may name, and how long each may be."""

MAX_METADATA_BYTES: Final = 10_240
"""The greatest metadata, in bytes of compact UTF-8 JSON."""

MAX_ATTACHMENTS_BYTES: Final = 2 * 1024 * 1024
"""The greatest attachments of a message, in bytes of compact UTF-8 JSON."""

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""The greatest body of a REST request, in bytes."""

MAX_DEPTH: Final = 30
"""How deep objects and arrays may nest: protobuf reads at most 100 nested messages, and a level of a Struct takes three."""

MAX_ATTACHMENT_VALUES: Final = 2000
"""How many values attachments may hold, counted through all levels: each costs both servers time, however small it is."""

MAX_METADATA_VALUES: Final = MAX_METADATA_BYTES // 2
"""The same of metadata: no more fit its bytes, so that reading stops there."""

MAX_REQUEST_ID: Final = 128
"""The longest request id, in printable ASCII characters."""

DEFAULT_MESSAGES: Final = 50
MAX_MESSAGES: Final = 100
"""How many messages a page has when nobody says, and at most."""

DEFAULT_SESSIONS: Final = 100
MAX_SESSIONS: Final = 1000
"""How many sessions or agents a page has when nobody says, and at most; a REST list without a limit has at most MAX_SESSIONS."""
