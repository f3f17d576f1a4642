"""The sites, what lets them join, and what they expose. A site's id stays taken until DeleteSite."""

from sqlalchemy import Boolean, Column, Index, Integer, LargeBinary, PrimaryKeyConstraint, String, Table

from redoma_provisioner.store.schema.base import METADATA, UtcDateTime

# `state` is JOINED, INVITED or REVOKED. `version` counts what people set: the etag.
SITES = Table(
    "sites",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("driver", String(32), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("join_time", UtcDateTime),
    Column("revoke_time", UtcDateTime),
    Column("last_seen_time", UtcDateTime),
    Column("trust_sequence", Integer, nullable=False),
)

# `code_hash` is the SHA-256 of the code, hex: the code itself is kept nowhere. `request_digest` is that of the keys
# that redeemed it, so that a lost answer can be given again; `answer` is that answer, which holds no secret, until a
# minute later.
LINK_GRANTS = Table(
    "link_grants",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("site_id", String(40), nullable=False),
    Column("driver", String(32), nullable=False),
    Column("code_hash", String(64), nullable=False, unique=True),
    Column("creator", String(255), nullable=False),
    Column("rejoin", Boolean, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("expire_time", UtcDateTime, nullable=False),
    Column("redeem_time", UtcDateTime),
    Column("revoke_time", UtcDateTime),
    Column("request_digest", String(64)),
    Column("answer", LargeBinary),
    Index(None, "site_id"),
)

# What the sites exposed when they were heard of last.
CONNECTORS = Table(
    "connectors",
    METADATA,
    Column("site_id", String(40), nullable=False),
    Column("routing_key", String(100), nullable=False),
    Column("service", String(16), nullable=False),
    Column("target", String(255), nullable=False),
    Column("tenant_id", String(63), nullable=False),
    PrimaryKeyConstraint("site_id", "routing_key"),
    Index(None, "routing_key", unique=True),
)
