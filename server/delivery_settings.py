"""The settings of agents, and of what is delivered to them."""

from pydantic import Field
from pydantic_settings import BaseSettings

from server.domain.deliveries import RetryPolicy
from server.setting_types import AgentHosts, AgentSecrets, Seconds


class DeliverySettings(BaseSettings):
    """The part of the settings for agents and their deliveries."""

    delivery_lease_seconds: Seconds = Field(
        120,
        ge=0.1,
        le=3600,
        description="How long a worker may be silent about a delivery before the service delivers it again.",
    )
    delivery_attempts: int = Field(
        5, ge=1, le=100, description="How often the service delivers a message before it fails for good."
    )
    delivery_backoff_seconds: Seconds = Field(
        1,
        ge=0.01,
        le=600,
        description="How long a delivery rests after a failed attempt. The rest doubles after each further "
        "one.",
    )
    delivery_max_backoff_seconds: Seconds = Field(
        60, ge=0.01, le=3600, description="How long a delivery rests at most, unless the agent asks for more."
    )
    agent_concurrency: int = Field(
        100, ge=1, le=10000, description="Deliveries of one agent under way at a time, at each server."
    )
    agent_allowed_hosts: AgentHosts = Field(
        "",
        description="Hosts where agents may have private, loopback or link-local addresses, separated by "
        "commas: `HOST:PORT`, or `HOST` for all its ports but this service's own.",
    )
    agent_secrets: AgentSecrets = Field(
        "AGENT_SECRET_*,/run/secrets/*,OPENAI_API_KEY@api.openai.com",
        description="Environment variables and files where agents may have their secrets, as patterns "
        "separated by commas. A secret that is sent, such as an API key, needs the host: `NAME@HOST`, "
        "`file:/PATH@*.example.com:8443`.",
    )
    agents_file: str | None = Field(
        None, description="A TOML file of agents to register at the start; it wins over what is stored."
    )

    @property
    def retry_policy(self) -> RetryPolicy:
        """How often deliveries are attempted, and their backoff."""
        return RetryPolicy(
            self.delivery_attempts,
            first_backoff_ms=round(self.delivery_backoff_seconds * 1000),
            longest_backoff_ms=round(self.delivery_max_backoff_seconds * 1000),
        )
