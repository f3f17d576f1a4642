"""The tables of conversations. Migrations bring a database to this shape; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

# Ids are ours, and unique everywhere; tenant and principal stand in every row so that every query can name them.
CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", String(32), nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("title", Text, nullable=False),
    Column("title_folded", Text, nullable=False),
    Column("system_prompt", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("sampling", Text, nullable=False),
    Column("request_id", String(64), nullable=True),
    Column("latest_message_id", String(32), nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", name="pk_conversations"),
    UniqueConstraint("tenant", "principal", "request_id", name="uq_conversations_request_id"),
    Index("ix_conversations_changed", "tenant", "principal", "update_time_us", "id"),
)

MESSAGES = Table(
    "messages",
    METADATA,
    Column("id", String(32), nullable=False),
    Column("conversation_id", String(32), nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("parent_id", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("content", Text, nullable=False),
    Column("content_folded", Text, nullable=False),
    Column("reasoning", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("finish_reason", String(16), nullable=True),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("response_format", Text, nullable=True),
    PrimaryKeyConstraint("id", name="pk_messages"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="fk_messages_conversation", ondelete="CASCADE"
    ),
    Index("ix_messages_conversation", "conversation_id", "id"),
    Index("ix_messages_state", "state"),
)
