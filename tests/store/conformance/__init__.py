"""What every Store does: the sentences of server.store.contract, each tried.

A back end's own test subclasses `StoreConformance` and gives it `open` and, where it groups writes, `held`.
"""

from tests.store.conformance.agents import Agents
from tests.store.conformance.closing import Closing
from tests.store.conformance.deliveries import Deliveries
from tests.store.conformance.groups import Groups
from tests.store.conformance.inspection import Inspection
from tests.store.conformance.lists import Lists
from tests.store.conformance.messages import Messages
from tests.store.conformance.purge import Purge
from tests.store.conformance.requests import Requests
from tests.store.conformance.scopes import Scopes
from tests.store.conformance.sessions import Sessions
from tests.store.conformance.texts import Texts
from tests.store.conformance.user_data import UserData


class StoreConformance(
    Sessions,
    Scopes,
    UserData,
    Groups,
    Messages,
    Lists,
    Purge,
    Deliveries,
    Inspection,
    Agents,
    Texts,
    Requests,
    Closing,
):
    """The suite."""
