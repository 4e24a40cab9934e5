"""The settings of who may call, and how often."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from server.access.access_settings import AccessSettings
from server.access.limits import Rate, read_rate
from server.domain.access import RateKind
from server.setting_types import AuthToken, JwtKeys, RateText


class CallerSettings(BaseSettings):
    """The part of the settings for credentials, and for the rates of calls."""

    eliza_server_auth_token: AuthToken | None = Field(
        None,
        description="One key of a backend, of at least 16 characters, with every session of the tenant ''. "
        "Clients send it as `X-API-KEY` or `Authorization: Bearer`. It is no administrator's. Set but empty, "
        "it stops the start.",
    )
    keys_file: str | None = Field(
        None,
        description="A TOML file of keys, made by `eliza-sessions keys add`. The service reads it again when "
        "it changes.",
    )
    access_token_keys_file: str | None = Field(
        None,
        description="A file of one or two keys that sign session access tokens, as lines `ID SECRET`, the "
        "secret at least 32 bytes in hexadecimal or base64. The first signs, both are good. Without it there "
        "is a fresh one in each process.",
    )
    access_token_seconds: int = Field(
        900, ge=1, le=900, description="How long a session access token is good, at most."
    )
    jwt_keys: JwtKeys | None = Field(
        None,
        description="The keys of JSON web tokens, a JWKS: a file, or an https URL. With it `JWT_ISSUER` and "
        "`JWT_AUDIENCE` must be set.",
    )
    jwt_issuer: str = Field("", description="The `iss` that JSON web tokens must have.")
    jwt_audience: str = Field("", description="The `aud` that JSON web tokens must have.")
    jwt_user_claim: str = Field(
        "sub",
        description="The claim that names the user. What is no UUID becomes one: "
        "`uuid5(uuid5(NAMESPACE_URL, JWT_ISSUER), claim)`.",
    )
    jwt_tenant_claim: str = Field(
        "", description="The claim that names the tenant. Without it all tokens are of the tenant ''."
    )
    users_may_change: bool = Field(
        False,
        description="Whether users may change the timeout settings of their sessions and delete them.",
    )
    users_may_read_transcripts: bool = Field(
        False,
        description="Whether users may read the transcripts of their sessions, also of expired ones until "
        "the purge.",
    )
    rate_create: RateText = Field(
        "",
        description="How many sessions and access tokens a caller may create: `10/minute`, in `second`, "
        "`minute` or `hour`. Each server counts by itself.",
    )
    rate_send: RateText = Field("", description="How many messages and renewals a caller may send.")
    rate_read: RateText = Field("", description="How many reads a caller may make.")
    rate_watch: RateText = Field("", description="How many streams a caller may open.")
    rate_admin: RateText = Field("", description="How many calls of administration a caller may make.")

    @property
    def access(self) -> AccessSettings:
        """Where credentials come from."""
        return AccessSettings(
            Path(self.keys_file) if self.keys_file else None,
            self.eliza_server_auth_token,
            Path(self.access_token_keys_file) if self.access_token_keys_file else None,
            self.jwt_keys,
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_user_claim,
            self.jwt_tenant_claim,
            self.users_may_change,
        )

    @property
    def is_protected(self) -> bool:
        """Whether a call needs a credential: there is a source of them."""
        return any((self.keys_file, self.eliza_server_auth_token is not None, self.jwt_keys))

    @property
    def rates(self) -> dict[RateKind, Rate | None]:
        """The rate of each kind of calls; None where it has no limit."""
        return {kind: read_rate(getattr(self, f"rate_{kind}")) for kind in RateKind}
