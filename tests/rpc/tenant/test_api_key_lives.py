"""ApiKeyService: what becomes of keys after they were made, and who may see to it; operators' keys."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import api_key_pb2, user_pb2
from redoma.tenant.v1.api_key_pb2 import ApiKey
from redoma.tenant.v1.quota_pb2 import Limits
from tests.rpc.tenant.changes import changes_of
from tests.rpc.tenant.every_method import Person
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    USERS,
    TenantSite,
    claims_in,
    failure_of_call,
    failure_or_none,
    refusal_reason,
)

CREATE, LIST, UPDATE, ROTATE, REVOKE = (
    f"{API_KEYS}{name}ApiKey{'s' if name == 'List' else ''}"
    for name in ("Create", "List", "Update", "Rotate", "Revoke")
)
ADMIN: dict[str, Any] = {"tenant": "acme", "scopes": ("tenant.admin",)}
OWNER: dict[str, Any] = {"tenant": "acme", "scopes": ("tenant.admin", "tenant.owner")}
DAY = timedelta(days=1)


@pytest.fixture
async def acme(site: TenantSite) -> TenantSite:
    """A service with a tenant."""
    await site.add_tenant("acme")
    return site


@pytest.fixture
async def acme_on_each(site_on_each: TenantSite) -> TenantSite:
    """The same on SQLite and on PostgreSQL."""
    await site_on_each.add_tenant("acme")
    return site_on_each


async def create(
    site: TenantSite, parent: str = "tenants/acme", caller: dict[str, Any] | None = None, **values: Any
) -> api_key_pb2.CreateApiKeyResponse:
    """Makes a key, by default as an operator."""
    request = api_key_pb2.CreateApiKeyRequest(parent=parent, api_key=ApiKey(**values))
    response: api_key_pb2.CreateApiKeyResponse = await site.call(CREATE, request, **(caller or {}))
    return response


async def create_operators(site: TenantSite, **values: Any) -> ApiKey:
    """Makes an operator's key."""
    return (await create(site, "platform", **values)).api_key


async def update(
    site: TenantSite, name: str, *paths: str, caller: dict[str, Any] | None = None, **values: Any
) -> ApiKey:
    """Updates a key, by default as an operator."""
    request = api_key_pb2.UpdateApiKeyRequest(api_key=ApiKey(name=name, **values))
    request.update_mask.paths.extend(paths)
    api_key: ApiKey = (await site.call(UPDATE, request, **(caller or {}))).api_key
    return api_key


async def rotate(
    site: TenantSite, name: str, caller: dict[str, Any] | None = None, **values: Any
) -> api_key_pb2.RotateApiKeyResponse:
    """Rotates a key, by default as an operator."""
    request = api_key_pb2.RotateApiKeyRequest(name=name, **values)
    response: api_key_pb2.RotateApiKeyResponse = await site.call(ROTATE, request, **(caller or {}))
    return response


async def revoke(site: TenantSite, name: str, **caller: Any) -> ApiKey:
    """Revokes a key."""
    api_key: ApiKey = (await site.call(REVOKE, api_key_pb2.RevokeApiKeyRequest(name=name), **caller)).api_key
    return api_key


async def list_keys(site: TenantSite, parent: str = "tenants/acme") -> list[ApiKey]:
    """Lists keys."""
    return list((await site.call(LIST, api_key_pb2.ListApiKeysRequest(parent=parent))).api_keys)


async def add_user(site: TenantSite) -> str:
    """Adds a user of acme and gives his name."""
    user = user_pb2.User(issuer="https://login.example.com", subject="ana", role=user_pb2.ROLE_MEMBER)
    request = user_pb2.CreateUserRequest(parent="tenants/acme", user=user)
    name: str = (await site.call(f"{USERS}CreateUser", request)).user.name
    return name


def at(site: TenantSite, ahead: timedelta) -> Timestamp:
    """Gives a time from now, to the second."""
    time = Timestamp()
    time.FromDatetime((site.clock() + ahead).replace(microsecond=0))
    return time


async def test_every_setting_is_kept(acme_on_each: TenantSite) -> None:
    settings: dict[str, Any] = {
        "display_name": "ci",
        "scopes": ["generate"],
        "expire_time": at(acme_on_each, DAY),
        "models": ["qwen"],
        "cidrs": ["203.0.113.0/24", "2001:db8::/32"],
        "limits": Limits(tokens_per_day=0, requests_per_minute=5),
        "user": await add_user(acme_on_each),
    }
    created = (await create(acme_on_each, **settings)).api_key
    for name, value in settings.items():
        assert getattr(created, name) == value, name
    assert created.etag == "1"
    assert await list_keys(acme_on_each) == [created]
    cleared = await update(acme_on_each, created.name, "*")
    assert not cleared.HasField("expire_time")
    assert not cleared.HasField("limits")
    assert (cleared.display_name, list(cleared.models), list(cleared.cidrs), cleared.user) == ("", [], [], "")
    assert list(cleared.scopes) == ["generate"]
    assert await list_keys(acme_on_each) == [cleared]


