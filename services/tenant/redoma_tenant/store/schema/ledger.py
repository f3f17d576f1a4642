"""What calls have used: the ledger, to which rows are only ever added, and sums of it by the hour."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
)

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

# `revision` counts the transactions of a call: 0 is its settlement, later ones correct it.
LEDGER_TRANSACTIONS = Table(
    "ledger_transactions",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("id", String(32), nullable=False),
    Column("token_id", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("api_key_id", String(16), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("adapter", String(80), nullable=False),
    Column("book_time", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id"),
    UniqueConstraint("tenant_id", "token_id", "revision"),
    Index(None, "tenant_id", "book_time", "id"),
)

LEDGER_ENTRIES = Table(
    "ledger_entries",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("transaction_id", String(32), nullable=False),
    Column("line", Integer, nullable=False),
    Column("account", String(100), nullable=False),
    Column("unit", String(32), nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "transaction_id", "line"),
    ForeignKeyConstraint(["tenant_id", "transaction_id"], ["ledger_transactions.tenant_id", "ledger_transactions.id"]),
    Index(None, "tenant_id", "account", "unit"),
)

# Kept in the transaction that books. Empty columns stand for none.
USAGE_HOURS = Table(
    "usage_hours",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("hour", UtcDateTime, nullable=False),
    Column("api_key_id", String(16), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("model", String(128), nullable=False),
    Column("adapter", String(80), nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "hour", "api_key_id", "user_id", "model", "adapter"),
)
