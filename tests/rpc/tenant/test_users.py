"""UserService: what administrators and owners do with the people of their tenant."""

import asyncio
import re
from typing import Any

import pytest

from redoma.tenant.v1 import tenant_pb2, user_pb2
from redoma.tenant.v1.user_pb2 import ROLE_ADMIN, ROLE_MEMBER, ROLE_OWNER, ROLE_UNSPECIFIED, ROLE_VIEWER, User
from tests.rpc.tenant.changes import changes_of
from tests.rpc.tenant.tenant_site import TENANTS, USERS, TenantSite, failure_of_call, failure_or_none

ISSUER = "https://login.example.com"
OWNER: dict[str, Any] = {"tenant": "acme", "scopes": ("tenant.admin", "tenant.owner")}
ADMIN: dict[str, Any] = {"tenant": "acme", "scopes": ("tenant.admin",)}
READER: dict[str, Any] = {"tenant": "acme", "scopes": ("tenant.read",)}


@pytest.fixture
async def acme(site: TenantSite) -> TenantSite:
    """A service with two tenants."""
    await site.add_tenant("acme")
    await site.add_tenant("globex")
    return site


@pytest.fixture
async def acme_on_each(site_on_each: TenantSite) -> TenantSite:
    """The same on SQLite and on PostgreSQL."""
    await site_on_each.add_tenant("acme")
    await site_on_each.add_tenant("globex")
    return site_on_each


async def add(site: TenantSite, subject: str = "ana", caller: dict[str, Any] | None = None, **values: Any) -> User:
    """Creates a user of acme, a member unless told otherwise, by default as an operator."""
    given: dict[str, Any] = {"issuer": ISSUER, "subject": subject, "role": ROLE_MEMBER} | values
    user = User(**given)
    request = user_pb2.CreateUserRequest(parent="tenants/acme", user=user)
    response: user_pb2.CreateUserResponse = await site.call(f"{USERS}CreateUser", request, **(caller or {}))
    return response.user


async def update(site: TenantSite, name: str, *paths: str, caller: dict[str, Any] | None = None, **values: Any) -> User:
    """Updates a user, by default as an operator."""
    request = user_pb2.UpdateUserRequest(user=User(name=name, **values))
    request.update_mask.paths.extend(paths)
    response: user_pb2.UpdateUserResponse = await site.call(f"{USERS}UpdateUser", request, **(caller or {}))
    return response.user


async def get(site: TenantSite, name: str, **caller: Any) -> User:
    """Gets a user."""
    response = await site.call(f"{USERS}GetUser", user_pb2.GetUserRequest(name=name), **caller)
    user: User = response.user
    return user


async def delete(site: TenantSite, name: str, etag: str = "", **caller: Any) -> None:
    """Deletes a user."""
    await site.call(f"{USERS}DeleteUser", user_pb2.DeleteUserRequest(name=name, etag=etag), **caller)


async def list_users(site: TenantSite, tenant: str = "acme", **caller: Any) -> list[User]:
    """Lists a tenant's users."""
    response = await site.call(f"{USERS}ListUsers", user_pb2.ListUsersRequest(parent=f"tenants/{tenant}"), **caller)
    return list(response.users)


async def test_a_user_is_kept_under_a_name_that_says_nothing_of_him(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each, display_name="Ana 👩‍💻", etag="9", name="tenants/globex/users/me")
    assert re.fullmatch(r"tenants/acme/users/[0-9a-f]{32}", created.name)
    assert (created.issuer, created.subject, created.display_name) == (ISSUER, "ana", "Ana 👩‍💻")
    assert (created.role, created.state, created.etag) == (ROLE_MEMBER, User.STATE_ACTIVE, "1")
    assert created.create_time == created.update_time
    assert await get(acme_on_each, created.name) == created
    assert await list_users(acme_on_each) == [created]
    assert await list_users(acme_on_each, "globex") == []


async def test_who_he_is_to_his_issuer_is_used_once_a_tenant(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each)
    failure = await failure_of_call(add(acme_on_each))
    assert (failure.reason, failure.metadata) == ("RESOURCE_EXISTS", {"resource": created.name})
    await add(acme_on_each, issuer="https://other.example.com")
    elsewhere = user_pb2.CreateUserRequest(
        parent="tenants/globex", user=User(issuer=ISSUER, subject="ana", role=ROLE_MEMBER)
    )
    await acme_on_each.call(f"{USERS}CreateUser", elsewhere)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"role": ROLE_UNSPECIFIED}, "user.role"),
        ({"role": 9}, "user.role"),
        ({"state": 9}, "user.state"),
        ({"subject": ""}, "user.subject"),
        ({"subject": "x" * 256}, "user.subject"),
        ({"subject": "a\0b"}, "user.subject"),
        ({"issuer": ""}, "user.issuer"),
        ({"issuer": "login.example.com"}, "user.issuer"),
        ({"issuer": "http://login.example.com"}, "user.issuer"),
        ({"issuer": "https://login.example.com?x=1"}, "user.issuer"),
        ({"issuer": "https://me:pw@login.example.com"}, "user.issuer"),
        ({"issuer": "https://login.example.com:99999"}, "user.issuer"),
        ({"issuer": "https://login.example.com/" + "x" * 255}, "user.issuer"),
        ({"issuer": "https://[::1"}, "user.issuer"),
        ({"display_name": "a\nb"}, "user.display_name"),
    ],
)
async def test_values_out_of_range_are_refused(acme: TenantSite, values: dict[str, Any], field: str) -> None:
    failure = await failure_of_call(add(acme, **values))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": field})
    assert await list_users(acme) == []


