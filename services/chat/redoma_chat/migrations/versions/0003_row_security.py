"""Whose conversations each role may see."""

from alembic import op

from redoma_kit.row_security import Guard, guard_tables

revision = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Guards both tables."""
    guard_tables(op.get_bind(), (Guard("conversations", tenant="tenant"), Guard("messages", tenant="tenant")))
