"""The bounds of requests, replies and pages. The server and the facade share them. No protobuf here."""

from typing import Final

MAX_CONTENT_CODE_POINTS: Final = 4000
"""The longest content of a message, in Unicode code points."""

MAX_REPLY_CODE_POINTS: Final = 100_000
"""The longest content, and the longest thought, of an agent's reply, in Unicode code points."""

MAX_ACTIONS: Final = 100
MAX_ACTION_CODE_POINTS: Final = 1000
"""How many actions a reply may name, and how long each may be, in Unicode code points."""

MAX_METADATA_BYTES: Final = 10_240
"""The greatest metadata, in bytes of compact UTF-8 JSON."""

MAX_ATTACHMENTS_BYTES: Final = 2 * 1024 * 1024
"""The greatest attachments of a message, in bytes of compact UTF-8 JSON."""

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
"""The greatest body of a REST request, in bytes."""

MAX_DEPTH: Final = 30
"""How deep objects and arrays may nest. Protobuf reads 100 nested messages; a level of a Struct takes 3."""

MAX_ATTACHMENT_VALUES: Final = 2000
"""How many values attachments may hold, through all levels. Each costs the service time, however small it is.
"""

MAX_METADATA_VALUES: Final = MAX_METADATA_BYTES // 2
"""How many values metadata may hold. No more than this fit into its bytes."""

MAX_REQUEST_ID: Final = 128
"""The longest request id, in printable ASCII characters."""

DEFAULT_MESSAGES: Final = 50
MAX_MESSAGES: Final = 100
"""How many messages a page has by default, and at most."""

DEFAULT_SESSIONS: Final = 100
MAX_SESSIONS: Final = 1000
"""How many sessions or agents a page has by default, and at most.

A REST list without a limit has MAX_SESSIONS.
"""
