"""Whose rows each role may see, and the books that are only ever added to."""

from alembic import op

from redoma_kit.row_security import ADD, EDIT, READ, Guard, guard_tables

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

GUARDS = (
    Guard("tenants", tenant="id", app=("SELECT", "UPDATE"), auth=True),
    Guard("users", auth=True),
    Guard("api_keys", auth=True),
    Guard("identity_providers", auth=True),
    Guard("changes", app=ADD, auth=True),
    Guard("plans", tenant=None, app=READ, auth=True),
    Guard("prices", tenant=None, app=READ),
    Guard("quota_counters"),
    Guard("reservations"),
    Guard("usage_hours"),
    Guard("ledger_transactions", app=ADD, is_append_only=True),
    Guard("ledger_entries", app=ADD, is_append_only=True),
    Guard("audit_heads", app=READ),
    Guard("audit_entries", app=READ, is_append_only=True),
    Guard("erasures", app=EDIT),
)


def upgrade() -> None:
    """Guards every table."""
    guard_tables(op.get_bind(), GUARDS)