async def test_networks_are_kept_in_their_usual_form(acme: TenantSite) -> None:
    written = ["203.0.113.7", "203.0.113.7/32", "10.0.0.0/255.0.0.0", "2001:DB8:0::/32", "::ffff:203.0.113.0/120"]
    created = await create(acme, cidrs=written)
    assert list(created.api_key.cidrs) == ["203.0.113.7/32", "10.0.0.0/8", "2001:db8::/32", "203.0.113.0/24"]


async def test_an_update_changes_what_the_mask_names(acme: TenantSite) -> None:
    created = (await create(acme, display_name="old", models=["a"])).api_key
    changed = await update(acme, created.name, "models", models=["b"], display_name="x", scopes=["tenant.owner"])
    assert (list(changed.models), changed.display_name, changed.scopes) == (["b"], "old", created.scopes)
    assert await update(acme, created.name) == changed
    for path in ("scopes", "state", "name", "prefix", "revoke_time", "limits.tokens_per_day", ""):
        failure = await failure_of_call(update(acme, created.name, path))
        assert failure.metadata == {"field": "update_mask"}


async def test_an_expired_key_works_again_with_a_later_expiry_and_a_revoked_one_never(acme: TenantSite) -> None:
    name = (await create(acme, expire_time=at(acme, timedelta(seconds=20)))).api_key.name
    acme.clock.ahead = timedelta(seconds=30)
    assert (await list_keys(acme))[0].state == ApiKey.STATE_EXPIRED
    failure = await failure_of_call(update(acme, name, expire_time=at(acme, -DAY)))
    assert failure.metadata == {"field": "api_key.expire_time"}
    assert (await update(acme, name, expire_time=at(acme, DAY))).state == ApiKey.STATE_ACTIVE
    await revoke(acme, name)
    for call in (update(acme, name, display_name="x"), rotate(acme, name)):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("STATE_CONFLICT", {"state": "STATE_REVOKED"})


async def test_an_etag_of_another_version_is_refused(acme_on_each: TenantSite) -> None:
    created = (await create(acme_on_each)).api_key
    calls = [update(acme_on_each, created.name, models=[str(number)], etag=created.etag) for number in range(6)]
    done = await asyncio.gather(*(failure_or_none(call) for call in calls))
    assert sorted(failure.reason if failure else "" for failure in done) == ["", *["ETAG_MISMATCH"] * 5]
    (kept,) = await list_keys(acme_on_each)
    failure = await failure_of_call(update(acme_on_each, created.name, etag=created.etag))
    assert failure.metadata == {"etag": kept.etag}


async def test_a_revocation_is_not_undone_by_a_writer_who_read_before_it(acme_on_each: TenantSite) -> None:
    name = (await create(acme_on_each)).api_key.name
    writers = [update(acme_on_each, name, models=[str(number)]) for number in range(5)]
    await asyncio.gather(revoke(acme_on_each, name), *(failure_or_none(writer) for writer in writers))
    assert (await list_keys(acme_on_each))[0].state == ApiKey.STATE_REVOKED


async def test_a_rotated_key_works_on_until_its_overlap_ends(acme_on_each: TenantSite) -> None:
    settings: dict[str, Any] = {
        "display_name": "ci",
        "scopes": ["generate"],
        "models": ["qwen"],
        "cidrs": ["203.0.113.0/24"],
        "limits": Limits(tokens_per_day=7),
        "user": await add_user(acme_on_each),
    }
    made = await create(acme_on_each, **settings)
    rotated = await rotate(acme_on_each, made.api_key.name, overlap=Duration(seconds=60))
    for name, value in settings.items():
        assert getattr(rotated.api_key, name) == value, name
    assert rotated.secret != made.secret
    assert rotated.secret.startswith(rotated.api_key.prefix)
    assert rotated.former.name == made.api_key.name
    assert rotated.former.replaced_by == rotated.api_key.name
    assert rotated.former.state == ApiKey.STATE_ACTIVE
    ends = rotated.former.expire_time.ToDatetime() - rotated.api_key.create_time.ToDatetime()
    assert ends == timedelta(seconds=60)
    assert not rotated.api_key.HasField("expire_time")
    acme_on_each.clock.ahead = timedelta(seconds=61)
    new, former = await list_keys(acme_on_each)
    assert (new.name, new.state) == (rotated.api_key.name, ApiKey.STATE_ACTIVE)
    assert (former.name, former.state) == (made.api_key.name, ApiKey.STATE_EXPIRED)


