"""What the Envoys were served last, so that a restarted control plane serves the same."""

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, PrimaryKeyConstraint, String, Table, Text

from redoma_provisioner.store.schema.base import METADATA, UtcDateTime

# `resources` is JSON, compressed with zlib. `number` counts the snapshots of a proxy; the last fifty are kept.
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("proxy", String(64), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("version", String(32), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("cause", Text, nullable=False),
    Column("changes", JSON, nullable=False),
    Column("resources", LargeBinary, nullable=False),
    PrimaryKeyConstraint("proxy", "number"),
    Index(None, "proxy", "version"),
)
