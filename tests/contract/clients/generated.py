"""A program on what openapi-python-client makes of /openapi.json: `python generated.py URL AGENT USER`.

Checked by mypy.
"""

import sys
from uuid import UUID

from sessions_client.api.default import create_session, list_messages, send_message
from sessions_client.client import Client
from sessions_client.models.create_session_request import CreateSessionRequest
from sessions_client.models.create_session_response import CreateSessionResponse
from sessions_client.models.message_response import MessageResponse
from sessions_client.models.messages_page import MessagesPage
from sessions_client.models.metadata import Metadata
from sessions_client.models.send_message_request import SendMessageRequest
from sessions_client.models.send_message_request_transport_type_1 import SendMessageRequestTransportType1
from sessions_client.types import Unset


def main(url: str, agent: str, user: str) -> None:
    metadata = Metadata.from_dict({"platform": "web", "nested": {"numbers": [1, 2]}})
    with Client(base_url=url) as client:
        wanted = CreateSessionRequest(agent_id=UUID(agent), user_id=UUID(user), metadata=metadata)
        session = create_session.sync(client=client, body=wanted)
        assert isinstance(session, CreateSessionResponse), session
        assert session.metadata["platform"] == "web"
        session_id = UUID(session.session_id)
        said = SendMessageRequest(
            content="Hello!",
            transport=SendMessageRequestTransportType1.HTTP,
            attachments=[{"kind": "file"}, "a"],
        )
        sent = send_message.sync(session_id, client=client, body=said)
        assert isinstance(sent, MessageResponse), sent
        assert not isinstance(sent.agent_response, Unset)
        page = list_messages.sync(session_id, client=client, limit=10)
        assert isinstance(page, MessagesPage), page
        for message in reversed(page.messages):
            print("agent" if message.is_agent else "user", message.content)


main(*sys.argv[1:])
