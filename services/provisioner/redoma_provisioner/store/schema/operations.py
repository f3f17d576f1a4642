"""Work that goes on after the call that asked for it."""

from sqlalchemy import JSON, Boolean, Column, Index, String, Table, Text

from redoma_provisioner.store.schema.base import METADATA, UtcDateTime

# `lease_time` is until when the process that runs it (`runner`) is believed to live.
OPERATIONS = Table(
    "operations",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("arguments", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("steps", JSON, nullable=False),
    Column("error_reason", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("creator", String(255), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("end_time", UtcDateTime),
    Column("cancel_requested", Boolean, nullable=False),
    Column("runner", String(64), nullable=False),
    Column("lease_time", UtcDateTime),
    Index(None, "create_time", "id"),
    Index(None, "state"),
)
