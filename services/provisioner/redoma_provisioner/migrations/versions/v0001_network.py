"""Sites, grants, connectors, certificates, operations and the snapshots of the Envoys."""

import sqlalchemy as sa
from alembic import op

from redoma_kit.row_security import Guard, guard_tables

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

time = sa.DateTime(timezone=True)
# Nothing here is a tenant's: only the platform's role sees it.
GUARDS = tuple(
    Guard(table, tenant=None, app=())
    for table in ("sites", "link_grants", "connectors", "certificates", "trust", "operations", "snapshots")
)


def upgrade() -> None:
    """Makes the tables."""
    _network()
    _trust()
    _operations()
    _snapshots()
    guard_tables(op.get_bind(), GUARDS)


def _network() -> None:
    op.create_table(
        "sites",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("driver", sa.String(32), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("join_time", time),
        sa.Column("revoke_time", time),
        sa.Column("last_seen_time", time),
        sa.Column("trust_sequence", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sites"),
    )
    op.create_table(
        "link_grants",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("site_id", sa.String(40), nullable=False),
        sa.Column("driver", sa.String(32), nullable=False),
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("creator", sa.String(255), nullable=False),
        sa.Column("rejoin", sa.Boolean, nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("expire_time", time, nullable=False),
        sa.Column("redeem_time", time),
        sa.Column("revoke_time", time),
        sa.Column("request_digest", sa.String(64)),
        sa.Column("answer", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_link_grants"),
        sa.UniqueConstraint("code_hash", name="uq_link_grants_code_hash"),
    )
    op.create_index("ix_link_grants_site_id", "link_grants", ["site_id"])
    op.create_table(
        "connectors",
        sa.Column("site_id", sa.String(40), nullable=False),
        sa.Column("routing_key", sa.String(100), nullable=False),
        sa.Column("service", sa.String(16), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "routing_key", name="pk_connectors"),
    )
    op.create_index("ix_connectors_routing_key", "connectors", ["routing_key"], unique=True)


def _trust() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("site_id", sa.String(40), nullable=False),
        sa.Column("service", sa.String(32), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("issue_time", time, nullable=False),
        sa.Column("expire_time", time, nullable=False),
        sa.Column("retire_time", time),
        sa.Column("revoke_time", time),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        sa.UniqueConstraint("fingerprint", name="uq_certificates_fingerprint"),
    )
    op.create_index("ix_certificates_site_id_service", "certificates", ["site_id", "service"])
    op.create_table(
        "trust",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trust"),
    )


def _operations() -> None:
    op.create_table(
        "operations",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("arguments", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("steps", sa.JSON, nullable=False),
        sa.Column("error_reason", sa.String(64), nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("creator", sa.String(255), nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("end_time", time),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("runner", sa.String(64), nullable=False),
        sa.Column("lease_time", time),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    op.create_index("ix_operations_create_time_id", "operations", ["create_time", "id"])
    op.create_index("ix_operations_state", "operations", ["state"])


def _snapshots() -> None:
    op.create_table(
        "snapshots",
        sa.Column("proxy", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("create_time", time, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("changes", sa.JSON, nullable=False),
        sa.Column("resources", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("proxy", "number", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_proxy_version", "snapshots", ["proxy", "version"])