@pytest.mark.parametrize("name", ["", "users/x", "tenants/acme/users/", "tenants/acme/users/ana", "tenants/-/users/x"])
async def test_malformed_names_are_refused(acme: TenantSite, name: str) -> None:
    assert (await failure_of_call(get(acme, name))).metadata == {"field": "name"}
    assert (await failure_of_call(delete(acme, name))).metadata == {"field": "name"}
    assert (await failure_of_call(update(acme, name))).metadata == {"field": "user.name"}


async def test_what_is_missing_is_not_found(acme_on_each: TenantSite) -> None:
    nobody = "tenants/acme/users/" + "0" * 32
    for call in (
        get(acme_on_each, nobody),
        delete(acme_on_each, nobody),
        update(acme_on_each, nobody, display_name="x"),
        list_users(acme_on_each, "nobody"),
    ):
        assert (await failure_of_call(call)).reason == "RESOURCE_NOT_FOUND"


async def test_a_user_is_not_found_under_another_tenants_name(acme_on_each: TenantSite) -> None:
    stolen = (await add(acme_on_each)).name.replace("acme", "globex")
    caller: dict[str, Any] = {"tenant": "globex", "scopes": ("tenant.admin", "tenant.owner")}
    for call in (
        get(acme_on_each, stolen, **caller),
        delete(acme_on_each, stolen, **caller),
        update(acme_on_each, stolen, display_name="x", caller=caller),
    ):
        assert (await failure_of_call(call)).reason == "RESOURCE_NOT_FOUND"
    assert len(await list_users(acme_on_each)) == 1


async def test_other_tenants_users_are_out_of_reach(acme: TenantSite) -> None:
    name = (await add(acme)).name
    caller: dict[str, Any] = {"tenant": "globex", "scopes": ("tenant.admin", "tenant.owner")}
    for call in (
        get(acme, name, **caller),
        delete(acme, name, **caller),
        update(acme, name, display_name="x", caller=caller),
        add(acme, "bob", caller=caller),
        list_users(acme, **caller),
    ):
        assert (await failure_of_call(call)).reason == "TENANT_MISMATCH"


async def test_reading_takes_less_than_changing(acme: TenantSite) -> None:
    created = await add(acme)
    assert await get(acme, created.name, **READER) == created
    own = await acme.call(f"{USERS}ListUsers", user_pb2.ListUsersRequest(parent="tenants/-"), **READER)
    assert list(own.users) == [created]
    for call in (
        add(acme, "bob", caller=READER),
        update(acme, created.name, display_name="x", caller=READER),
        delete(acme, created.name, **READER),
    ):
        assert (await failure_of_call(call)).reason == "SCOPE_MISSING"


async def test_only_owners_and_operators_make_change_and_delete_owners(acme: TenantSite) -> None:
    owner, admin = await add(acme, "olga", OWNER, role=ROLE_OWNER), await add(acme, "ada", ADMIN, role=ROLE_ADMIN)
    for call in (
        add(acme, "eve", ADMIN, role=ROLE_OWNER),
        update(acme, admin.name, role=ROLE_OWNER, caller=ADMIN),
        update(acme, owner.name, role=ROLE_MEMBER, caller=ADMIN),
        update(acme, owner.name, display_name="x", caller=ADMIN),
        update(acme, owner.name, state=User.STATE_DISABLED, caller=ADMIN),
        delete(acme, owner.name, **ADMIN),
    ):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("SCOPE_MISSING", {"scope": "tenant.owner"})
    assert (await update(acme, admin.name, role=ROLE_OWNER, caller=OWNER)).role == ROLE_OWNER


async def test_the_last_owner_stays_one_who_may_sign_in(acme_on_each: TenantSite) -> None:
    owner = await add(acme_on_each, "olga", role=ROLE_OWNER)
    away = await add(acme_on_each, "otto", role=ROLE_OWNER, state=User.STATE_DISABLED)
    for call in (
        update(acme_on_each, owner.name, role=ROLE_ADMIN),
        update(acme_on_each, owner.name, state=User.STATE_DISABLED),
        delete(acme_on_each, owner.name),
    ):
        assert (await failure_of_call(call)).reason == "STATE_CONFLICT"
    assert await get(acme_on_each, owner.name) == owner
    renamed = await update(acme_on_each, owner.name, display_name="Olga")
    assert renamed.display_name == "Olga"
    await update(acme_on_each, away.name, state=User.STATE_ACTIVE)
    await delete(acme_on_each, owner.name)
    assert [user.name for user in await list_users(acme_on_each)] == [away.name]


