"""Signing in with keys: whose they are, where from, for which models, and what guessing costs."""

import pytest

from redoma.tenant.v1 import api_key_pb2, tenant_pb2
from redoma_kit.api_key import digest_of, new_key
from redoma_tenant import failures
from redoma_tenant.audit.chain import Event
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    SEND,
    TENANTS,
    TenantSite,
    claims_in,
    headers_of,
    identity_in,
    refusal_reason,
)

ENGINE_STATE = "/redoma.model.v1.EngineService/GetEngineState"
GRPC, JSON = {"content-type": "application/grpc"}, {"content-type": "application/json"}
HOME, ELSEWHERE = "203.0.113.9", "198.51.100.7"


def calling_from(source: str, made_up: str = "") -> dict[str, str]:
    """Gives the headers of a gRPC request from an address, after what the client put before it."""
    return GRPC | {"x-forwarded-for": f"{made_up}{source}"}


async def add_operator_key(site: TenantSite) -> str:
    """Makes an operator's key."""
    request = api_key_pb2.CreateApiKeyRequest(parent="platform", api_key=api_key_pb2.ApiKey(display_name="ana"))
    response: api_key_pb2.CreateApiKeyResponse = await site.call(f"{API_KEYS}CreateApiKey", request)
    return response.secret


async def test_an_operators_key_administers_the_platform_and_does_not_chat(site_on_each: TenantSite) -> None:
    key = await add_operator_key(site_on_each)
    claims = claims_in(await site_on_each.check(key, f"{TENANTS}ListTenants"))
    assert claims["sub"].startswith("platform/apiKeys/")
    assert (claims["tenant"], claims["scopes"]) == ("", ["platform.admin"])
    assert refusal_reason(await site_on_each.check(key, SEND)) == "SCOPE_MISSING"


async def test_the_first_operators_key_ends_the_bootstrap_key_for_ever(site_on_each: TenantSite) -> None:
    identity_in(await site_on_each.check(site_on_each.bootstrap_key, f"{TENANTS}ListTenants"))
    await add_operator_key(site_on_each)
    for _ in range(2):
        response = await site_on_each.check(site_on_each.bootstrap_key, f"{TENANTS}ListTenants")
        assert refusal_reason(response) == "CREDENTIAL_REVOKED"
        assert "operator's key" in response.denied_response.body
        await site_on_each.stop()
        await site_on_each.start()


