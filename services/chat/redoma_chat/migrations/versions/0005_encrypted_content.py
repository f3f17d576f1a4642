"""Texts are sealed: binary columns, each tenant's content key, and no folded copies to search in."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from redoma_kit.row_security import Guard, guard_tables

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

FOLDED = {"conversations": "title_folded", "messages": "content_folded"}
SEALED = {
    "conversations": {"title": "NOT NULL", "system_prompt": "NOT NULL", "sampling": "NOT NULL"},
    "messages": {"content": "NOT NULL", "reasoning": "NOT NULL", "response_format": ""},
}


def upgrade() -> None:
    """Makes texts bytes as they are; the service seals them afterwards, while it serves."""
    op.create_table(
        "content_keys",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("create_time_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "version", name="pk_content_keys"),
    )
    guard_tables(op.get_bind(), (Guard("content_keys", tenant="tenant"),))
    statements = _sqlite if op.get_bind().dialect.name == "sqlite" else _postgresql
    for table in SEALED:
        op.execute(f"ALTER TABLE {table} DROP COLUMN {FOLDED[table]}")
        op.execute(f"ALTER TABLE {table} ADD COLUMN key_version INTEGER NOT NULL DEFAULT 0")
        for statement in statements(table):
            op.execute(statement)
        op.create_index(f"ix_{table}_key_version", table, ["key_version", "tenant"])
    op.create_index("ix_conversations_tenant_changed", "conversations", ["tenant", "update_time_us"])


def _postgresql(table: str) -> Sequence[str]:
    changes = (f"ALTER COLUMN {column} TYPE bytea USING convert_to({column}, 'UTF8')" for column in SEALED[table])
    return [f"ALTER TABLE {table} {', '.join(changes)}"]


def _sqlite(table: str) -> Sequence[str]:
    # Column by column, for a table that is made anew takes the rows along that refer to it.
    statements = []
    for column, null in SEALED[table].items():
        default = "DEFAULT x''" if null else ""
        statements += [
            f"ALTER TABLE {table} ADD COLUMN {column}_bytes BLOB {null} {default}",
            f"UPDATE {table} SET {column}_bytes = CAST({column} AS BLOB)",  # noqa: S608 (names of our own)
            f"ALTER TABLE {table} DROP COLUMN {column}",
            f"ALTER TABLE {table} RENAME COLUMN {column}_bytes TO {column}",
        ]
    return statements