async def test_two_owners_who_remove_each_other_leave_one(acme_on_each: TenantSite) -> None:
    (first, second) = [await add(acme_on_each, subject, role=ROLE_OWNER) for subject in ("olga", "otto")]
    calls = (delete(acme_on_each, first.name), update(acme_on_each, second.name, role=ROLE_ADMIN))
    done = await asyncio.gather(*(failure_or_none(call) for call in calls))
    assert sorted(failure.reason if failure else "" for failure in done) == ["", "STATE_CONFLICT"]
    assert [user.role for user in await list_users(acme_on_each)].count(ROLE_OWNER) == 1


async def test_an_etag_of_another_version_is_refused(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each)
    changed = await update(acme_on_each, created.name, role=ROLE_VIEWER, etag=created.etag)
    for call in (
        update(acme_on_each, created.name, role=ROLE_ADMIN, etag=created.etag),
        delete(acme_on_each, created.name, created.etag),
    ):
        failure = await failure_of_call(call)
        assert (failure.reason, failure.metadata) == ("ETAG_MISMATCH", {"etag": changed.etag})
    assert await get(acme_on_each, created.name) == changed
    await delete(acme_on_each, created.name, changed.etag)


async def test_of_parallel_writers_with_one_etag_one_wins(acme_on_each: TenantSite) -> None:
    created = await add(acme_on_each)
    calls = [
        update(acme_on_each, created.name, display_name=f"name {number}", etag=created.etag) for number in range(6)
    ]
    done = await asyncio.gather(*(failure_or_none(call) for call in calls))
    assert sorted(failure.reason if failure else "" for failure in done) == ["", *["ETAG_MISMATCH"] * 5]


async def test_an_update_changes_what_the_mask_names(acme: TenantSite) -> None:
    created = await add(acme, display_name="Ana")
    changed = await update(acme, created.name, "role", role=ROLE_ADMIN, display_name="x", subject="eve")
    assert (changed.role, changed.display_name, changed.subject) == (ROLE_ADMIN, "Ana", "ana")
    assert (await failure_of_call(update(acme, created.name, "role"))).metadata == {"field": "user.role"}
    assert (await failure_of_call(update(acme, created.name, "*"))).metadata == {"field": "user.role"}
    for path in ("subject", "issuer", "name", "etag", ""):
        failure = await failure_of_call(update(acme, created.name, path, subject="eve"))
        assert failure.metadata == {"field": "update_mask"}
    assert await update(acme, created.name) == changed


async def test_every_change_of_a_user_is_noted_with_what_ends_his_calls(acme_on_each: TenantSite) -> None:
    before = len(await changes_of(acme_on_each))
    name = (await add(acme_on_each)).name
    await update(acme_on_each, name, role=ROLE_VIEWER)
    await update(acme_on_each, name, role=ROLE_VIEWER)
    await update(acme_on_each, name, state=User.STATE_DISABLED)
    await update(acme_on_each, name, state=User.STATE_ACTIVE)
    await delete(acme_on_each, name)
    assert (await changes_of(acme_on_each))[before:] == [
        ("acme", "", ""),
        ("acme", name, ""),
        ("acme", name, "CREDENTIAL_REVOKED"),
        ("acme", name, ""),
        ("acme", name, "CREDENTIAL_REVOKED"),
    ]


async def test_a_tenant_that_is_being_deleted_takes_no_users(acme: TenantSite) -> None:
    await acme.call(f"{TENANTS}DeleteTenant", tenant_pb2.DeleteTenantRequest(name="tenants/acme"))
    assert (await failure_of_call(add(acme))).reason == "STATE_CONFLICT"


async def test_pages_give_every_user_once_in_order(acme_on_each: TenantSite) -> None:
    names = sorted([(await add(acme_on_each, f"user {number}")).name for number in range(5)])
    for size in (1, 2, 5, 5000):
        listed, token, pages = [], "", 0
        while pages == 0 or token:
            request = user_pb2.ListUsersRequest(parent="tenants/acme", page_size=size, page_token=token)
            response = await acme_on_each.call(f"{USERS}ListUsers", request)
            listed += [user.name for user in response.users]
            token, pages = response.next_page_token, pages + 1
        assert listed == names
        assert pages == -(-5 // size)


async def test_page_tokens_of_another_tenant_are_refused(acme: TenantSite) -> None:
    for subject in ("ana", "bob"):
        await add(acme, subject)
    request = user_pb2.ListUsersRequest(parent="tenants/acme", page_size=1)
    token = (await acme.call(f"{USERS}ListUsers", request)).next_page_token
    call = acme.call(f"{USERS}ListUsers", user_pb2.ListUsersRequest(parent="tenants/globex", page_token=token))
    assert (await failure_of_call(call)).metadata == {"field": "page_token"}
