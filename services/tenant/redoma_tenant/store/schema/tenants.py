"""Tenants, the plans they have, and their users."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from redoma_tenant.store.schema.base import METADATA, UtcDateTime

PLANS = Table(
    "plans",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("weight", Integer, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("at_limit", String(16), nullable=False),
    Column("warning_percents", JSON, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
)

# Of `weight`, 0 is the plan's or the default. Of `retention_s`, 0 is for ever. `limits` and `at_limit` are the tenant's
# own; an empty `at_limit` is the plan's. `quota_version` is the etag of the quota, `version` that of the rest.
TENANTS = Table(
    "tenants",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("display_name", String(200), nullable=False),
    Column("state", String(16), nullable=False),
    Column("weight", Integer, nullable=False),
    Column("content_checks", JSON, nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("plan_id", String(63), ForeignKey("plans.id")),
    Column("isolation", String(16), nullable=False),
    Column("adapter", String(80), nullable=False),
    Column("models", JSON, nullable=False),
    Column("region", String(63), nullable=False),
    Column("retention_s", BigInteger, nullable=False),
    Column("tuning_consent", Boolean, nullable=False),
    Column("content_storage", String(16), nullable=False),
    Column("limits", JSON, nullable=False),
    Column("at_limit", String(16), nullable=False),
    Column("quota_version", Integer, nullable=False),
    Column("delete_time", UtcDateTime),
    Column("purge_time", UtcDateTime),
    Index(None, "plan_id"),
    Index(None, "purge_time"),
)

USERS = Table(
    "users",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", String(63), ForeignKey("tenants.id"), nullable=False),
    Column("issuer", String(255), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("display_name", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
    Column("update_time", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("tenant_id", "issuer", "subject"),
    Index(None, "tenant_id", "id"),
)