async def test_the_overlap_is_a_day_unless_told_and_prolongs_no_life(acme: TenantSite) -> None:
    for seconds in (-1, 30 * 86_400 + 1):
        call = rotate(acme, (await create(acme)).api_key.name, overlap=Duration(seconds=seconds))
        assert (await failure_of_call(call)).metadata == {"field": "overlap"}
    rotated = await rotate(acme, (await create(acme)).api_key.name)
    assert rotated.former.expire_time.ToDatetime() - rotated.api_key.create_time.ToDatetime() == DAY
    short = (await create(acme, expire_time=at(acme, timedelta(hours=1)))).api_key
    rotated = await rotate(acme, short.name)
    assert rotated.former.expire_time == short.expire_time
    life = rotated.api_key.expire_time.ToDatetime() - rotated.api_key.create_time.ToDatetime()
    assert life == short.expire_time.ToDatetime() - short.create_time.ToDatetime()


async def test_without_an_overlap_the_former_key_is_revoked(acme_on_each: TenantSite) -> None:
    name = (await create(acme_on_each)).api_key.name
    rotated = await rotate(acme_on_each, name, overlap=Duration())
    assert rotated.former.state == ApiKey.STATE_REVOKED
    assert rotated.former.HasField("revoke_time")
    assert await changes_of(acme_on_each) == [("acme", name, "CREDENTIAL_REVOKED")]


async def test_a_key_is_rotated_once_also_by_many_at_a_time(acme_on_each: TenantSite) -> None:
    name = (await create(acme_on_each)).api_key.name
    done = await asyncio.gather(*(failure_or_none(rotate(acme_on_each, name)) for _ in range(5)))
    assert sorted(failure.reason if failure else "" for failure in done) == ["", *["STATE_CONFLICT"] * 4]
    assert len(await list_keys(acme_on_each)) == 2


async def test_every_change_of_a_key_is_noted_with_what_ends_its_calls(acme_on_each: TenantSite) -> None:
    name = (await create(acme_on_each)).api_key.name
    await update(acme_on_each, name, models=["m"])
    await update(acme_on_each, name, models=["m"])
    successor = (await rotate(acme_on_each, name)).api_key.name
    await revoke(acme_on_each, successor)
    await revoke(acme_on_each, successor)
    expected = [("acme", name, ""), ("acme", name, ""), ("acme", successor, "CREDENTIAL_REVOKED")]
    assert await changes_of(acme_on_each) == expected


async def test_nobody_gives_a_scope_that_he_has_not(acme: TenantSite) -> None:
    owners = (await create(acme, caller=OWNER, scopes=["tenant.owner"])).api_key
    for call in (
        create(acme, caller=ADMIN, scopes=["generate", "tenant.owner"]),
        rotate(acme, owners.name, caller=ADMIN),
        update(acme, owners.name, display_name="x", caller=ADMIN),
    ):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("SCOPE_MISSING", {"scope": "tenant.owner"})
    assert (await list_keys(acme)) == [owners]
    scopes = ["generate", "conversations", "tenant.read", "tenant.admin"]
    assert (await create(acme, caller=ADMIN, scopes=scopes)).api_key.scopes == scopes
    assert (await rotate(acme, owners.name, caller=OWNER)).api_key.scopes == ["tenant.owner"]
    assert (await revoke(acme, owners.name, **ADMIN)).state == ApiKey.STATE_REVOKED


async def test_readers_see_no_keys(acme: TenantSite) -> None:
    call = acme.call(
        LIST, api_key_pb2.ListApiKeysRequest(parent="tenants/acme"), tenant="acme", scopes=("tenant.read",)
    )
    assert (await failure_of_call(call)).reason == "SCOPE_MISSING"


