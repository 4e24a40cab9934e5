"""The metadata of gRPC calls that the server and its clients agree on."""

from typing import Final

MESSAGE_ID_KEY: Final = "eliza-message-id"
"""In the initial metadata of a SendMessage that waits for its reply: the id of the stored message."""
