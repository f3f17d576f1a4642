"""What the service is called, and where its tables come from."""

from pathlib import Path

SERVICE = "provisioner"
MIGRATIONS = Path(__file__).parent / "migrations"
# Of PostgreSQL.
SCHEMA = "redoma_provisioner"
