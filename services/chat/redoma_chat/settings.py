"""What can be set about the chat service."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from redoma_kit.settings import ServiceSettings, UpstreamSettings


class ChatSettings(ServiceSettings):
    """Settings of the chat service."""

    model_config = SettingsConfigDict(env_prefix="REDOMA_CHAT_")

    database_url: str = Field(
        description="SQLAlchemy URL of the conversations, such as sqlite+aiosqlite:////var/lib/redoma/chat.db."
    )
    model: UpstreamSettings = Field(description="The model service.")
    tenant: UpstreamSettings = Field(description="The tenant service, for the tenants' content checks.")
