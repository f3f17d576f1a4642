"""What the commands for tenants, keys, users, identity providers and operators send, ask and print."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration

from redoma.tenant.v1 import api_key_pb2 as keys
from redoma.tenant.v1 import tenant_pb2 as tenants
from redoma.tenant.v1 import user_pb2 as users
from redoma.tenant.v1.quota_pb2 import Limits
from redoma_cli.commands.durations import duration_text, parse_duration
from redoma_cli.errors import CliError
from redoma_cli.local.demo import write_demo
from redoma_cli.local.home import Home
from tests.unit.cli.people_site import People

DIGEST = "sha256:" + "9f" * 32
KEY = "tenants/acme/apiKeys/3f0c9a12b4d5e6f7"
OPERATORS = "platform/apiKeys/3f0c9a12b4d5e6f7"
USER = "tenants/acme/users/" + "5d" * 16
ISSUER = "https://login.example.com"


def test_a_tenant_is_created_with_every_setting(people: People) -> None:
    arguments = (
        "--plan gold --weight 7 --isolation shared-tuned --adapter x --model a --model b --region eu --retention 90d"
        " --tuning-consent --content-storage private --max-input-tokens 9 --mask secret"
    )
    people.ok("tenant", "create", "initech", *arguments.split())
    request = people.only(tenants.CreateTenantRequest)
    assert request.tenant_id == "initech"
    assert request.tenant == tenants.Tenant(
        display_name="initech",
        plan="plans/gold",
        weight=7,
        isolation=tenants.Tenant.ISOLATION_SHARED_TUNED,
        adapter="x",
        models=["a", "b"],
        region="eu",
        retention=Duration(seconds=90 * 86_400),
        tuning_consent=True,
        content_storage=tenants.Tenant.CONTENT_STORAGE_PRIVATE,
        content_checks=tenants.ContentChecks(
            max_input_tokens=9,
            blocked_patterns=[tenants.BlockedPattern(text="secret", action=tenants.BlockedPattern.ACTION_MASK)],
        ),
    )


@pytest.mark.parametrize(
    ("arguments", "paths"),
    [
        (["--plan", ""], ["plan"]),
        (["--model", ""], ["models"]),
        (["--retention", "forever"], ["retention"]),
        (["--no-tuning-consent"], ["tuning_consent"]),
        (["--isolation", "shared"], ["isolation", "adapter"]),
        (["--weight", "0"], ["weight"]),
    ],
)
def test_a_setting_of_a_tenant_is_taken_away(people: People, arguments: list[str], paths: list[str]) -> None:
    people.ok("tenant", "update", "acme", *arguments, "--etag", "7")
    request = people.only(tenants.UpdateTenantRequest)
    assert list(request.update_mask.paths) == paths
    expected = tenants.Tenant(name="tenants/acme", etag="7")
    if "isolation" in paths:
        expected.isolation = tenants.Tenant.ISOLATION_SHARED
    assert request.tenant == expected


def test_nothing_to_change_is_told_without_a_call(people: People) -> None:
    for command in (("tenant", "update", "acme"), ("key", "update", "acme/01"), ("user", "update", "acme/01")):
        result = people.run(*command)
        assert isinstance(result.exception, CliError)
        assert "nothing to change" in result.exception.message
    assert people.asked == []


def test_a_tenant_is_not_deleted_unasked(people: People) -> None:
    result = people.run("tenant", "delete", "acme")
    assert isinstance(result.exception, CliError)
    assert "--yes" in result.exception.mend
    assert people.asked == []


@pytest.mark.parametrize(("grace", "seconds"), [("7d", 7 * 86_400), ("none", 0)])
def test_a_tenant_is_deleted_with_its_grace(people: People, grace: str, seconds: int) -> None:
    people.ok("tenant", "delete", "acme", "--grace", grace, "--yes")
    request = people.only(tenants.DeleteTenantRequest)
    assert request == tenants.DeleteTenantRequest(name="tenants/acme", grace=Duration(seconds=seconds))


def test_a_tenant_is_shown_with_what_is_set_and_no_markup(people: People) -> None:
    tenant = tenants.Tenant(
        name="tenants/acme",
        display_name="[bold]Acme",
        state=tenants.Tenant.STATE_ACTIVE,
        weight=300,
        plan="plans/gold",
        isolation=tenants.Tenant.ISOLATION_DEDICATED,
        retention=Duration(seconds=3600),
        content_storage=tenants.Tenant.CONTENT_STORAGE_PUBLIC,
        etag="7",
    )
    people.answers["GetTenant"] = tenants.GetTenantResponse(tenant=tenant)
    people.answers["ListTenants"] = tenants.ListTenantsResponse(tenants=[tenant])
    text = people.ok("tenant", "get", "acme")
    for part in ("[bold]Acme", "gold", "300", "dedicated", "public, kept 1h"):
        assert part in text
    assert "[bold]Acme" in people.ok("tenant", "list")
    assert json.loads(people.ok("tenant", "get", "acme", "--json"))["etag"] == "7"


def test_a_key_is_created_with_every_setting(people: People) -> None:
    people.answers["CreateApiKey"] = keys.CreateApiKeyResponse(api_key=keys.ApiKey(name=KEY), secret="rdm_secret")
    arguments = (
        "--name ci --scope generate --expires-in 30d --model a --cidr 203.0.113.0/24 --user u1 --requests-per-minute 60"
        " --tokens-per-minute 20k --concurrent-streams 4 --tokens-per-day 2M --tokens-per-month 1_000"
        " --budget-per-month 7.50"
    )
    assert people.ok("key", "create", "acme", *arguments.split()) == "rdm_secret\n"
    request = people.only(keys.CreateApiKeyRequest)
    made = request.api_key
    ahead = made.expire_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(days=29) < ahead <= timedelta(days=30)
    made.ClearField("expire_time")
    assert request == keys.CreateApiKeyRequest(
        parent="tenants/acme",
        api_key=keys.ApiKey(
            display_name="ci",
            scopes=["generate"],
            models=["a"],
            cidrs=["203.0.113.0/24"],
            user="tenants/acme/users/u1",
            limits=Limits(
                requests_per_minute=60,
                tokens_per_minute=20_000,
                concurrent_streams=4,
                tokens_per_day=2_000_000,
                tokens_per_month=1_000,
                budget_micros_per_month=7_500_000,
            ),
        ),
    )


def test_a_key_without_limits_is_created_with_none(people: People) -> None:
    people.answers["CreateApiKey"] = keys.CreateApiKeyResponse(api_key=keys.ApiKey(name=KEY), secret="rdm_secret")
    people.ok("key", "create", "acme")
    assert not people.only(keys.CreateApiKeyRequest).api_key.HasField("limits")


@pytest.mark.parametrize("amount", ["", "-1", "x", "1.5", "2m", "1e3", "9" * 17])
def test_what_is_no_amount_is_refused(people: People, amount: str) -> None:
    result = people.run("key", "create", "acme", "--tokens-per-day", amount)
    assert isinstance(result.exception, CliError)
    assert people.asked == []


def test_limits_that_are_not_named_stay_as_they_are(people: People) -> None:
    found = keys.ApiKey(name=KEY, etag="7", limits=Limits(tokens_per_day=5, concurrent_streams=2))
    people.answers["ListApiKeys"] = keys.ListApiKeysResponse(api_keys=[keys.ApiKey(name=KEY + "0"), found])
    people.answers["UpdateApiKey"] = keys.UpdateApiKeyResponse(api_key=found)
    arguments = ("--tokens-per-day", "none", "--requests-per-minute", "0", "--cidr", "")
    people.ok("key", "update", "acme/3f0c9a12b4d5e6f7", *arguments)
    request = people.only(keys.UpdateApiKeyRequest)
    assert request.api_key == keys.ApiKey(
        name=KEY, etag="7", limits=Limits(concurrent_streams=2, requests_per_minute=0)
    )
    assert list(request.update_mask.paths) == ["cidrs", "limits"]


def test_a_key_that_is_missing_is_told(people: People) -> None:
    for command in (("get",), ("update", "--tokens-per-day", "5")):
        result = people.run("key", command[0], "acme/01", *command[1:])
        assert isinstance(result.exception, CliError)
        assert "does not exist" in result.exception.message


def test_a_key_never_expires_again(people: People) -> None:
    people.answers["UpdateApiKey"] = keys.UpdateApiKeyResponse(api_key=keys.ApiKey(name=KEY))
    people.ok("key", "update", KEY, "--expires-in", "never")
    request = people.only(keys.UpdateApiKeyRequest)
    assert (request.api_key, list(request.update_mask.paths)) == (keys.ApiKey(name=KEY), ["expire_time"])


@pytest.mark.parametrize(("overlap", "seconds"), [("1h", 3_600), ("none", 0)])
def test_a_key_is_rotated_with_its_overlap(people: People, overlap: str, seconds: int) -> None:
    former = keys.ApiKey(name=KEY, prefix="rdm_old", state=keys.ApiKey.STATE_REVOKED)
    people.answers["RotateApiKey"] = keys.RotateApiKeyResponse(secret="rdm_new", former=former)
    assert people.ok("key", "rotate", KEY, "--overlap", overlap) == "rdm_new\n"
    request = people.only(keys.RotateApiKeyRequest)
    assert request == keys.RotateApiKeyRequest(name=KEY, overlap=Duration(seconds=seconds))


def test_an_operators_key_is_named_by_its_id(people: People) -> None:
    people.answers["ListApiKeys"] = keys.ListApiKeysResponse(api_keys=[keys.ApiKey(name=OPERATORS)])
    assert "3f0c9a12b4d5e6f7" in people.ok("operator", "list")
    assert people.only(keys.ListApiKeysRequest).parent == "platform"
    for name in ("3f0c9a12b4d5e6f7", OPERATORS):
        people.asked.clear()
        people.ok("operator", "revoke", name)
        assert people.only(keys.RevokeApiKeyRequest).name == OPERATORS
    assert isinstance(people.run("operator", "revoke", KEY).exception, CliError)


def local_site(people: People, admin_key: str = "rdm_first") -> None:
    """Leaves what `redoma up` leaves for commands to find this server by."""
    home = Home(people.home)
    home.create()
    write_demo(home, f"http://127.0.0.1:{people.port}", admin_key, [("acme", "rdm_acme")])


def admin_key_of(people: People) -> str:
    """Gives the admin key that commands find."""
    key: str = json.loads(Home(people.home).demo_file.read_text())["admin_key"]
    return key


def test_the_first_operators_key_takes_the_bootstrap_keys_place_on_this_machine(people: People) -> None:
    local_site(people)
    made = keys.ApiKey(name=OPERATORS, prefix="rdm_ops")
    people.answers["CreateApiKey"] = keys.CreateApiKeyResponse(api_key=made, secret="rdm_ops_secret")
    assert people.ok("operator", "create", "--name", "Ana", is_local=True) == "rdm_ops_secret\n"
    assert people.only(keys.CreateApiKeyRequest).parent == "platform"
    assert admin_key_of(people) == "rdm_ops_secret"
    people.answers["ListApiKeys"] = keys.ListApiKeysResponse(api_keys=[made])
    people.answers["CreateApiKey"] = keys.CreateApiKeyResponse(api_key=made, secret="rdm_other_secret")
    people.ok("operator", "create", "--name", "Bob", is_local=True)
    assert admin_key_of(people) == "rdm_ops_secret"
    people.answers["RotateApiKey"] = keys.RotateApiKeyResponse(secret="rdm_newer_secret", former=made)
    people.ok("operator", "rotate", "3f0c9a12b4d5e6f7", is_local=True)
    assert admin_key_of(people) == "rdm_newer_secret"
    assert people.keys[-1] == "Bearer rdm_ops_secret"


def test_another_sites_operators_key_is_not_kept_here(people: People) -> None:
    local_site(people)
    made = keys.ApiKey(name=OPERATORS, prefix="rdm_ops")
    people.answers["CreateApiKey"] = keys.CreateApiKeyResponse(api_key=made, secret="rdm_ops_secret")
    people.ok("operator", "create", "--name", "Ana")
    assert admin_key_of(people) == "rdm_first"


def test_a_user_is_created_listed_and_changed(people: People) -> None:
    user = users.User(
        name=USER, issuer=ISSUER, subject="248", role=users.ROLE_ADMIN, state=users.User.STATE_ACTIVE, display_name="A"
    )
    people.answers["CreateUser"] = users.CreateUserResponse(user=user)
    people.answers["UpdateUser"] = users.UpdateUserResponse(user=user)
    people.answers["ListUsers"] = users.ListUsersResponse(users=[user])
    short = f"acme/{'5d' * 16}"
    text = people.ok("user", "create", "acme", "--issuer", ISSUER, "--subject", "248", "--role", "admin")
    assert short in text
    assert people.only(users.CreateUserRequest) == users.CreateUserRequest(
        parent="tenants/acme", user=users.User(issuer=ISSUER, subject="248", role=users.ROLE_ADMIN)
    )
    assert "admin" in people.ok("user", "list", "acme")
    people.ok("user", "update", short, "--role", "viewer", "--disable", "--etag", "3")
    request = people.only(users.UpdateUserRequest)
    assert list(request.update_mask.paths) == ["role", "state"]
    assert request.user == users.User(name=USER, role=users.ROLE_VIEWER, state=users.User.STATE_DISABLED, etag="3")


def test_a_user_is_deleted_once_somebody_says_so(people: People) -> None:
    assert isinstance(people.run("user", "delete", USER).exception, CliError)
    assert people.asked == []
    people.ok("user", "delete", USER, "--yes")
    assert people.only(users.DeleteUserRequest).name == USER
    assert isinstance(people.run("user", "get", "acme").exception, CliError)


def test_a_provider_is_created_with_what_its_claims_mean(people: People) -> None:
    arguments = (
        f"{ISSUER} --audience redoma --tenant-claim org --roles-claim roles --role chat=admins=admin --role m=member"
        " --default-role viewer --operator-role ops"
    )
    people.ok("identity-provider", "create", *arguments.split())
    assert people.only(users.CreateIdentityProviderRequest).identity_provider == users.IdentityProvider(
        issuer=ISSUER,
        audience="redoma",
        tenant_claim="org",
        roles_claim="roles",
        roles={"chat=admins": users.ROLE_ADMIN, "m": users.ROLE_MEMBER},
        default_role=users.ROLE_VIEWER,
        operator_role="ops",
    )


@pytest.mark.parametrize("role", ["admin", "=admin", "x=king", "x="])
def test_a_role_that_says_nothing_is_refused(people: People, role: str) -> None:
    arguments = ("create", ISSUER, "--audience", "a", "--tenant", "acme", "--roles-claim", "r", "--role", role)
    assert isinstance(people.run("identity-provider", *arguments).exception, CliError)
    assert people.asked == []


def test_providers_are_listed_and_deleted(people: People) -> None:
    provider = users.IdentityProvider(
        name="identityProviders/0123", issuer=ISSUER, audience="redoma", tenant="tenants/acme", roles_claim="r"
    )
    provider.roles["admins"] = users.ROLE_ADMIN
    people.answers["ListIdentityProviders"] = users.ListIdentityProvidersResponse(identity_providers=[provider])
    text = people.ok("identity-provider", "list")
    for part in ("0123", ISSUER, "acme", "by r: admins=admin", "refused"):
        assert part in text
    assert isinstance(people.run("identity-provider", "delete", "0123").exception, CliError)
    people.ok("identity-provider", "delete", "0123", "--yes")
    assert people.only(users.DeleteIdentityProviderRequest).name == "identityProviders/0123"


@pytest.mark.parametrize("text", ["90s", "90m", "12h", "30d"])
def test_durations_are_told_as_they_are_written(text: str) -> None:
    assert duration_text(parse_duration(text)) == text
    assert duration_text(timedelta(days=14)) == "14d"
