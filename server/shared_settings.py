"""The settings of a store that several servers share."""

from pydantic import Field
from pydantic_settings import BaseSettings

from server.setting_types import Seconds
from server.store.options import SharedOptions


class SharedStoreSettings(BaseSettings):
    """The part of the settings for `postgresql://`. Elsewhere they change nothing."""

    database_listen_url: str = Field(
        "",
        description="Where servers that share a PostgreSQL store hear of each other, where `DATABASE_URL` is "
        "a pooler: the server itself, because a pooler of transactions cannot LISTEN.",
    )
    database_wait_seconds: Seconds = Field(
        10,
        ge=0,
        le=600,
        description="How long a call waits for a PostgreSQL server that is away, as during a failover.",
    )
    postgres_prepare: bool = Field(
        True,
        description="Whether statements are prepared. `false` behind a pooler of transactions that knows "
        "nothing of them, such as pgbouncer before 1.21.",
    )
    postgres_lanes: int = Field(
        1,
        ge=1,
        le=16,
        description="Groups of writes that are committed at a time. More than 1 only where a commit waits "
        "for a distant standby.",
    )
    postgres_announce: bool = Field(
        True,
        description="Whether servers tell each other at once what they have written. Without it they see it "
        "within 5 seconds.",
    )

    @property
    def shared_options(self) -> SharedOptions:
        """How the store is used."""
        return SharedOptions(
            self.database_listen_url,
            self.postgres_prepare,
            self.postgres_lanes,
            self.postgres_announce,
            self.database_wait_seconds,
        )
