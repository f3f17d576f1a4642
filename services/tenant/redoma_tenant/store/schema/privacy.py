"""Erasures that were asked for. They outlive the tenant's content, and say nothing of it."""

from sqlalchemy import JSON, Column, Index, PrimaryKeyConstraint, String, Table, Text

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

ERASURES = Table(
    "erasures",
    METADATA,
    Column("tenant_id", String(63), nullable=False),
    Column("id", String(32), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("purpose", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("steps", JSON, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("complete_time", UtcDateTime),
    Column("certificate", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "id"),
    Index(None, "state"),
    Index(None, "tenant_id", "create_time", "id"),
)
