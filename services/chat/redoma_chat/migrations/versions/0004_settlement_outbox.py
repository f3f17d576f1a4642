"""What ended calls used, until the meter has it, and until when a streaming answer is somebody's."""

import sqlalchemy as sa
from alembic import op

from redoma_kit.row_security import Guard, guard_tables

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the outbox; adds a column that a process of the previous release leaves as it is."""
    op.create_table(
        "settlements",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("finish_reason", sa.String(16), nullable=True),
        sa.Column("is_exact", sa.Boolean, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.Column("claimed_until_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "token_id", name="pk_settlements"),
    )
    op.create_index("ix_settlements_created", "settlements", ["create_time_us"])
    guard_tables(op.get_bind(), (Guard("settlements", tenant="tenant"),))
    op.add_column("messages", sa.Column("lease_us", sa.BigInteger, nullable=False, server_default="0"))
