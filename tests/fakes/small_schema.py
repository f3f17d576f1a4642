"""A schema of two tables with migrations of its own, for what a database does whatever the service."""

from pathlib import Path

import structlog

from redoma_kit.database import Database

SCHEMA = "redoma_small"
ENV = """
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""
VERSION = """
import sqlalchemy as sa
from alembic import op

from redoma_kit.row_security import ADD, Guard, guard_tables

revision = "0001"
down_revision = None


def upgrade():
    for table in ("notes", "books"):
        op.create_table(
            table,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("tenant_id", sa.String(63), nullable=False),
            sa.Column("words", sa.Text, unique=True),
        )
    guard_tables(op.get_bind(), (Guard("notes"), Guard("books", app=ADD, is_append_only=True)))
"""


def write_migrations(folder: Path) -> Path:
    """Writes the migrations and gives where they lie."""
    migrations = folder / "migrations"
    (migrations / "versions").mkdir(parents=True)
    (migrations / "env.py").write_text(ENV)
    (migrations / "versions" / "0001_tables.py").write_text(VERSION)
    return migrations


async def open_small_database(url: str, folder: Path, connections: int = 5) -> Database:
    """Gives a database with empty tables `notes` and `books` (append-only): id, tenant_id, words (unique)."""
    database = Database(url, structlog.get_logger(), SCHEMA, connections)
    await database.upgrade(write_migrations(folder))
    return database
