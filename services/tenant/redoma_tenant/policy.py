"""Who may call what of the tenant service."""

from redoma_kit.identity import PLATFORM_ADMIN
from redoma_kit.policy import CHAT, EDGE, Policy, Rule

TENANT_READ = "tenant.read"
TENANT_ADMIN = "tenant.admin"
TENANT_OWNER = "tenant.owner"

PLATFORM = frozenset({PLATFORM_ADMIN})
PLATFORM_OR_TENANT = frozenset({PLATFORM_ADMIN, TENANT_ADMIN})
# Of these, an identity carries all that its caller has, since nobody gives what he has not.
GIVERS = PLATFORM_OR_TENANT | {TENANT_OWNER}
READERS = PLATFORM_OR_TENANT | {TENANT_READ}
OWNERS = PLATFORM | {TENANT_OWNER}
CHECK_MAX_S = 5.0
CALL_MAX_S = 30.0

POLICY: Policy = {
    "/envoy.service.auth.v3.Authorization/Check": Rule(peers=EDGE, identity=False, max_s=CHECK_MAX_S),
    **{
        f"/redoma.tenant.v1.TenantService/{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in (
            "CreateTenant",
            "ListTenants",
            "UpdateTenant",
            "DisableTenant",
            "EnableTenant",
            "DeleteTenant",
            "UndeleteTenant",
        )
    },
    "/redoma.tenant.v1.TenantService/GetTenant": Rule(peers=EDGE, any_scope=READERS, max_s=CALL_MAX_S),
    "/redoma.tenant.v1.TenantService/ListContentPolicies": Rule(peers=CHAT, identity=False, max_s=CALL_MAX_S),
    # chat passes on the identity of the call it works on, which was made for a method of chat's.
    "/redoma.tenant.v1.TenantService/GetContentChecks": Rule(peers=CHAT, bound_method=False, max_s=CALL_MAX_S),
    **{
        f"/redoma.tenant.v1.ApiKeyService/{name}": Rule(peers=EDGE, any_scope=GIVERS, max_s=CALL_MAX_S)
        for name in ("CreateApiKey", "ListApiKeys", "UpdateApiKey", "RotateApiKey", "RevokeApiKey")
    },
    **{
        f"/redoma.tenant.v1.UserService/{name}": Rule(peers=EDGE, any_scope=GIVERS, max_s=CALL_MAX_S)
        for name in ("CreateUser", "UpdateUser", "DeleteUser")
    },
    **{
        f"/redoma.tenant.v1.UserService/{name}": Rule(peers=EDGE, any_scope=GIVERS | {TENANT_READ}, max_s=CALL_MAX_S)
        for name in ("GetUser", "ListUsers")
    },
    **{
        f"/redoma.tenant.v1.UserService/{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in ("CreateIdentityProvider", "ListIdentityProviders", "DeleteIdentityProvider")
    },
    **{
        f"/redoma.tenant.v1.{name}": Rule(peers=EDGE, any_scope=READERS, max_s=CALL_MAX_S)
        for name in (
            "UsageService/QueryUsage",
            "UsageService/ListLedgerTransactions",
            "UsageService/ReconcileUsage",
            "AuditService/ListAuditEntries",
        )
    },
    # These read as much as there is.
    **{
        f"/redoma.tenant.v1.{name}": Rule(peers=EDGE, any_scope=READERS)
        for name in ("UsageService/ExportUsage", "AuditService/ExportAuditEntries", "AuditService/VerifyAuditChain")
    },
    "/redoma.tenant.v1.QuotaService/GetQuota": Rule(
        peers=EDGE, any_scope=PLATFORM_OR_TENANT | {TENANT_READ}, max_s=CALL_MAX_S
    ),
    **{
        f"/redoma.tenant.v1.QuotaService/{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in (
            "UpdateQuota",
            "CreatePlan",
            "GetPlan",
            "ListPlans",
            "UpdatePlan",
            "DeletePlan",
            "SetPrice",
            "ListPrices",
            "DeletePrice",
        )
    },
    # As with the content checks.
    "/redoma.tenant.v1.MeterService/Reserve": Rule(peers=CHAT, bound_method=False, max_s=CALL_MAX_S),
    **{
        f"/redoma.tenant.v1.MeterService/{name}": Rule(peers=CHAT, identity=False, max_s=CALL_MAX_S)
        for name in ("Checkpoint", "Settle")
    },
    "/redoma.tenant.v1.MeterService/WatchRevocations": Rule(peers=CHAT, identity=False),
    **{
        f"/redoma.tenant.v1.PrivacyService/{name}": Rule(peers=EDGE, any_scope=OWNERS, max_s=CALL_MAX_S)
        for name in ("EraseData", "GetErasure", "ListErasures")
    },
    "/redoma.tenant.v1.PrivacyService/ExportData": Rule(peers=EDGE, any_scope=OWNERS),
}