async def test_operators_keys_administer_the_platform_and_nothing_else(acme_on_each: TenantSite) -> None:
    created = await create(acme_on_each, "platform", display_name="ops", cidrs=["203.0.113.0/24"])
    assert created.api_key.name.startswith("platform/apiKeys/")
    assert created.api_key.scopes == ["platform.admin"]
    assert await list_keys(acme_on_each, "platform") == [created.api_key]
    assert await list_keys(acme_on_each) == []
    for values, field in (
        ({"scopes": ["generate"]}, "scopes"),
        ({"scopes": ["platform.admin", "tenant.owner"]}, "scopes"),
        ({"models": ["m"]}, "models"),
        ({"limits": Limits(tokens_per_day=1)}, "limits"),
        ({"user": f"tenants/acme/users/{'0' * 32}"}, "user"),
    ):
        failure = await failure_of_call(create_operators(acme_on_each, **values))
        assert failure.metadata == {"field": f"api_key.{field}"}


async def test_operators_keys_are_for_operators_alone(acme: TenantSite) -> None:
    name = (await create_operators(acme)).name
    for call in (
        create(acme, "platform", OWNER),
        acme.call(LIST, api_key_pb2.ListApiKeysRequest(parent="platform"), **OWNER),
        update(acme, name, display_name="x", caller=OWNER),
        rotate(acme, name, OWNER),
        revoke(acme, name, **OWNER),
    ):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("SCOPE_MISSING", {"scope": "platform.admin"})


async def test_an_operators_key_is_not_found_under_a_tenants_name(acme_on_each: TenantSite) -> None:
    name = (await create_operators(acme_on_each)).name.replace("platform", "tenants/acme")
    for call in (
        revoke(acme_on_each, name, **OWNER),
        rotate(acme_on_each, name, OWNER),
        update(acme_on_each, name, display_name="x"),
    ):
        assert (await failure_of_call(call)).reason == "RESOURCE_NOT_FOUND"


async def test_operators_are_never_left_without_a_lasting_key(acme_on_each: TenantSite) -> None:
    site = acme_on_each
    assert (await failure_of_call(create_operators(site, expire_time=at(site, DAY)))).reason == "STATE_CONFLICT"
    assert await list_keys(site, "platform") == []
    first = await create_operators(site)
    passing = await create_operators(site, expire_time=at(site, DAY))
    for call in (revoke(site, first.name), update(site, first.name, expire_time=at(site, DAY))):
        assert (await failure_of_call(call)).reason == "STATE_CONFLICT"
    assert (await revoke(site, passing.name)).state == ApiKey.STATE_REVOKED
    rotated = await rotate(site, first.name, overlap=Duration())
    assert rotated.former.state == ApiKey.STATE_REVOKED
    assert (await failure_of_call(revoke(site, rotated.api_key.name))).reason == "STATE_CONFLICT"
    await create_operators(site)
    assert (await revoke(site, rotated.api_key.name)).state == ApiKey.STATE_REVOKED


async def test_operators_who_revoke_each_other_leave_one(acme_on_each: TenantSite) -> None:
    names = [(await create_operators(acme_on_each)).name for _ in range(4)]
    done = await asyncio.gather(*(failure_or_none(revoke(acme_on_each, name)) for name in names))
    assert sorted(failure.reason if failure else "" for failure in done) == ["", "", "", "STATE_CONFLICT"]


async def test_an_operators_key_whose_hash_lies_where_the_bootstrap_keys_did_still_works(site: TenantSite) -> None:
    made = await create(site, "platform")
    await site.stop()
    former, site.bootstrap_key = site.bootstrap_key, made.secret
    await site.start()
    assert claims_in(await site.check(made.secret, LIST))["sub"] == made.api_key.name
    assert refusal_reason(await site.check(former, LIST)) == "CREDENTIAL_INVALID"
    await create(site, "platform")
    await revoke(site, made.api_key.name)
    assert refusal_reason(await site.check(made.secret, LIST)) == "CREDENTIAL_REVOKED"


async def test_the_key_of_a_person_who_is_gone_can_still_be_rotated_changed_and_revoked(
    site_on_each: TenantSite,
) -> None:
    operator = Person(site_on_each)
    await site_on_each.add_tenant()
    user = {"issuer": "https://login.example.com", "subject": "ana", "role": "ROLE_MEMBER"}
    name = (await operator.made("CreateUser", parent="tenants/acme", user=user)).user.name
    key = (await site_on_each.add_key(user=name)).api_key.name
    await operator.made("DeleteUser", name=name)
    rotated = (await operator.made("RotateApiKey", name=key)).api_key.name
    changed = await operator.made("UpdateApiKey", api_key={"name": rotated, "display_name": "x"})
    assert changed.api_key.display_name == "x"
    revoked = await operator.made("RevokeApiKey", name=rotated)
    assert revoked.api_key.state == api_key_pb2.ApiKey.STATE_REVOKED
