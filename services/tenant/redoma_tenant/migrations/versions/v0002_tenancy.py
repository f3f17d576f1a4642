"""Plans, users, identity providers, metering, the ledger, the audit trail and erasures; more of tenants and keys.

What is added to a table that has rows comes with a default, which a process of the previous release relies on too.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

time = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Makes the tables and columns."""
    _people()
    _tenants()
    _api_keys()
    _credentials()
    _metering()
    _ledger()
    _audit()
    _privacy()


def _tenants() -> None:
    plan = sa.Column("plan_id", sa.String(63), sa.ForeignKey("plans.id", name="fk_tenants_plan_id"))
    op.add_column("tenants", plan, inline_references=True)
    for column in (
        # SQLite adds no column whose default is an expression.
        sa.Column("update_time", time, nullable=False, server_default="1970-01-01 00:00:00+00:00"),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("isolation", sa.String(16), nullable=False, server_default="SHARED"),
        sa.Column("adapter", sa.String(80), nullable=False, server_default=""),
        sa.Column("models", sa.JSON, nullable=False, server_default="[]"),
        sa.Column("region", sa.String(63), nullable=False, server_default=""),
        sa.Column("retention_s", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tuning_consent", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("content_storage", sa.String(16), nullable=False, server_default="PUBLIC"),
        sa.Column("limits", sa.JSON, nullable=False, server_default="{}"),
        sa.Column("at_limit", sa.String(16), nullable=False, server_default=""),
        sa.Column("quota_version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("delete_time", time),
        sa.Column("purge_time", time),
    ):
        op.add_column("tenants", column)
    op.execute("UPDATE tenants SET update_time = create_time")
    op.create_index("ix_tenants_plan_id", "tenants", ["plan_id"])
    op.create_index("ix_tenants_purge_time", "tenants", ["purge_time"])


def _api_keys() -> None:
    with op.batch_alter_table("api_keys") as batch:
        batch.add_column(sa.Column("models", sa.JSON, nullable=False, server_default="[]"))
        batch.add_column(sa.Column("cidrs", sa.JSON, nullable=False, server_default="[]"))
        batch.add_column(sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
        batch.add_column(sa.Column("user_id", sa.String(32)))
        batch.add_column(sa.Column("replaced_by", sa.String(16)))
        batch.add_column(sa.Column("version", sa.Integer, nullable=False, server_default="1"))
        batch.alter_column("tenant_id", existing_type=sa.String(63), nullable=True)
    op.create_index("ix_api_keys_expire_time", "api_keys", ["expire_time"])


def _people() -> None:
    op.create_table(
        "plans",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("at_limit", sa.String(16), nullable=False),
        sa.Column("warning_percents", sa.JSON, nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("update_time", time, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("update_time", time, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_users_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("tenant_id", "issuer", "subject", name="uq_users_tenant_id"),
    )
    op.create_index("ix_users_tenant_id_id", "users", ["tenant_id", "id"])


def _credentials() -> None:
    op.create_table(
        "identity_providers",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("issuer", sa.String(255), nullable=False),
        sa.Column("audience", sa.String(255), nullable=False),
        sa.Column("tenant_id", sa.String(63)),
        sa.Column("tenant_claim", sa.String(100), nullable=False),
        sa.Column("roles_claim", sa.String(100), nullable=False),
        sa.Column("roles", sa.JSON, nullable=False),
        sa.Column("default_role", sa.String(16), nullable=False),
        sa.Column("operator_role", sa.String(100), nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_identity_providers_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_identity_providers"),
        sa.UniqueConstraint("issuer", "audience", name="uq_identity_providers_issuer"),
    )
    op.create_table(
        "changes",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("time", time, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_changes"),
    )
    op.create_index("ix_changes_time", "changes", ["time"])


def _metering() -> None:
    op.create_table(
        "prices",
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("input_micros_per_million", sa.BigInteger, nullable=False),
        sa.Column("cached_input_micros_per_million", sa.BigInteger, nullable=False),
        sa.Column("output_micros_per_million", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("model", name="pk_prices"),
    )
    op.create_table(
        "quota_counters",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("api_key_id", sa.String(16), nullable=False),
        sa.Column("requests_full_us", sa.BigInteger, nullable=False),
        sa.Column("tokens_full_us", sa.BigInteger, nullable=False),
        sa.Column("open_calls", sa.Integer, nullable=False),
        sa.Column("held_tokens", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("day_used_tokens", sa.BigInteger, nullable=False),
        sa.Column("day_held_tokens", sa.BigInteger, nullable=False),
        sa.Column("month", sa.Integer, nullable=False),
        sa.Column("month_used_tokens", sa.BigInteger, nullable=False),
        sa.Column("month_held_tokens", sa.BigInteger, nullable=False),
        sa.Column("month_used_nanos", sa.BigInteger, nullable=False),
        sa.Column("month_held_nanos", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "api_key_id", name="pk_quota_counters"),
    )
    op.create_table(
        "reservations",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("api_key_id", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("adapter", sa.String(80), nullable=False),
        sa.Column("held_tokens", sa.BigInteger, nullable=False),
        sa.Column("held_nanos", sa.BigInteger, nullable=False),
        sa.Column("reserved_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("granted_output_tokens", sa.BigInteger),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("input_micros_per_million", sa.BigInteger, nullable=False),
        sa.Column("cached_input_micros_per_million", sa.BigInteger, nullable=False),
        sa.Column("output_micros_per_million", sa.BigInteger, nullable=False),
        sa.Column("is_exact", sa.Boolean, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("month", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("lapse_time", time, nullable=False),
        sa.Column("settle_time", time),
        sa.PrimaryKeyConstraint("tenant_id", "token_id", name="pk_reservations"),
    )
    op.create_index("ix_reservations_state_lapse_time", "reservations", ["state", "lapse_time"])


def _ledger() -> None:
    op.create_table(
        "ledger_transactions",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("api_key_id", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("adapter", sa.String(80), nullable=False),
        sa.Column("book_time", time, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_ledger_transactions"),
        sa.UniqueConstraint("tenant_id", "token_id", "revision", name="uq_ledger_transactions_tenant_id"),
    )
    op.create_index(
        "ix_ledger_transactions_tenant_id_book_time_id", "ledger_transactions", ["tenant_id", "book_time", "id"]
    )
    op.create_table(
        "ledger_entries",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("transaction_id", sa.String(32), nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("account", sa.String(100), nullable=False),
        sa.Column("unit", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "transaction_id"],
            ["ledger_transactions.tenant_id", "ledger_transactions.id"],
            name="fk_ledger_entries_tenant_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "transaction_id", "line", name="pk_ledger_entries"),
    )
    op.create_index("ix_ledger_entries_tenant_id_account_unit", "ledger_entries", ["tenant_id", "account", "unit"])
    op.create_table(
        "usage_hours",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("hour", time, nullable=False),
        sa.Column("api_key_id", sa.String(16), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("adapter", sa.String(80), nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "hour", "api_key_id", "user_id", "model", "adapter", name="pk_usage_hours"
        ),
    )


def _audit() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_audit_heads"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("time", time, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("resource", sa.String(255), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("result", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "sequence", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_tenant_id_time", "audit_entries", ["tenant_id", "time"])


def _privacy() -> None:
    op.create_table(
        "erasures",
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("principal", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("steps", sa.JSON, nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("complete_time", time),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_erasures"),
    )
    op.create_index("ix_erasures_state", "erasures", ["state"])
    op.create_index("ix_erasures_tenant_id_create_time_id", "erasures", ["tenant_id", "create_time", "id"])
