"""UserService: what operators do with identity providers."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from redoma.tenant.v1 import user_pb2
from redoma.tenant.v1.user_pb2 import ROLE_ADMIN, ROLE_MEMBER, ROLE_UNSPECIFIED, IdentityProvider
from redoma_tenant.errors import IdentityProviderUnavailable
from tests.rpc.tenant.changes import changes_of
from tests.rpc.tenant.tenant_site import USERS, TenantSite, failure_of_call

ISSUER = "https://login.example.com"
CREATE, LIST, DELETE = (
    f"{USERS}CreateIdentityProvider",
    f"{USERS}ListIdentityProviders",
    f"{USERS}DeleteIdentityProvider",
)


@dataclass(slots=True)
class Directory:
    """Answers for every issuer but those that are away, and keeps which it was asked for."""

    away: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    async def check(self, issuer: str) -> None:
        """Raises IdentityProviderUnavailable for an issuer that is away."""
        self.asked.append(issuer)
        if issuer in self.away:
            raise IdentityProviderUnavailable(issuer)


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Directory:
    """The issuers that there are."""
    directory = Directory()
    monkeypatch.setattr(
        "redoma_tenant.oidc.directory.OidcDirectory.check", lambda _self, issuer: directory.check(issuer)
    )
    return directory


@pytest.fixture
async def acme(directory: Directory, site: TenantSite) -> TenantSite:
    """A service with a tenant."""
    await site.add_tenant("acme")
    return site


@pytest.fixture
async def acme_on_each(directory: Directory, site_on_each: TenantSite) -> TenantSite:
    """The same on SQLite and on PostgreSQL."""
    await site_on_each.add_tenant("acme")
    return site_on_each


async def add(site: TenantSite, **values: Any) -> IdentityProvider:
    """Creates a provider of acme's unless told otherwise."""
    provider = IdentityProvider(**({"issuer": ISSUER, "audience": "redoma", "tenant": "tenants/acme"} | values))
    response = await site.call(CREATE, user_pb2.CreateIdentityProviderRequest(identity_provider=provider))
    created: IdentityProvider = response.identity_provider
    return created


async def list_all(site: TenantSite) -> list[IdentityProvider]:
    """Lists the providers."""
    response = await site.call(LIST, user_pb2.ListIdentityProvidersRequest())
    return list(response.identity_providers)


async def test_a_provider_is_kept_as_created(acme_on_each: TenantSite, directory: Directory) -> None:
    created = await add(
        acme_on_each,
        tenant="",
        tenant_claim="org",
        roles_claim="realm_access.roles",
        roles={"chat users": ROLE_MEMBER, "admins": ROLE_ADMIN},
        default_role=ROLE_MEMBER,
        operator_role="platform",
    )
    assert created.name.startswith("identityProviders/")
    assert created.HasField("create_time")
    assert (created.issuer, created.audience, created.tenant_claim) == (ISSUER, "redoma", "org")
    assert dict(created.roles) == {"chat users": ROLE_MEMBER, "admins": ROLE_ADMIN}
    assert (created.default_role, created.operator_role) == (ROLE_MEMBER, "platform")
    assert await list_all(acme_on_each) == [created]
    assert directory.asked == [ISSUER]


async def test_an_issuer_serves_an_audience_once(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each)
    failure = await failure_of_call(add(acme_on_each))
    assert (failure.reason, failure.metadata) == ("RESOURCE_EXISTS", {"resource": created.name})
    await add(acme_on_each, audience="other")
    assert len(await list_all(acme_on_each)) == 2


async def test_a_tenant_that_is_missing_is_not_a_provider_that_exists(acme_on_each: TenantSite) -> None:
    failure = await failure_of_call(add(acme_on_each, tenant="tenants/nobody"))
    assert failure.metadata == {"field": "identity_provider.tenant"}


async def test_an_issuer_that_does_not_answer_is_not_kept(acme: TenantSite, directory: Directory) -> None:
    directory.away.add(ISSUER)
    failure = await failure_of_call(add(acme))
    assert (failure.reason, failure.metadata) == ("IDENTITY_PROVIDER_UNAVAILABLE", {"issuer": ISSUER})
    assert await list_all(acme) == []


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"issuer": "http://login.example.com"}, "issuer"),
        ({"issuer": ""}, "issuer"),
        ({"audience": ""}, "audience"),
        ({"audience": "x" * 256}, "audience"),
        ({"tenant": "acme"}, "tenant"),
        ({"tenant": ""}, "tenant_claim"),
        ({"tenant_claim": "org"}, "tenant_claim"),
        ({"tenant": "", "tenant_claim": "x" * 101}, "tenant_claim"),
        ({"roles": {"admins": ROLE_ADMIN}}, "roles_claim"),
        ({"tenant": "", "tenant_claim": "org", "operator_role": "platform"}, "roles_claim"),
        ({"roles_claim": "r", "operator_role": "platform"}, "operator_role"),
        ({"roles_claim": "r", "roles": {"admins": ROLE_UNSPECIFIED}}, "roles[admins]"),
        ({"roles_claim": "r", "roles": {"admins": 9}}, "roles[admins]"),
        ({"roles_claim": "r", "roles": {"": ROLE_ADMIN}}, "roles"),
        ({"roles_claim": "r", "roles": {str(number): ROLE_ADMIN for number in range(65)}}, "roles"),
        ({"roles_claim": "r\n"}, "roles_claim"),
        ({"default_role": 9}, "default_role"),
    ],
)
async def test_values_out_of_range_are_refused_before_anyone_is_asked(
    acme: TenantSite, directory: Directory, values: dict[str, Any], field: str
) -> None:
    failure = await failure_of_call(add(acme, **values))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": f"identity_provider.{field}"})
    assert directory.asked == []


async def test_a_deleted_provider_is_gone_and_that_is_noted_for_everyone(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each)
    request = user_pb2.DeleteIdentityProviderRequest(name=created.name)
    await acme_on_each.call(DELETE, request)
    assert await list_all(acme_on_each) == []
    assert await changes_of(acme_on_each) == [("", "", ""), ("", "", "")]
    assert (await failure_of_call(acme_on_each.call(DELETE, request))).metadata == {"resource": created.name}


@pytest.mark.parametrize("name", ["", "identityProviders/", "identityProviders/x", "providers/0123456789abcdef"])
async def test_malformed_names_are_refused(acme: TenantSite, name: str) -> None:
    call = acme.call(DELETE, user_pb2.DeleteIdentityProviderRequest(name=name))
    assert (await failure_of_call(call)).metadata == {"field": "name"}


async def test_providers_are_for_operators_alone(acme: TenantSite) -> None:
    for method, request in (
        (CREATE, user_pb2.CreateIdentityProviderRequest()),
        (LIST, user_pb2.ListIdentityProvidersRequest()),
        (DELETE, user_pb2.DeleteIdentityProviderRequest()),
    ):
        call = acme.call(method, request, tenant="acme", scopes=("tenant.admin", "tenant.owner"))
        assert (await failure_of_call(call)).reason == "SCOPE_MISSING"


async def test_pages_give_every_provider_once_in_order(acme: TenantSite) -> None:
    names = sorted([(await add(acme, audience=f"audience {number}")).name for number in range(5)])
    listed: list[str] = []
    token = ""
    while not listed or token:
        response = await acme.call(LIST, user_pb2.ListIdentityProvidersRequest(page_size=2, page_token=token))
        listed += [provider.name for provider in response.identity_providers]
        token = response.next_page_token
    assert listed == names
