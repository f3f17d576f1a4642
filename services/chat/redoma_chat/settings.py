"""What can be set about the chat service."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from redoma_kit.database import DEFAULT_CONNECTIONS, DatabaseUrl
from redoma_kit.settings import ServiceSettings, UpstreamSettings


class KeyProviderSettings(BaseModel):
    """Where the keys are that wrap the tenants' content keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["", "file", "environment"] = Field(
        "", description="Where keys are: in a file, or in an environment variable. Required."
    )
    file: Path | None = Field(
        None,
        description="File with one or more keys of 32 bytes in base64, a line each. The first wraps, all unwrap: to "
        "replace a key, put its successor before it, restart, and take it out when the log says that nothing needs it.",
    )
    variable: str = Field(
        "REDOMA_CHAT_CONTENT_KEYS", description="Environment variable with such keys, separated by white space."
    )


class ChatSettings(ServiceSettings):
    """Settings of the chat service."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_CHAT_")

    database_url: DatabaseUrl = Field(
        description="Where conversations are kept: sqlite+aiosqlite:////var/lib/redoma/chat.db or "
        "postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE?ssl=verify-full."
    )
    database_connections: int = Field(
        DEFAULT_CONNECTIONS, ge=1, description="The most connections to PostgreSQL that this process opens."
    )
    private_database_url: DatabaseUrl | None = Field(
        None,
        description="Where the conversations of tenants are kept whose content_storage is PRIVATE; meant to be in the "
        "private site. Unset: those tenants can't keep any.",
    )
    key_provider: KeyProviderSettings = KeyProviderSettings()
    retention_interval_s: float = Field(
        3_600.0, gt=0, description="How often what is older than its tenant's retention is deleted, in seconds."
    )
    egress: UpstreamSettings = Field(description="The egress, by which models are reached.")
    tenant: UpstreamSettings = Field(description="The tenant service, for the tenants' content checks and policies.")
