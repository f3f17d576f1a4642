"""Administrative calls that were begun, for those that their process does not survive."""

import sqlalchemy as sa
from alembic import op

from redoma_kit.row_security import Guard, guard_tables

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

GUARDS = (Guard("audit_begun", app=("SELECT",)),)


def upgrade() -> None:
    """Makes the table."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "audit_begun",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant_id", sa.String(63), nullable=False),
        sa.Column("due_time", time, nullable=False),
        sa.Column("time", time, nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("resource", sa.String(255), nullable=False),
        sa.Column("source", sa.String(64), nullable=False),
        sa.Column("result", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_begun"),
    )
    op.create_index("ix_audit_begun_due_time", "audit_begun", ["due_time"])
    guard_tables(op.get_bind(), GUARDS)
