"""What callers show, and the feed that tells every replica what no longer counts."""

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

# `tenant_id` is null for keys of operators. `limits` are the key's own.
API_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("tenant_id", String(63), ForeignKey("tenants.id")),
    Column("display_name", String(200), nullable=False),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("expire_time", UtcDateTime),
    Column("create_time", UtcDateTime, nullable=False),
    Column("last_use_time", UtcDateTime),
    Column("revoke_time", UtcDateTime),
    Column("models", JSON, nullable=False),
    Column("cidrs", JSON, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("user_id", String(32)),
    Column("replaced_by", String(16)),
    Column("version", Integer, nullable=False),
    Index(None, "tenant_id", "create_time", "id"),
    Index(None, "expire_time"),
)

IDENTITY_PROVIDERS = Table(
    "identity_providers",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("issuer", String(255), nullable=False),
    Column("audience", String(255), nullable=False),
    Column("tenant_id", String(63), ForeignKey("tenants.id")),
    Column("tenant_claim", String(100), nullable=False),
    Column("roles_claim", String(100), nullable=False),
    Column("roles", JSON, nullable=False),
    Column("default_role", String(16), nullable=False),
    Column("operator_role", String(100), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    UniqueConstraint("issuer", "audience"),
)

# Written in the transaction of each change to what a credential stands for; replicas read on from the last position
# they saw. `principal` is a resource name, or empty for all of the tenant; `reason` is the name of an ErrorReason, or
# empty where calls may go on and only caches must forget. Positions are not dense, and on PostgreSQL a lower one may
# become visible after a higher one, so readers look back a little.
CHANGES = Table(
    "changes",
    METADATA,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant_id", String(63), nullable=False),
    Column("principal", String(255), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("time", UtcDateTime, nullable=False),
    Index(None, "time"),
)
