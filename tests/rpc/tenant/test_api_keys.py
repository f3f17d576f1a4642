"""ApiKeyService: what operators and a tenant's administrators do with keys."""

import re
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import api_key_pb2
from redoma.tenant.v1.api_key_pb2 import ApiKey
from redoma.tenant.v1.quota_pb2 import Limits
from redoma_kit.pages import page_token
from tests.rpc.tenant.tenant_site import API_KEYS, TenantSite, failure_of_call

CREATE, LIST, REVOKE = f"{API_KEYS}CreateApiKey", f"{API_KEYS}ListApiKeys", f"{API_KEYS}RevokeApiKey"


@pytest.fixture
def site(site_on_each: TenantSite) -> TenantSite:
    """A running service, on SQLite and on PostgreSQL."""
    return site_on_each


@pytest.fixture(autouse=True)
async def acme(site: TenantSite) -> None:
    """The tenant that the tests name."""
    await site.add_tenant("acme")


async def test_the_secret_is_shown_once_and_the_prefix_always(site: TenantSite) -> None:
    created = await site.add_key(display_name="ci")
    assert re.fullmatch(r"rdm_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", created.secret)
    assert created.api_key.prefix == created.secret[:12]
    assert created.api_key.scopes == ["generate", "conversations"]
    assert created.api_key.state == ApiKey.STATE_ACTIVE
    assert created.api_key.name.startswith("tenants/acme/apiKeys/")
    listed = await site.list_keys()
    assert listed == [created.api_key]
    assert created.secret[13:] not in str(listed)


async def test_output_only_fields_are_ignored(site: TenantSite) -> None:
    time = Timestamp(seconds=1)
    created = await site.add_key(
        name="tenants/globex/apiKeys/0",
        prefix="rdm_mine",
        state=ApiKey.STATE_REVOKED,
        revoke_time=time,
        create_time=time,
    )
    assert created.api_key.prefix == created.secret[:12]
    assert created.api_key.state == ApiKey.STATE_ACTIVE
    assert not created.api_key.HasField("revoke_time")


async def test_a_tenants_admin_manages_its_own_keys(site: TenantSite) -> None:
    created = await site.tenant_admin(CREATE, api_key_pb2.CreateApiKeyRequest(parent="tenants/-"))
    assert created.api_key.name.startswith("tenants/acme/")
    by_name = await site.tenant_admin(CREATE, api_key_pb2.CreateApiKeyRequest(parent="tenants/acme"))
    listed = await site.tenant_admin(LIST, api_key_pb2.ListApiKeysRequest(parent="tenants/-"))
    assert {key.name for key in listed.api_keys} == {created.api_key.name, by_name.api_key.name}
    revoked = await site.tenant_admin(REVOKE, api_key_pb2.RevokeApiKeyRequest(name=created.api_key.name))
    assert revoked.api_key.state == ApiKey.STATE_REVOKED


async def test_an_operator_has_no_tenant_of_its_own(site: TenantSite) -> None:
    failure = await failure_of_call(site.call(LIST, api_key_pb2.ListApiKeysRequest(parent="tenants/-")))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": "parent"})


async def test_keys_of_a_missing_tenant_are_not_found(site: TenantSite) -> None:
    for call in (
        site.add_key("nobody"),
        site.list_keys("nobody"),
        site.call(REVOKE, api_key_pb2.RevokeApiKeyRequest(name="tenants/nobody/apiKeys/0123456789abcdef")),
    ):
        assert (await failure_of_call(call)).reason == "RESOURCE_NOT_FOUND"


@pytest.mark.parametrize("seconds", [-1, 0])
async def test_an_expiry_must_lie_in_the_future(site: TenantSite, seconds: int) -> None:
    time = Timestamp()
    time.FromDatetime(site.clock() + timedelta(seconds=seconds))
    assert (await failure_of_call(site.add_key(expire_time=time))).metadata == {"field": "api_key.expire_time"}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"scopes": ["platform.admin"]}, "api_key.scopes"),
        ({"scopes": ["generate", ""]}, "api_key.scopes"),
        ({"scopes": ["GENERATE"]}, "api_key.scopes"),
        ({"display_name": "x" * 201}, "api_key.display_name"),
        ({"display_name": "a\tb"}, "api_key.display_name"),
        ({"scopes": ["tenant.owner", "platform.admin"]}, "api_key.scopes"),
        ({"models": ["m"] * 65}, "api_key.models"),
        ({"models": ["two words"]}, "api_key.models[0]"),
        ({"cidrs": ["203.0.113.0/24"] * 65}, "api_key.cidrs"),
        ({"cidrs": ["203.0.113.0/24", "nonsense"]}, "api_key.cidrs[1]"),
        ({"cidrs": [""]}, "api_key.cidrs[0]"),
        ({"cidrs": ["203.0.113.7/24"]}, "api_key.cidrs[0]"),
        ({"cidrs": ["203.0.113.0/33"]}, "api_key.cidrs[0]"),
        ({"cidrs": ["fe80::1%eth0"]}, "api_key.cidrs[0]"),
        ({"limits": Limits(tokens_per_day=-1)}, "api_key.limits.tokens_per_day"),
        ({"user": "ana"}, "api_key.user"),
        ({"user": f"tenants/globex/users/{'0' * 32}"}, "api_key.user"),
        ({"user": f"tenants/acme/users/{'0' * 32}"}, "api_key.user"),
        ({"expire_time": Timestamp(seconds=10**15)}, "api_key.expire_time"),
        ({"expire_time": Timestamp(seconds=4_000_000_000, nanos=-5)}, "api_key.expire_time"),
    ],
)
async def test_settings_out_of_range_are_refused(site: TenantSite, settings: dict[str, Any], field: str) -> None:
    failure = await failure_of_call(site.add_key(**settings))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": field})
    assert await site.list_keys() == []


