"""Who did what: chains of entries, to which rows are only ever added. The platform's chain has an empty tenant id."""

from sqlalchemy import JSON, BigInteger, Column, Index, PrimaryKeyConstraint, String, Table, Text

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

AUDIT_HEADS = Table(
    "audit_heads",
    METADATA,
    Column("tenant_id", String(63), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("signature", Text, nullable=False),
)

AUDIT_ENTRIES = Table(
    "audit_entries",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(200), nullable=False),
    Column("resource", String(255), nullable=False),
    Column("source", String(64), nullable=False),
    Column("result", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("details", JSON, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    PrimaryKeyConstraint("tenant_id", "sequence"),
    Index(None, "tenant_id", "time"),
)

# Administrative calls that may change something, from before they are carried out until their entry is written.
AUDIT_BEGUN = Table(
    "audit_begun",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("due_time", UtcDateTime, nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(200), nullable=False),
    Column("resource", String(255), nullable=False),
    Column("source", String(64), nullable=False),
    Column("result", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("details", JSON, nullable=False),
    Index(None, "due_time"),
)
