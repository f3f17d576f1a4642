"""Signing in with tokens of an identity provider, against one that really signs."""

import base64
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from redoma.tenant.v1 import tenant_pb2, user_pb2
from redoma_kit.api_key import digest_of
from redoma_tenant.oidc import directory
from redoma_tenant.oidc.sign_in import user_id
from tests.fakes.oidc_provider import OidcProvider, new_private_key
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    SEND,
    TENANTS,
    USERS,
    TenantSite,
    claims_in,
    identity_in,
    refusal_reason,
)

ROLES = {
    "chatters": user_pb2.ROLE_MEMBER,
    "auditors": user_pb2.ROLE_VIEWER,
    "chiefs": user_pb2.ROLE_OWNER,
}


@pytest.fixture
async def provider(site_on_each: TenantSite, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OidcProvider]:
    """A provider that answers, on the clock of the site."""
    monkeypatch.setattr(directory, "RETRY_S", 0.0)
    await site_on_each.add_tenant("acme", weight=300, models=["a"])
    await site_on_each.add_tenant("globex")
    provider = OidcProvider(now=lambda: site_on_each.clock().timestamp())
    await provider.start()
    yield provider
    await provider.stop()


async def trust(site: TenantSite, provider: OidcProvider, **settings: Any) -> str:
    """Has the site trust the provider, by default for acme's users as members, and gives its name."""
    values: dict[str, Any] = {"tenant": "tenants/acme", "default_role": user_pb2.ROLE_MEMBER} | settings
    made = user_pb2.IdentityProvider(issuer=provider.issuer, audience=provider.audience, **values)
    request = user_pb2.CreateIdentityProviderRequest(identity_provider=made)
    response: user_pb2.CreateIdentityProviderResponse = await site.call(f"{USERS}CreateIdentityProvider", request)
    return response.identity_provider.name


def encoded(part: Mapping[str, object]) -> bytes:
    """Gives a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


async def users(site: TenantSite, tenant: str = "acme") -> list[user_pb2.User]:
    """Lists a tenant's users."""
    response = await site.call(f"{USERS}ListUsers", user_pb2.ListUsersRequest(parent=f"tenants/{tenant}"))
    return list(response.users)


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_a_token_becomes_an_identity(site_on_each: TenantSite, provider: OidcProvider, algorithm: str) -> None:
    provider.algorithm = algorithm
    provider.rotate()
    await trust(site_on_each, provider)
    claims = claims_in(await site_on_each.check(provider.token(), SEND))
    assert claims["sub"] == f"tenants/acme/users/{user_id(provider.issuer, 'ana', 'acme')}"
    assert (claims["tenant"], claims["weight"], claims["models"]) == ("acme", 300, ["a"])
    assert claims["scopes"] == ["conversations", "generate"]


async def test_a_user_is_made_at_the_first_sign_in(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider)
    for _ in range(2):
        identity_in(await site_on_each.check(provider.token(name="Ana\n Maria")))
    (user,) = await users(site_on_each)
    assert (user.issuer, user.subject, user.display_name) == (provider.issuer, "ana", "Ana Maria")
    assert user.role == user_pb2.ROLE_MEMBER


@pytest.mark.parametrize(
    ("groups", "allowed", "denied"),
    [
        ("chatters", SEND, f"{API_KEYS}CreateApiKey"),
        (["auditors"], f"{USERS}ListUsers", SEND),
        (["auditors", "chiefs", "strangers"], f"{API_KEYS}CreateApiKey", f"{TENANTS}ListTenants"),
    ],
)
async def test_claims_say_the_role(
    site_on_each: TenantSite, provider: OidcProvider, groups: object, allowed: str, denied: str
) -> None:
    await trust(site_on_each, provider, roles_claim="realm.groups", roles=ROLES)
    token = provider.token(realm={"groups": groups})
    identity_in(await site_on_each.check(token, allowed))
    assert refusal_reason(await site_on_each.check(token, denied)) == "SCOPE_MISSING"


async def test_a_role_that_claims_gave_they_take_back(site_on_each: TenantSite, provider: OidcProvider) -> None:
    settings = {"roles_claim": "groups", "roles": ROLES, "default_role": user_pb2.ROLE_UNSPECIFIED}
    await trust(site_on_each, provider, **settings)
    identity_in(await site_on_each.check(provider.token(groups=["chiefs"])))
    assert refusal_reason(await site_on_each.check(provider.token(groups=[]))) == "SCOPE_MISSING"
    assert refusal_reason(await site_on_each.check(provider.token(sub="bob"))) == "SCOPE_MISSING"
    assert len(await users(site_on_each)) == 1, "who has no role is not made a user"


