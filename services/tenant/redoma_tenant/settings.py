"""Settings of the tenant service."""

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from redoma_kit.database import DEFAULT_CONNECTIONS, DatabaseUrl
from redoma_kit.settings import ServiceSettings, UpstreamSettings


class TenantSettings(ServiceSettings):
    """What the tenant service needs besides what every service has."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_TENANT_")

    database_url: DatabaseUrl = Field(
        description="The service's own database: sqlite+aiosqlite:////var/lib/redoma/tenant.db or "
        "postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE?ssl=verify-full."
    )
    database_connections: int = Field(
        DEFAULT_CONNECTIONS, ge=1, description="The most connections to PostgreSQL that this process opens."
    )
    signing_key_file: Path = Field(
        description="Ed25519 private key (PEM, PKCS#8) that signs identities; its public half must be in jwks_file."
    )
    bootstrap_admin_key_hash_file: Path | None = Field(
        None,
        description="File with the SHA-256, in hex, of the first operator's key; none if unset, missing or empty.",
    )
    trusted_hops: int = Field(
        0,
        ge=0,
        le=10,
        description="How many proxies of yours stand before the edge: x-forwarded-for ends with so many addresses "
        "after the caller's.",
    )
    currency: str = Field(
        "USD", pattern=r"^[A-Z]{3}$", description="ISO 4217 code of the currency that prices and budgets are in."
    )
    egress: UpstreamSettings | None = Field(
        None,
        description="The egress, by which models are reached: their journals correct what was booked of calls that "
        "were cut, and they forget tenants that are erased. Unset, the last counts told are the last word.",
    )
    provisioner: UpstreamSettings | None = Field(
        None, description="The public site's provisioner, which lists the models. It and the egress go together."
    )
    chat: UpstreamSettings | None = Field(
        None, description="The chat service, for exports and erasures; unset, both wait until it is set."
    )

    @model_validator(mode="after")
    def _check_models(self) -> "TenantSettings":
        if (self.egress is None) != (self.provisioner is None):
            raise ValueError("egress and provisioner go together: the one reaches the models that the other lists.")
        return self
