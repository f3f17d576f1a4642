"""The form that an answer must have, kept with it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column that a process of the previous release leaves empty."""
    op.add_column("messages", sa.Column("response_format", sa.Text, nullable=True))
