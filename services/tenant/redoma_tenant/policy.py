"""Who may call what of the tenant service."""

from redoma_kit.identity import PLATFORM_ADMIN
from redoma_kit.policy import CHAT, EDGE, Policy, Rule

TENANT_ADMIN = "tenant.admin"

PLATFORM = frozenset({PLATFORM_ADMIN})
PLATFORM_OR_TENANT = frozenset({PLATFORM_ADMIN, TENANT_ADMIN})
CHECK_MAX_S = 5.0
CALL_MAX_S = 30.0

POLICY: Policy = {
    "/envoy.service.auth.v3.Authorization/Check": Rule(peers=EDGE, identity=False, max_s=CHECK_MAX_S),
    **{
        f"/redoma.tenant.v1.TenantService/{name}": Rule(peers=EDGE, any_scope=PLATFORM, max_s=CALL_MAX_S)
        for name in ("CreateTenant", "ListTenants", "UpdateTenant", "DisableTenant", "EnableTenant")
    },
    "/redoma.tenant.v1.TenantService/GetTenant": Rule(peers=EDGE, any_scope=PLATFORM_OR_TENANT, max_s=CALL_MAX_S),
    # chat passes on the identity of the call it works on, which was made for a method of chat's.
    "/redoma.tenant.v1.TenantService/GetContentChecks": Rule(peers=CHAT, bound_method=False, max_s=CALL_MAX_S),
    **{
        f"/redoma.tenant.v1.ApiKeyService/{name}": Rule(peers=EDGE, any_scope=PLATFORM_OR_TENANT, max_s=CALL_MAX_S)
        for name in ("CreateApiKey", "ListApiKeys", "RevokeApiKey")
    },
}