async def test_repeated_scopes_are_kept_once(site: TenantSite) -> None:
    created = await site.add_key(scopes=["tenant.admin", "generate", "tenant.admin"])
    assert created.api_key.scopes == ["tenant.admin", "generate"]


@pytest.mark.parametrize("parent", ["", "acme", "tenants/", "tenants/A", "tenants/acme/", "tenants/acme/apiKeys"])
async def test_malformed_parents_are_refused(site: TenantSite, parent: str) -> None:
    for method, request in (
        (CREATE, api_key_pb2.CreateApiKeyRequest(parent=parent)),
        (LIST, api_key_pb2.ListApiKeysRequest(parent=parent)),
    ):
        assert (await failure_of_call(site.call(method, request))).metadata == {"field": "parent"}


@pytest.mark.parametrize(
    "name", ["", "tenants/acme", "tenants/acme/apiKeys/", "tenants/acme/apiKeys/../x", "tenants/-/apiKeys/" + "0" * 16]
)
async def test_malformed_key_names_are_refused(site: TenantSite, name: str) -> None:
    for method, request in (
        (REVOKE, api_key_pb2.RevokeApiKeyRequest(name=name)),
        (f"{API_KEYS}RotateApiKey", api_key_pb2.RotateApiKeyRequest(name=name)),
    ):
        assert (await failure_of_call(site.call(method, request))).metadata == {"field": "name"}
    call = site.call(f"{API_KEYS}UpdateApiKey", api_key_pb2.UpdateApiKeyRequest(api_key=ApiKey(name=name)))
    assert (await failure_of_call(call)).metadata == {"field": "api_key.name"}


async def test_revoking_twice_keeps_the_first_time(site: TenantSite) -> None:
    request = api_key_pb2.RevokeApiKeyRequest(name=(await site.add_key()).api_key.name)
    first = (await site.call(REVOKE, request)).api_key
    assert first.state == ApiKey.STATE_REVOKED
    assert first.HasField("revoke_time")
    site.clock.ahead = timedelta(seconds=5)
    assert (await site.call(REVOKE, request)).api_key == first


async def test_states_are_told(site: TenantSite) -> None:
    time = Timestamp()
    time.FromDatetime(site.clock() + timedelta(seconds=10))
    await site.add_key(expire_time=time)
    site.clock.ahead = timedelta(seconds=11)
    assert (await site.list_keys())[0].state == ApiKey.STATE_EXPIRED


async def test_pages_give_every_key_once_the_newest_first(site: TenantSite) -> None:
    names = []
    for second in range(5):
        site.clock.ahead = timedelta(seconds=second)
        names.append((await site.add_key()).api_key.name)
    for size in (1, 2, 5):
        listed, token, pages = [], "", 0
        while pages == 0 or token:
            request = api_key_pb2.ListApiKeysRequest(parent="tenants/acme", page_size=size, page_token=token)
            response = await site.call(LIST, request)
            listed += [key.name for key in response.api_keys]
            token, pages = response.next_page_token, pages + 1
        assert listed == names[::-1]
        assert pages == -(-5 // size)


async def test_keys_made_in_the_same_instant_are_paged_too(site: TenantSite, monkeypatch: pytest.MonkeyPatch) -> None:
    instant = site.clock()
    monkeypatch.setattr(type(site.clock), "__call__", lambda _clock: instant)
    names = {(await site.add_key()).api_key.name for _ in range(4)}
    listed: list[str] = []
    token = ""
    while not listed or token:
        request = api_key_pb2.ListApiKeysRequest(parent="tenants/acme", page_size=1, page_token=token)
        response = await site.call(LIST, request)
        listed += [key.name for key in response.api_keys]
        token = response.next_page_token
    assert len(listed) == 4
    assert set(listed) == names


async def test_page_tokens_of_another_list_are_refused(site: TenantSite) -> None:
    await site.add_tenant("globex")
    for _ in range(2):
        await site.add_key("globex")
    request = api_key_pb2.ListApiKeysRequest(parent="tenants/globex", page_size=1)
    token = (await site.call(LIST, request)).next_page_token
    assert token
    for bad in (
        token,
        "garbage",
        page_token(("tenants/acme/apiKeys/",), (2**62, "0123456789abcdef")),
        page_token(("tenants/acme/apiKeys/",), ("1", "0123456789abcdef")),
        page_token(("tenants/acme/apiKeys/",), ()),
    ):
        call = site.call(LIST, api_key_pb2.ListApiKeysRequest(parent="tenants/acme", page_token=bad))
        assert (await failure_of_call(call)).metadata == {"field": "page_token"}
