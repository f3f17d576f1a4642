"""Settings of the tenant service."""

import re
from pathlib import Path

from pydantic import Field, field_serializer
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings

PASSWORD = re.compile(r"(://[^:/@]*):[^@/]*@")


class TenantSettings(ServiceSettings):
    """What the tenant service needs besides what every service has."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_TENANT_")

    database_url: str = Field(
        description="SQLAlchemy URL of the service's own database, such as sqlite+aiosqlite:////var/lib/redoma/tenant.db."
    )
    signing_key_file: Path = Field(
        description="Ed25519 private key (PEM, PKCS#8) that signs identities; its public half must be in jwks_file."
    )
    bootstrap_admin_key_hash_file: Path | None = Field(
        None,
        description="File with the SHA-256, in hex, of the first operator's key; none if unset, missing or empty.",
    )

    @field_serializer("database_url")
    def _shown_database_url(self, url: str) -> str:
        return PASSWORD.sub(r"\1:***@", url)
