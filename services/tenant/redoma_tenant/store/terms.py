"""What a tenant may use, read from its row and its plan's."""

from sqlalchemy import RowMapping

from redoma_tenant.limits import AtLimit, limits_from_json
from redoma_tenant.meter.account import TenantTerms
from redoma_tenant.meter.warnings import DEFAULT_WARNING_PERCENTS
from redoma_tenant.store.schema import PLANS, TENANTS

ACTIVE_TENANT = "ACTIVE"
DISABLED = "TENANT_DISABLED"
TERMS_COLUMNS = (
    TENANTS.c.state,
    TENANTS.c.limits,
    TENANTS.c.at_limit,
    PLANS.c.limits.label("plan_limits"),
    PLANS.c.at_limit.label("plan_at_limit"),
    PLANS.c.warning_percents,
)


def tenant_terms(row: RowMapping) -> TenantTerms:
    """Reads TERMS_COLUMNS of a tenant joined with its plan, if it has one."""
    limits = limits_from_json(row["limits"]).over(limits_from_json(row["plan_limits"] or {}))
    at_limit = row["at_limit"] or row["plan_at_limit"] or AtLimit.END.value
    percents = row["warning_percents"]
    return TenantTerms(
        limits,
        "" if row["state"] == ACTIVE_TENANT else DISABLED,
        AtLimit(at_limit),
        DEFAULT_WARNING_PERCENTS if percents is None else tuple(percents),
    )
