"""The tables of conversations. Migrations bring a database to this shape; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData()

# Ids are ours, and unique everywhere; tenant and principal stand in every row so that every query can name them.
# Binary columns hold texts that are sealed (see encryption.py), or empty. `key_version` is the lowest version of the
# content keys that sealed a row's; 0 is a row of a release that did not encrypt.
CONVERSATIONS = Table(
    "conversations",
    METADATA,
    Column("id", String(32), nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("title", LargeBinary, nullable=False),
    Column("system_prompt", LargeBinary, nullable=False),
    Column("model", Text, nullable=False),
    Column("sampling", LargeBinary, nullable=False),
    Column("request_id", String(64), nullable=True),
    Column("latest_message_id", String(32), nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("key_version", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("id", name="pk_conversations"),
    UniqueConstraint("tenant", "principal", "request_id", name="uq_conversations_request_id"),
    Index("ix_conversations_changed", "tenant", "principal", "update_time_us", "id"),
    Index("ix_conversations_tenant_changed", "tenant", "update_time_us"),
    Index("ix_conversations_key_version", "key_version", "tenant"),
)

# `lease_us` says until when a STREAMING answer is the process's that streams it, in microseconds since the epoch.
MESSAGES = Table(
    "messages",
    METADATA,
    Column("id", String(32), nullable=False),
    Column("conversation_id", String(32), nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("parent_id", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("reasoning", LargeBinary, nullable=False),
    Column("state", String(16), nullable=False),
    Column("finish_reason", String(16), nullable=True),
    Column("model", Text, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("update_time_us", BigInteger, nullable=False),
    Column("response_format", LargeBinary, nullable=True),
    Column("lease_us", BigInteger, nullable=False, server_default="0"),
    Column("key_version", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("id", name="pk_messages"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="fk_messages_conversation", ondelete="CASCADE"
    ),
    Index("ix_messages_conversation", "conversation_id", "id"),
    Index("ix_messages_state", "state"),
    Index("ix_messages_key_version", "key_version", "tenant"),
)

# What ended calls used, until the meter has it. `claimed_until_us` keeps other replicas from sending the same.
SETTLEMENTS = Table(
    "settlements",
    METADATA,
    Column("tenant", String(63), nullable=False),
    Column("token_id", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("finish_reason", String(16), nullable=True),
    Column("is_exact", Boolean, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("claimed_until_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "token_id", name="pk_settlements"),
    Index("ix_settlements_created", "create_time_us"),
)

# The versions of each tenant's content key, wrapped by the key provider's key `key_id`. The highest seals.
CONTENT_KEYS = Table(
    "content_keys",
    METADATA,
    Column("tenant", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant", "version", name="pk_content_keys"),
)
