"""Who may call the administrative RPCs: identities that are forged, stale or meant for something else are refused."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from redoma.tenant.v1 import api_key_pb2, tenant_pb2, user_pb2
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    SEND,
    TENANTS,
    USERS,
    TenantSite,
    failure_of_call,
    identity_in,
)

ADMINISTRATIVE = [
    (f"{TENANTS}CreateTenant", tenant_pb2.CreateTenantRequest(tenant_id="evil")),
    (f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme")),
    (f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest()),
    (f"{TENANTS}UpdateTenant", tenant_pb2.UpdateTenantRequest(tenant=tenant_pb2.Tenant(name="tenants/acme"))),
    (f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme")),
    (f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme")),
    (f"{API_KEYS}CreateApiKey", api_key_pb2.CreateApiKeyRequest(parent="tenants/acme")),
    (f"{API_KEYS}ListApiKeys", api_key_pb2.ListApiKeysRequest(parent="tenants/acme")),
    (f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name="tenants/acme/apiKeys/0123456789abcdef")),
    (f"{TENANTS}DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/acme")),
    (f"{TENANTS}UndeleteTenant", tenant_pb2.UndeleteTenantRequest(name="tenants/acme")),
    (f"{API_KEYS}UpdateApiKey", api_key_pb2.UpdateApiKeyRequest()),
    (f"{API_KEYS}RotateApiKey", api_key_pb2.RotateApiKeyRequest(name="tenants/acme/apiKeys/0123456789abcdef")),
    (f"{USERS}CreateUser", user_pb2.CreateUserRequest(parent="tenants/acme")),
    (f"{USERS}GetUser", user_pb2.GetUserRequest(name=f"tenants/acme/users/{'0' * 32}")),
    (f"{USERS}ListUsers", user_pb2.ListUsersRequest(parent="tenants/acme")),
    (f"{USERS}UpdateUser", user_pb2.UpdateUserRequest()),
    (f"{USERS}DeleteUser", user_pb2.DeleteUserRequest(name=f"tenants/acme/users/{'0' * 32}")),
    (f"{USERS}CreateIdentityProvider", user_pb2.CreateIdentityProviderRequest()),
    (f"{USERS}ListIdentityProviders", user_pb2.ListIdentityProvidersRequest()),
    (f"{USERS}DeleteIdentityProvider", user_pb2.DeleteIdentityProviderRequest()),
]
METHODS = [method for method, _ in ADMINISTRATIVE]
OPERATORS_ONLY = [pair for pair in ADMINISTRATIVE if pair[0].startswith(TENANTS) and not pair[0].endswith("GetTenant")]
CHECKS = f"{TENANTS}GetContentChecks"


@pytest.fixture(autouse=True)
async def acme(site: TenantSite) -> None:
    """The tenant that the tests name."""
    await site.add_tenant("acme")
    await site.add_tenant("globex")


@pytest.mark.parametrize(("method", "request_"), ADMINISTRATIVE, ids=METHODS)
async def test_a_leaked_chat_identity_administers_nothing(site: TenantSite, method: str, request_: Any) -> None:
    key = (await site.add_key(scopes=["generate", "conversations", "tenant.admin"])).secret
    token = identity_in(await site.check(key, SEND))
    failure = await failure_of_call(site.call_with(method, request_, (("redoma-identity", token),)))
    assert failure.reason == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(("method", "request_"), ADMINISTRATIVE, ids=METHODS)
async def test_generation_scopes_administer_nothing(site: TenantSite, method: str, request_: Any) -> None:
    call = site.call(method, request_, tenant="acme", scopes=("generate", "conversations"))
    assert (await failure_of_call(call)).reason == "SCOPE_MISSING"


@pytest.mark.parametrize("service", ["model", "chat", "supervisor"])
@pytest.mark.parametrize(("method", "request_"), ADMINISTRATIVE, ids=METHODS)
async def test_only_the_edge_may_administer(site: TenantSite, service: str, method: str, request_: Any) -> None:
    site.channel(service, "private" if service == "model" else "public")
    failure = await failure_of_call(site.call(method, request_, service))
    assert failure.reason == "METHOD_DENIED"


@pytest.mark.parametrize(
    "claims",
    [
        {"key": Ed25519PrivateKey.generate()},
        {"iat": 1_700_000_000, "exp": 1_700_000_060},
        {"audience": ["chat", "model"]},
        {"iss": "someone"},
        {"exp": 4_000_000_000},
        {"method": f"{TENANTS}GetTenant"},
        {"scopes": None},
    ],
    ids=["forged", "expired", "other audience", "other issuer", "too long", "other method", "no scopes"],
)
async def test_identities_that_do_not_verify_are_refused(site: TenantSite, claims: dict[str, Any]) -> None:
    call = site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(), **claims)
    assert (await failure_of_call(call)).reason == "CREDENTIAL_INVALID"


async def test_no_identity_is_refused(site: TenantSite) -> None:
    call = site.call_with(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(), ())
    assert (await failure_of_call(call)).reason == "CREDENTIAL_INVALID"


async def test_a_key_reaches_the_administrative_rpc_it_was_admitted_to(site: TenantSite) -> None:
    method = f"{TENANTS}ListTenants"
    token = identity_in(await site.check(site.bootstrap_key, method))
    metadata = (("redoma-identity", token),)
    response = await site.call_with(method, tenant_pb2.ListTenantsRequest(), metadata)
    assert [tenant.name for tenant in response.tenants] == ["tenants/acme", "tenants/globex"]
    other = site.call_with(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme"), metadata)
    assert (await failure_of_call(other)).reason == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        (f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/globex")),
        (f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/nobody")),
        (f"{API_KEYS}CreateApiKey", api_key_pb2.CreateApiKeyRequest(parent="tenants/globex")),
        (f"{API_KEYS}ListApiKeys", api_key_pb2.ListApiKeysRequest(parent="tenants/globex")),
        (f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name="tenants/globex/apiKeys/0123456789abcdef")),
    ],
)
async def test_a_tenants_admin_reaches_no_other_tenant(site: TenantSite, method: str, request_: Any) -> None:
    assert (await failure_of_call(site.tenant_admin(method, request_))).reason == "TENANT_MISMATCH"


async def test_a_tenants_admin_cant_revoke_anothers_key_under_its_own_name(site: TenantSite) -> None:
    stolen = (await site.add_key("globex")).api_key.name.replace("globex", "acme")
    call = site.tenant_admin(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=stolen))
    assert (await failure_of_call(call)).reason == "RESOURCE_NOT_FOUND"
    assert (await site.list_keys("globex"))[0].state == api_key_pb2.ApiKey.STATE_ACTIVE


@pytest.mark.parametrize(
    ("method", "request_"), ADMINISTRATIVE[0:1] + ADMINISTRATIVE[2:6], ids=METHODS[0:1] + METHODS[2:6]
)
async def test_a_tenants_admin_is_no_operator(site: TenantSite, method: str, request_: Any) -> None:
    assert (await failure_of_call(site.tenant_admin(method, request_))).reason == "SCOPE_MISSING"


async def test_content_checks_are_those_of_the_identity_chat_passes_on(site: TenantSite) -> None:
    checks = tenant_pb2.ContentChecks(
        max_input_tokens=512,
        blocked_patterns=[tenant_pb2.BlockedPattern(text="secret", action=tenant_pb2.BlockedPattern.ACTION_MASK)],
    )
    await site.add_tenant("initech", content_checks=checks)
    key = (await site.add_key("initech")).secret
    metadata = (("redoma-identity", identity_in(await site.check(key, SEND))),)
    request = tenant_pb2.GetContentChecksRequest()
    response = await site.call_with(CHECKS, request, metadata, "chat")
    assert response.content_checks == checks
    for service in ("edge", "model"):
        site.channel(service, "private" if service == "model" else "public")
        failure = await failure_of_call(site.call_with(CHECKS, request, metadata, service))
        assert failure.reason == "METHOD_DENIED"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"audience": ["model"]}, "CREDENTIAL_INVALID"),
        ({"key": Ed25519PrivateKey.generate()}, "CREDENTIAL_INVALID"),
        ({"tenant": "nobody"}, "RESOURCE_NOT_FOUND"),
        ({"tenant": ""}, "RESOURCE_NOT_FOUND"),
    ],
)
async def test_content_checks_need_a_verified_identity(site: TenantSite, claims: dict[str, Any], reason: str) -> None:
    claims = {"audience": ["chat", "model", "tenant"], "tenant": "acme", "method": SEND} | claims
    call = site.call(CHECKS, tenant_pb2.GetContentChecksRequest(), "chat", **claims)
    assert (await failure_of_call(call)).reason == reason
