"""What can be set about the chat service."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings, UpstreamSettings

PASSWORD = re.compile(r"(://[^:/@]*):[^@/]*@")


class KeyProviderSettings(BaseModel):
    """Where the keys are that wrap the tenants' content keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["", "file", "environment"] = Field(
        "", description="Where keys are: in a file, or in an environment variable. Required."
    )
    file: Path | None = Field(
        None,
        description="File with one or more keys of 32 bytes in base64, a line each. The first wraps, all unwrap: to replace"
        " a key, put its successor before it, restart, and take it out when the log says that nothing needs it.",
    )
    variable: str = Field(
        "REDOMA_CHAT_CONTENT_KEYS", description="Environment variable with such keys, separated by white space."
    )


class ChatSettings(ServiceSettings):
    """Settings of the chat service."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_CHAT_")

    database_url: str = Field(
        description="SQLAlchemy URL of the conversations, such as sqlite+aiosqlite:////var/lib/redoma/chat.db."
    )
    private_database_url: str = Field(
        "",
        description="SQLAlchemy URL of the database, meant to be in the private site, for conversations of tenants whose"
        " content_storage is PRIVATE. Empty: those tenants can't keep any.",
    )
    key_provider: KeyProviderSettings = KeyProviderSettings()
    retention_interval_s: float = Field(
        3_600.0, gt=0, description="How often what is older than its tenant's retention is deleted, in seconds."
    )
    model: UpstreamSettings = Field(description="The model service.")
    tenant: UpstreamSettings = Field(description="The tenant service, for the tenants' content checks and policies.")

    @field_serializer("database_url", "private_database_url")
    def _shown_url(self, url: str) -> str:
        return PASSWORD.sub(r"\1:***@", url)