async def test_a_key_works_from_its_networks_alone(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    key = (await site_on_each.add_key(cidrs=["203.0.113.0/24", "2001:db8::/32"])).secret
    for source in (HOME, "2001:db8::7"):
        identity_in(await site_on_each.check(key, headers=calling_from(source)))
    for headers in (calling_from(ELSEWHERE), calling_from(ELSEWHERE, f"{HOME}, "), GRPC):
        response = await site_on_each.check(key, headers=headers)
        assert refusal_reason(response) == "SOURCE_DENIED"
        assert response.denied_response.status.code == 403


async def test_behind_a_proxy_of_ours_the_caller_is_the_one_before_it(site: TenantSite) -> None:
    await site.stop()
    await site.start(trusted_hops=1)
    await site.add_tenant()
    key = (await site.add_key(cidrs=["203.0.113.0/24"])).secret
    identity_in(await site.check(key, headers=calling_from("10.0.0.1", f"{HOME}, ")))
    denied = await site.check(key, headers=calling_from("10.0.0.1", f"{HOME}, {ELSEWHERE}, "))
    assert refusal_reason(denied) == "SOURCE_DENIED"


async def test_a_key_uses_the_models_that_its_tenant_may_too(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant(models=["a", "b"])
    both = (await site_on_each.add_key()).secret
    narrow = (await site_on_each.add_key(models=["b", "c"])).secret
    none = (await site_on_each.add_key(models=["c"], scopes=["generate", "tenant.admin"])).secret
    assert claims_in(await site_on_each.check(both))["models"] == ["a", "b"]
    assert claims_in(await site_on_each.check(narrow))["models"] == ["b"]
    response = await site_on_each.check(none)
    assert refusal_reason(response) == "SCOPE_MISSING"
    assert "redoma key update" in response.denied_response.body
    identity_in(await site_on_each.check(none, f"{API_KEYS}ListApiKeys"))


async def test_the_weight_in_force_is_the_tenants_own_or_the_default(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant("acme", weight=7)
    await site_on_each.add_tenant("globex")
    weights = [
        claims_in(await site_on_each.check((await site_on_each.add_key(one)).secret))["weight"]
        for one in ("acme", "globex")
    ]
    assert weights == [7, 100]


async def test_a_tenant_that_is_being_deleted_is_refused(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    key = (await site_on_each.add_key()).secret
    identity_in(await site_on_each.check(key))
    await site_on_each.call(f"{TENANTS}DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/acme"))
    assert refusal_reason(await site_on_each.check(key)) == "TENANT_DISABLED"


async def test_an_owners_key_also_administers_and_reads(site_on_each: TenantSite) -> None:
    await site_on_each.add_tenant()
    owner = (await site_on_each.add_key(scopes=["tenant.owner"])).secret
    claims = claims_in(await site_on_each.check(owner, f"{API_KEYS}CreateApiKey"))
    assert set(claims["scopes"]) >= {"tenant.admin", "tenant.owner"}
    reader = (await site_on_each.add_key(scopes=["tenant.read"])).secret
    assert refusal_reason(await site_on_each.check(reader, f"{API_KEYS}CreateApiKey")) == "SCOPE_MISSING"


async def test_a_guesser_is_slowed_and_a_good_key_from_there_is_not(
    site: TenantSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_DELAY_S", 0.0)
    await site.add_tenant()
    key = (await site.add_key()).secret
    noisy = calling_from(ELSEWHERE)
    reasons = [refusal_reason(await site.check(new_key(), headers=noisy)) for _ in range(failures.REFUSED_FROM + 3)]
    assert reasons[-4:] == ["CREDENTIAL_INVALID"] + ["SIGN_IN_SLOWED"] * 3
    denied = (await site.check(new_key(), "/ask", headers=JSON | noisy | JSON)).denied_response
    assert denied.status.code == 429
    assert {option.header.key: option.header.value for option in denied.headers}["retry-after"] == "60"
    identity_in(await site.check(key, headers=noisy))
    assert refusal_reason(await site.check(new_key(), headers=calling_from(HOME))) == "CREDENTIAL_INVALID"


async def test_a_request_without_a_credential_is_no_guess(site: TenantSite) -> None:
    for _ in range(failures.REFUSED_FROM + 5):
        response = await site.check(None, headers=calling_from(ELSEWHERE))
    assert refusal_reason(response) == "CREDENTIAL_INVALID"


async def test_refused_requests_and_calls_of_the_engine_are_noted(
    site: TenantSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[Event] = []
    monkeypatch.setattr(site.server.audit.denials, "note", noted.append)
    await site.add_tenant()
    key = (await site.add_key()).secret
    name = (await site.list_keys())[0].name
    headers = calling_from(HOME) | {"x-request-id": "r-1"}
    await site.check(key, headers=headers)
    assert noted == [], "what chat sees is its own to note"
    await site.check(new_key(), headers=headers)
    await site.check(key, f"{TENANTS}ListTenants", headers=headers)
    await site.check(site.bootstrap_key, ENGINE_STATE, headers=headers)
    await site.check(key, "/v1/x?secret=1", "GET", headers=headers)
    assert [(one.chain, one.actor, one.action, one.result) for one in noted] == [
        ("", "", "/redoma.chat.v1.OpenAIService/Ask", "CREDENTIAL_INVALID"),
        ("acme", name, f"{TENANTS}ListTenants", "SCOPE_MISSING"),
        ("", "platform/bootstrap", ENGINE_STATE, "ADMITTED"),
        ("", "", "/v1/x", "RESOURCE_NOT_FOUND"),
    ]
    assert {(one.source, one.request_id) for one in noted} == {(HOME, "r-1")}


async def test_no_refusal_holds_the_credential_or_its_digest(
    site_on_each: TenantSite, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "MAX_DELAY_S", 0.0)
    site, bodies = site_on_each, []
    await site.add_tenant(models=["a"])
    keys = {
        "SOURCE_DENIED": (await site.add_key(cidrs=["203.0.113.0/24"])).secret,
        "CREDENTIAL_REVOKED": (made := await site.add_key()).secret,
        "SCOPE_MISSING": (await site.add_key(models=["b"])).secret,
        "CREDENTIAL_INVALID": new_key(),
    }
    await site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=made.api_key.name))
    for reason, key in keys.items():
        response = await site.check(key)
        assert refusal_reason(response) == reason
        bodies += [str(response), str(await site.check(key, f"/{key}", "GET", JSON))]
    for _ in range(failures.REFUSED_FROM + 1):
        response = await site.check(keys["CREDENTIAL_INVALID"])
    assert refusal_reason(response) == "SIGN_IN_SLOWED"
    bodies.append(str(headers_of(response)))
    await site.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    bodies.append(str(await site.check(keys["SOURCE_DENIED"])))
    await site.server.audit.denials.stop()
    captured = capfd.readouterr()
    metrics = str(list(site.server.grpc._telemetry.registry.collect()))
    written = "\n".join((site.log_text.getvalue(), captured.out, captured.err, metrics, *bodies))
    assert "refused" in written
    for key in keys.values():
        for text in (key, key[len("rdm_x7f2k9qa_") :], digest_of(key)):
            assert text not in written


async def test_the_log_has_a_line_for_each_refusal_and_none_for_what_the_edge_logs_itself(site: TenantSite) -> None:
    await site.add_tenant()
    key = (await site.add_key()).secret
    before = len(site.log_text.getvalue())
    identity_in(await site.check(key))
    assert "Check" not in site.log_text.getvalue()[before:]
    await site.check(new_key(), headers=calling_from(ELSEWHERE) | {"x-request-id": "r-7"})
    written = site.log_text.getvalue()[before:]
    assert '"reason": "CREDENTIAL_INVALID"' in written
    assert ELSEWHERE in written and "r-7" in written
