"""The tables, a file for each field. A change here needs a migration; a test compares the two."""

from redoma_tenant.store.schema.audit import AUDIT_BEGUN, AUDIT_ENTRIES, AUDIT_HEADS
from redoma_tenant.store.schema.base import METADATA, UtcDateTime
from redoma_tenant.store.schema.credentials import API_KEYS, CHANGES, IDENTITY_PROVIDERS
from redoma_tenant.store.schema.ledger import LEDGER_ENTRIES, LEDGER_TRANSACTIONS, USAGE_HOURS
from redoma_tenant.store.schema.metering import PRICES, QUOTA_COUNTERS, RESERVATIONS
from redoma_tenant.store.schema.privacy import ERASURES
from redoma_tenant.store.schema.tenants import PLANS, TENANTS, USERS

__all__ = [
    "API_KEYS",
    "AUDIT_BEGUN",
    "AUDIT_ENTRIES",
    "AUDIT_HEADS",
    "CHANGES",
    "ERASURES",
    "IDENTITY_PROVIDERS",
    "LEDGER_ENTRIES",
    "LEDGER_TRANSACTIONS",
    "METADATA",
    "PLANS",
    "PRICES",
    "QUOTA_COUNTERS",
    "RESERVATIONS",
    "TENANTS",
    "USAGE_HOURS",
    "USERS",
    "UtcDateTime",
]
