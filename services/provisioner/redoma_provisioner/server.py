"""Puts the provisioner together, for either role, and the only place that knows all its parts."""

from datetime import UTC, datetime
from pathlib import Path

SERVICE = "provisioner"
MIGRATIONS = Path(__file__).parent / "migrations"
# Of PostgreSQL.
SCHEMA = "redoma_provisioner"


def utc_now() -> datetime:
    """Gives the time."""
    return datetime.now(UTC)
