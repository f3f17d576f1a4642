"""What the authority signed, and the sequence of trust bundles."""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table

from redoma_provisioner.store.schema.base import METADATA, UtcDateTime

# `serial` and `fingerprint` are lower-case hex. A certificate is good between `issue_time` and `expire_time`, unless
# `retire_time` (a newer one has taken its place) or `revoke_time` has passed.
CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    Column("site_id", String(40), nullable=False),
    Column("service", String(32), nullable=False),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("issue_time", UtcDateTime, nullable=False),
    Column("expire_time", UtcDateTime, nullable=False),
    Column("retire_time", UtcDateTime),
    Column("revoke_time", UtcDateTime),
    Index(None, "site_id", "service"),
)

# One row. `digest` is that of the content of the bundle with this number; other content gets the next.
TRUST = Table(
    "trust",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False),
)