async def test_a_role_that_an_administrator_gave_counts_where_claims_say_none(
    site_on_each: TenantSite, provider: OidcProvider
) -> None:
    await trust(site_on_each, provider, default_role=user_pb2.ROLE_UNSPECIFIED)
    user = user_pb2.User(issuer=provider.issuer, subject="ana", role=user_pb2.ROLE_ADMIN)
    request = user_pb2.CreateUserRequest(parent="tenants/acme", user=user)
    name = (await site_on_each.call(f"{USERS}CreateUser", request)).user.name
    claims = claims_in(await site_on_each.check(provider.token(), f"{API_KEYS}CreateApiKey"))
    assert claims["sub"] == name
    changed = user_pb2.User(name=name, role=user_pb2.ROLE_VIEWER)
    await site_on_each.call(f"{USERS}UpdateUser", user_pb2.UpdateUserRequest(user=changed))
    assert refusal_reason(await site_on_each.check(provider.token(), SEND)) == "SCOPE_MISSING"


async def test_a_disabled_user_is_refused_at_once(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider)
    token = provider.token()
    identity_in(await site_on_each.check(token))
    (user,) = await users(site_on_each)
    changed = user_pb2.User(name=user.name, state=user_pb2.User.STATE_DISABLED)
    await site_on_each.call(f"{USERS}UpdateUser", user_pb2.UpdateUserRequest(user=changed))
    response = await site_on_each.check(token)
    assert refusal_reason(response) == "CREDENTIAL_REVOKED"
    assert "administrator" in response.denied_response.body


async def test_users_of_a_disabled_tenant_are_refused(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider)
    token = provider.token()
    identity_in(await site_on_each.check(token))
    await site_on_each.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    assert refusal_reason(await site_on_each.check(token)) == "TENANT_DISABLED"


async def test_a_claim_says_the_tenant(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider, tenant="", tenant_claim="org")
    assert claims_in(await site_on_each.check(provider.token(org="globex")))["tenant"] == "globex"
    assert claims_in(await site_on_each.check(provider.token(org="acme")))["tenant"] == "acme"
    for org in ("nobody", "../acme", "", None, ["acme"], 7):
        assert refusal_reason(await site_on_each.check(provider.token(org=org))) == "CREDENTIAL_INVALID"


async def test_one_person_is_another_principal_in_each_tenant(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider, tenant="", tenant_claim="org")
    names = {claims_in(await site_on_each.check(provider.token(org=org)))["sub"] for org in ("acme", "globex")}
    assert len({name.rpartition("/")[2] for name in names}) == 2


async def test_a_claim_makes_an_operator(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider, tenant="", tenant_claim="org", roles_claim="groups", operator_role="operators")
    token = provider.token(groups=["operators"])
    claims = claims_in(await site_on_each.check(token, f"{TENANTS}ListTenants"))
    assert claims["sub"] == f"platform/users/{user_id(provider.issuer, 'ana', '')}"
    assert (claims["tenant"], claims["scopes"]) == ("", ["platform.admin"])
    assert refusal_reason(await site_on_each.check(token, SEND)) == "SCOPE_MISSING"


async def test_tokens_of_a_deleted_provider_are_refused(site_on_each: TenantSite, provider: OidcProvider) -> None:
    name = await trust(site_on_each, provider)
    token = provider.token()
    identity_in(await site_on_each.check(token))
    request = user_pb2.DeleteIdentityProviderRequest(name=name)
    await site_on_each.call(f"{USERS}DeleteIdentityProvider", request)
    assert refusal_reason(await site_on_each.check(token)) == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(
    "bent",
    [
        {"aud": "someone else"},
        {"aud": None},
        {"aud": ["redoma", "other"]},
        {"aud": ["redoma", "other"], "azp": "other"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
        {"exp": None},
        {"exp": "tomorrow"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"kid": "made-up"},
        {"key": new_private_key("ES256")},
        {"key": new_private_key("RS256"), "alg": "RS256"},
        {"key": "s" * 64, "alg": "HS256"},
        {"key": "", "alg": "none"},
    ],
    ids=str,
)
async def test_tokens_that_do_not_hold_are_refused(
    site_on_each: TenantSite, provider: OidcProvider, bent: dict[str, Any]
) -> None:
    await trust(site_on_each, provider)
    assert refusal_reason(await site_on_each.check(provider.token(**bent))) == "CREDENTIAL_INVALID"
    assert await users(site_on_each) == []
    identity_in(await site_on_each.check(provider.token()))


async def test_a_public_key_is_no_shared_secret(site_on_each: TenantSite, provider: OidcProvider) -> None:
    """Who signs with HS256 under the public key that everyone can fetch must not pass for the provider."""
    await trust(site_on_each, provider)
    key_id, key = list(provider.keys.items())[-1]
    secret = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": provider.issuer, "aud": "redoma", "sub": "ana", "exp": int(provider.now()) + 60}
    signed = b".".join(encoded(part) for part in ({"alg": "HS256", "kid": key_id}, claims))
    forged = b".".join((signed, base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"="))).decode()
    assert refusal_reason(await site_on_each.check(forged)) == "CREDENTIAL_INVALID"


