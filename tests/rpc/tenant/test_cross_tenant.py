"""What another tenant's people can do: with every scope, through every method, nothing; and they learn nothing."""

import re
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToJson, Parse
from google.protobuf.message import Message

from redoma_kit.errors import Failure, failure_from_status
from tests.rpc.tenant.every_method import ISSUER, Person, sound_requests
from tests.rpc.tenant.intruder import Intruder, Row
from tests.rpc.tenant.tenant_site import TenantSite

EVERY_SCOPE = ("generate", "conversations", "tenant.read", "tenant.admin", "tenant.owner")
# Of the tables that a refused call may change: its denial is on record, in the chain of who called.
TABLES = ("tenants", "plans", "users", "api_keys", "identity_providers", "erasures", "prices", "changes")
# The last part of the name of a key, a user, an erasure or a provider.
ID = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{16})\b")
HIDDEN = frozenset({"TENANT_MISMATCH", "SCOPE_MISSING", "INVALID_FIELD"})


@pytest.fixture
def knows_issuers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every issuer be one that answers."""

    async def knows(_self: object, _issuer: str) -> None: ...

    monkeypatch.setattr("redoma_tenant.oidc.directory.OidcDirectory.check", knows)


async def outcome(person: Person, name: str, request: Message) -> Failure | str:
    """Gives how a call ends: its failure, or its last response as JSON."""
    try:
        response = await person.call(name, request)
    except grpc.aio.AioRpcError as error:
        return failure_from_status(error) or f"no ErrorInfo: {error}"
    return "" if response is None else MessageToJson(response)


def elsewhere(request: Message, tenant: str) -> Message:
    """Gives the request about another tenant instead of acme."""
    text = MessageToJson(request, preserving_proto_field_name=True).replace("tenants/acme", f"tenants/{tenant}")
    return Parse(text, type(request)())


async def rows(site: TenantSite) -> dict[str, list[Row]]:
    """Gives what is kept."""
    intruder = Intruder(site)
    return {table: sorted(await intruder.read(f"SELECT * FROM {table}"), key=str) for table in TABLES}


@pytest.mark.usefixtures("knows_issuers")
@pytest.mark.parametrize("scopes", [(scope,) for scope in EVERY_SCOPE] + [EVERY_SCOPE], ids=lambda it: "+".join(it))
async def test_another_tenant_reads_changes_and_learns_nothing(site: TenantSite, scopes: tuple[str, ...]) -> None:
    operator, stranger = Person(site), Person(site, tenant="globex", scopes=scopes)
    fields = await sound_requests(operator)
    before = await rows(site)
    for name, values in fields.items():
        request = operator.request(name, **values)
        about = await outcome(stranger, name, request)
        if "acme" not in MessageToJson(request):
            assert isinstance(about, Failure), f"{name}: {about}"
            assert about.reason == "SCOPE_MISSING", f"{name}: {about}"
            continue
        assert isinstance(about, Failure), f"{name}: {about}"
        assert about.reason in HIDDEN, f"{name}: {about}"
        assert "acme" not in about.message, f"{name}: {about.message}"
        # Whether a tenant exists is nobody else's business.
        nobody = await outcome(stranger, name, elsewhere(request, "nobody"))
        assert about == nobody, f"{name} tells acme from a tenant that there is none of"
    assert await rows(site) == before
    entries = await operator.made("ListAuditEntries", parent="tenants/acme", page_size=1000)
    assert not [entry for entry in entries.audit_entries if "globex" in entry.actor]


def with_other_ids(request: Message) -> Message:
    """Gives the request with ids that nothing has."""
    text = MessageToJson(request, preserving_proto_field_name=True)
    return Parse(ID.sub(lambda found: "0" * len(found[0]), text), type(request)())


def shown(found: Failure | str) -> Any:
    """Gives an outcome without the ids in it."""
    if isinstance(found, str):
        return ID.sub("", found)
    metadata = {key: ID.sub("", text) for key, text in found.metadata.items()}
    return found.code, found.reason, ID.sub("", found.message), metadata


@pytest.mark.usefixtures("knows_issuers")
async def test_ids_of_another_tenant_are_ids_of_nothing_under_ones_own_name(site_on_each: TenantSite) -> None:
    operator = Person(site_on_each)
    owner = Person(site_on_each, tenant="globex", scopes=EVERY_SCOPE)
    fields = await sound_requests(operator)
    before, tried = await rows(site_on_each), 0
    for name, values in fields.items():
        request = elsewhere(operator.request(name, **values), "globex")
        if ID.search(MessageToJson(request)):
            tried += 1
            found = await outcome(owner, name, request)
            assert isinstance(found, Failure), f"{name}: {found}"
            assert shown(found) == shown(await outcome(owner, name, with_other_ids(request))), name
    assert tried >= len(("GetUser", "DeleteUser", "RotateApiKey", "RevokeApiKey", "GetErasure", "EraseData"))
    assert await rows(site_on_each) == before


async def test_what_is_ones_own_never_refers_to_another_tenants(site: TenantSite) -> None:
    operator = Person(site)
    owner = Person(site, tenant="globex", scopes=EVERY_SCOPE)
    for tenant in ("acme", "globex"):
        await operator.made("CreateTenant", tenant_id=tenant)
    user = {"issuer": ISSUER, "subject": "ana", "role": "ROLE_MEMBER"}
    theirs = (await operator.made("CreateUser", parent="tenants/acme", user=user)).user.name
    key = (await owner.made("CreateApiKey", parent="tenants/-", api_key={})).api_key.name
    before = await rows(site)
    for name, values in (
        ("CreateApiKey", {"parent": "tenants/-", "api_key": {"user": theirs}}),
        ("UpdateApiKey", {"api_key": {"name": key, "user": theirs}}),
        ("UpdateApiKey", {"api_key": {"name": key, "user": theirs.replace("acme", "globex")}}),
        ("ExportData", {"parent": "tenants/-", "principal": theirs}),
        ("EraseData", {"parent": "tenants/-", "principal": theirs}),
        ("EraseData", {"parent": "tenants/-", "principal": "platform/bootstrap"}),
        ("ListApiKeys", {"parent": "platform"}),
        ("CreateApiKey", {"parent": "platform", "api_key": {}}),
        ("ListAuditEntries", {"parent": "platform"}),
        ("ExportAuditEntries", {"parent": "platform"}),
        ("VerifyAuditChain", {"parent": "platform"}),
    ):
        found = await outcome(owner, name, owner.request(name, **values))
        assert isinstance(found, Failure), f"{name} {values}"
        assert found.reason in HIDDEN, f"{name} {values}: {found}"
    # An operator may name both, and still ties nothing across tenants.
    for name, api_key in (("UpdateApiKey", {"name": key, "user": theirs}),):
        assert isinstance(await outcome(operator, name, operator.request(name, api_key=api_key)), Failure)
    assert await rows(site) == before


@pytest.mark.usefixtures("knows_issuers")
async def test_page_tokens_of_another_tenants_lists_are_refused(site: TenantSite) -> None:
    operator = Person(site)
    owner = Person(site, tenant="globex", scopes=EVERY_SCOPE)
    fields = await sound_requests(operator)
    for name in ("ListUsers", "ListApiKeys", "ListAuditEntries", "ListErasures"):
        token = (await operator.made(name, **fields[name], page_size=1)).next_page_token
        found = await outcome(owner, name, owner.request(name, parent="tenants/globex", page_token=token))
        assert isinstance(found, Failure), name
        assert found.metadata == {"field": "page_token"}, f"{name}: {found}"