async def test_several_audiences_need_that_the_token_was_made_for_ours(
    site_on_each: TenantSite, provider: OidcProvider
) -> None:
    await trust(site_on_each, provider)
    identity_in(await site_on_each.check(provider.token(aud=["other", "redoma"], azp="redoma")))


async def test_of_several_trusted_audiences_the_one_that_the_token_was_made_for_counts(
    site_on_each: TenantSite, provider: OidcProvider
) -> None:
    for audience, tenant in (("redoma", "acme"), ("other", "globex")):
        provider.audience = audience
        await trust(site_on_each, provider, tenant=f"tenants/{tenant}")
    for party, tenant in (("redoma", "acme"), ("other", "globex")):
        response = await site_on_each.check(provider.token(aud=["other", "redoma"], azp=party))
        assert claims_in(response)["tenant"] == tenant


async def test_a_token_expires_even_while_it_is_cached(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider)
    token = provider.token()
    identity_in(await site_on_each.check(token))
    # It lasts 3,600 s, and a minute of leeway; the machine may take its time between two lines of this.
    site_on_each.clock.ahead = timedelta(seconds=3630)
    identity_in(await site_on_each.check(token))
    site_on_each.clock.ahead = timedelta(seconds=3690)
    response = await site_on_each.check(token)
    assert refusal_reason(response) == "CREDENTIAL_EXPIRED"
    assert "sign in again" in response.denied_response.body


async def test_keys_are_rotated_without_anyone_being_refused(site_on_each: TenantSite, provider: OidcProvider) -> None:
    await trust(site_on_each, provider)
    former = provider.token()
    identity_in(await site_on_each.check(former))
    provider.rotate(keep=True)
    identity_in(await site_on_each.check(provider.token()))
    identity_in(await site_on_each.check(former))


async def test_a_provider_that_is_away_is_no_reason_to_sign_in_again(
    site_on_each: TenantSite, provider: OidcProvider
) -> None:
    await trust(site_on_each, provider)
    token = provider.token()
    await provider.stop()
    response = await site_on_each.check(token)
    assert refusal_reason(response) == "IDENTITY_PROVIDER_UNAVAILABLE"
    assert response.denied_response.status.code == 503
    denied = (await site_on_each.check(token, "/ask", headers={"content-type": "application/json"})).denied_response
    assert {option.header.key: option.header.value for option in denied.headers}["retry-after"] == "5"
    await provider.start()
    identity_in(await site_on_each.check(token))


async def test_no_token_in_logs_errors_or_the_database(
    site_on_each: TenantSite, provider: OidcProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    await trust(site_on_each, provider)
    bodies, tokens = [], [provider.token(), provider.token(aud="other"), provider.token(kid="made-up")]
    await provider.stop()
    tokens.append(provider.token(sub="late", kid="unknown"))
    for token in tokens:
        for path in (SEND, f"{TENANTS}ListTenants"):
            response = await site_on_each.check(token, path)
            if not response.HasField("ok_response"):
                bodies.append(str(response))
    await site_on_each.server.audit.denials.stop()
    captured = capfd.readouterr()
    written = "\n".join((site_on_each.log_text.getvalue(), captured.out, captured.err, *bodies))
    assert "refused" in written
    files = b"".join(file.read_bytes() for file in site_on_each.folder.rglob("*") if file.is_file())
    for token in tokens:
        _, claims, signature = token.split(".")
        for text in (claims, signature, digest_of(token)):
            assert text not in written
            assert text.encode() not in files
