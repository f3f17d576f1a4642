"""The audit chains: what is written into them, who may read them, and that no change of them goes unnoticed."""

import asyncio
import csv
import hashlib
import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import api_key_pb2, audit_pb2, audit_pb2_grpc, tenant_pb2, usage_pb2
from redoma_cli.local.pki import public_jwk
from redoma_kit.api_key import new_key
from redoma_kit.errors import StorageUnavailable
from redoma_tenant.audit.chain import HEAD_REPLACED, NO_HASH
from redoma_tenant.audit.trail import AuditTrail
from redoma_tenant.store.audit import SqlAuditStore
from tests.conftest import TestPki
from tests.rpc.tenant.intruder import Intruder
from tests.rpc.tenant.tenant_site import API_KEYS, ASK, CALL_TIMEOUT_S, TENANTS, TenantSite, failure_of_call

SERVICE = "/redoma.tenant.v1.AuditService/"
OPERATOR = ("platform.admin",)
READER = ("tenant.read",)


class Auditor:
    """Calls AuditService, by default as an operator."""

    def __init__(self, site: TenantSite) -> None:
        self.site = site

    def _metadata(self, method: str, tenant: str, scopes: tuple[str, ...], extra: tuple[tuple[str, str], ...]) -> Any:
        return (*self.site.pki.metadata(["tenant"], method=SERVICE + method, tenant=tenant, scopes=scopes), *extra)

    async def call(
        self, method: str, request: Any, tenant: str = "", scopes: tuple[str, ...] = OPERATOR, **extra: str
    ) -> Any:
        """Calls a unary method; `extra` is metadata."""
        stub = audit_pb2_grpc.AuditServiceStub(self.site.channel())
        metadata = self._metadata(method, tenant, scopes, tuple((k.replace("_", "-"), v) for k, v in extra.items()))
        return await getattr(stub, method)(request, metadata=metadata, timeout=CALL_TIMEOUT_S)

    async def list(self, parent: str = "tenants/acme", **filters: Any) -> list[audit_pb2.AuditEntry]:
        """Lists one page."""
        response = await self.call("ListAuditEntries", audit_pb2.ListAuditEntriesRequest(parent=parent, **filters))
        return list(response.audit_entries)

    async def note(self) -> None:
        """Has what is gathered written."""
        self.site.server.audit.denials.flush()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self.site.server.audit.trail.written()

    async def export(self, parent: str = "tenants/acme", is_json: bool = True) -> tuple[bytes, audit_pb2.AuditHead]:
        """Gives the whole file and the head."""
        form = usage_pb2.EXPORT_FORMAT_JSON_LINES if is_json else usage_pb2.EXPORT_FORMAT_CSV
        stub = audit_pb2_grpc.AuditServiceStub(self.site.channel())
        call = stub.ExportAuditEntries(
            audit_pb2.ExportAuditEntriesRequest(parent=parent, format=form),
            metadata=self._metadata("ExportAuditEntries", "", OPERATOR, ()),
            timeout=CALL_TIMEOUT_S,
        )
        data, head = b"", None
        async for piece in call:
            assert head is None
            data += piece.data
            head = piece.head if piece.HasField("head") else None
        assert head is not None
        return data, head

    async def verify(
        self, parent: str = "tenants/acme", known: audit_pb2.AuditHead | None = None
    ) -> audit_pb2.VerifyAuditChainResponse:
        """Asks the service to verify."""
        request = audit_pb2.VerifyAuditChainRequest(parent=parent, known_head=known)
        response: audit_pb2.VerifyAuditChainResponse = await self.call("VerifyAuditChain", request)
        return response


@pytest.fixture
def auditor(site_on_each: TenantSite) -> Auditor:
    """An auditor of the site on each database."""
    return Auditor(site_on_each)


@pytest.fixture
async def chain(auditor: Auditor) -> Auditor:
    """An auditor of acme's chain of 9 entries."""
    await auditor.site.add_tenant()
    for number in range(8):
        await auditor.site.add_key(display_name=f"key {number}")
    return auditor


async def test_an_entry_tells_who_did_what_to_what_from_where(auditor: Auditor) -> None:
    site = auditor.site
    await site.add_tenant()
    request = tenant_pb2.UpdateTenantRequest(tenant=tenant_pb2.Tenant(name="tenants/acme", weight=7))
    request.update_mask.paths.append("weight")
    extra = (("x-forwarded-for", "198.51.100.9, 203.0.113.7"), ("x-request-id", "req-1"))
    metadata = (
        *site.pki.metadata(["tenant"], method=f"{TENANTS}UpdateTenant", tenant="", scopes=OPERATOR),
        *extra,
    )
    await site.call_with(f"{TENANTS}UpdateTenant", request, metadata)
    entry, created = await auditor.list()
    assert (entry.name, entry.sequence, entry.count) == ("tenants/acme/auditEntries/2", 2, 1)
    assert entry.actor == "tenants//apiKeys/test"
    assert entry.action == f"{TENANTS}UpdateTenant"
    assert entry.resource == created.resource == "tenants/acme"
    assert (entry.source, entry.result, entry.request_id) == ("203.0.113.7", "OK", "req-1")
    assert dict(entry.details) == {"fields": "weight", "weight": "7"}
    assert (entry.previous_hash, created.previous_hash) == (created.hash, NO_HASH)


async def test_what_a_call_made_is_named_and_no_secret_is_kept(auditor: Auditor) -> None:
    await auditor.site.add_tenant()
    made = await auditor.site.add_key(display_name="marker-of-content", scopes=["tenant.admin"])
    entry = (await auditor.list())[0]
    assert entry.resource == made.api_key.name
    assert dict(entry.details) == {"fields": "display_name,scopes"}
    rows = await Intruder(auditor.site).read("SELECT * FROM audit_entries")
    assert made.secret not in str(rows)
    assert made.secret[13:] not in str(rows)
    assert "marker-of-content" not in str(rows)


async def test_a_key_sent_in_the_wrong_field_is_not_kept(auditor: Auditor) -> None:
    await auditor.site.add_tenant()
    key = new_key()
    for name in (key, f"tenants/acme/apiKeys/{key}", f"tenants/{key}", f"tenants/acme/apiKeys/{key[13:]}"):
        await failure_of_call(auditor.site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=name)))
        await failure_of_call(auditor.site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name=name)))
    await auditor.site.check(key, f"/v1/models/{key}", "GET", {"x-request-id": key, "user-agent": key})
    await auditor.note()
    assert len(await auditor.list("platform")) >= 9
    assert key[13:] not in str(await Intruder(auditor.site).read("SELECT * FROM audit_entries"))


async def test_reads_of_operators_and_failures_are_entries_too(auditor: Auditor) -> None:
    await auditor.site.add_tenant()
    await auditor.site.list_keys()
    await failure_of_call(auditor.site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/nobody")))
    assert [entry.action for entry in await auditor.list()] == [f"{API_KEYS}ListApiKeys", f"{TENANTS}CreateTenant"]
    missed = (await auditor.list("platform", action="gettenant"))[0]
    assert (missed.resource, missed.result) == ("tenants/nobody", "RESOURCE_NOT_FOUND")


async def test_names_in_failed_calls_begin_no_chain(auditor: Auditor) -> None:
    await failure_of_call(auditor.site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/nobody")))
    assert await Intruder(auditor.site).read("SELECT tenant_id FROM audit_heads") == [("",)]


async def test_a_tenant_that_reaches_for_another_is_seen_in_its_own_chain(auditor: Auditor) -> None:
    for tenant in ("acme", "globex"):
        await auditor.site.add_tenant(tenant)
    request = api_key_pb2.ListApiKeysRequest(parent="tenants/globex")
    failure = await failure_of_call(auditor.site.tenant_admin(f"{API_KEYS}ListApiKeys", request))
    assert failure.reason == "TENANT_MISMATCH"
    entry = (await auditor.list())[0]
    assert (entry.resource, entry.result) == ("tenants/globex", "TENANT_MISMATCH")
    assert len(await auditor.list("tenants/globex")) == 1


async def test_denied_calls_of_one_kind_are_one_entry_with_a_count(auditor: Auditor) -> None:
    for _ in range(5):
        await auditor.site.check(new_key(), ASK)
    await auditor.site.check(new_key(), f"{TENANTS}ListTenants")
    await auditor.note()
    found = {entry.action: entry.count for entry in await auditor.list("platform", result="CREDENTIAL_INVALID")}
    assert found == {ASK: 5, f"{TENANTS}ListTenants": 1}


async def test_a_service_that_may_not_call_is_seen(auditor: Auditor) -> None:
    failure = await failure_of_call(
        auditor.site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme"), "chat")
    )
    assert failure.reason == "METHOD_DENIED"
    await auditor.note()
    entry = (await auditor.list("platform", result="METHOD_DENIED"))[0]
    assert (entry.actor, entry.source) == ("", "spiffe://redoma/public/chat")


async def test_engine_calls_that_are_let_in_are_seen(auditor: Auditor) -> None:
    await auditor.site.check(auditor.site.bootstrap_key, "/redoma.model.v1.EngineService/PurgeTenant")
    await auditor.note()
    entry = (await auditor.list("platform", result="ADMITTED"))[0]
    assert (entry.actor, entry.action) == ("platform/bootstrap", "/redoma.model.v1.EngineService/PurgeTenant")


async def test_a_chain_is_read_by_its_own_tenant_alone(auditor: Auditor) -> None:
    await auditor.site.add_tenant("globex")
    for method, request in (
        ("ListAuditEntries", audit_pb2.ListAuditEntriesRequest),
        ("VerifyAuditChain", audit_pb2.VerifyAuditChainRequest),
    ):
        for parent, reason in (("tenants/globex", "TENANT_MISMATCH"), ("platform", "SCOPE_MISSING")):
            failure = await failure_of_call(auditor.call(method, request(parent=parent), "acme", READER))
            assert failure.reason == reason
        await auditor.call(method, request(parent="tenants/-"), "acme", READER)
        failure = await failure_of_call(auditor.call(method, request(parent="tenants/-"), "acme", ("generate",)))
        assert failure.reason == "SCOPE_MISSING"


async def test_an_operators_own_chain_is_the_platforms(auditor: Auditor) -> None:
    await auditor.list("platform")
    assert [entry.name for entry in await auditor.list("tenants/-")] == ["platform/auditEntries/1"]


async def test_pages_and_filters(chain: Auditor) -> None:
    listed: list[int] = []
    token = ""
    while not listed or token:
        request = audit_pb2.ListAuditEntriesRequest(
            parent="tenants/acme", page_size=3, page_token=token, action="CREATEAPIKEY"
        )
        response = await chain.call("ListAuditEntries", request)
        listed += [entry.sequence for entry in response.audit_entries]
        token = response.next_page_token
        # Reading makes entries too, which pages do not run after.
        assert len(listed) < 20
    assert listed == list(range(9, 1, -1))
    assert await chain.list(resource_prefix="tenants/acme/apiKeys/", action="Revoke") == []
    assert len(await chain.list(resource_prefix="tenants/acme/apiKeys/")) == 8
    assert await chain.list(resource_prefix="TENANTS") == []
    assert await chain.list(action="%") == []
    assert await chain.list(actor="nobody") == []
    assert await chain.list(end_time=Timestamp(seconds=1)) == []
    assert len(await chain.list(start_time=Timestamp(seconds=1), action="CreateTenant")) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"parent": "acme"}, "parent"),
        ({"parent": "tenants/acme", "page_size": -1}, "page_size"),
        ({"parent": "tenants/acme", "page_token": "x"}, "page_token"),
        ({"parent": "tenants/acme", "actor": "x" * 256}, "actor"),
        ({"parent": "tenants/acme", "action": "\0"}, "action"),
        ({"parent": "tenants/acme", "start_time": Timestamp(seconds=10**15)}, "start_time"),
    ],
)
async def test_malformed_requests_are_refused(site: TenantSite, fields: dict[str, Any], field: str) -> None:
    failure = await failure_of_call(Auditor(site).call("ListAuditEntries", audit_pb2.ListAuditEntriesRequest(**fields)))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": field})


async def test_an_export_can_be_verified_without_the_service(chain: Auditor) -> None:
    data, head = await chain.export()
    previous = NO_HASH
    lines = data.decode().splitlines()
    for number, line in enumerate(lines, 1):
        fields = json.loads(line)
        found = fields.pop("hash")
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256(text.encode()).hexdigest() == found
        assert (fields["sequence"], fields["previous_hash"]) == (number, previous)
        previous = found
    assert (head.sequence, head.hash) == (len(lines), previous) == (9, previous)
    key = jwt.PyJWK(json.loads(chain.site.pki.jwks_file.read_text())["keys"][0], algorithm="EdDSA")
    assert jwt.decode(head.signature, key, algorithms=["EdDSA"]) == {
        "chain": "tenants/acme",
        "sequence": 9,
        "hash": previous,
    }


async def test_an_export_as_csv_holds_the_same(chain: Auditor) -> None:
    as_json, _ = await chain.export()
    as_csv, _ = await chain.export(is_json=False)
    rows = list(csv.DictReader(io.StringIO(as_csv.decode(), newline="")))
    lines = [json.loads(line) for line in as_json.decode().splitlines()]
    # The export before is an entry of the second.
    assert len(rows) == len(lines) + 1
    assert [row["hash"] for row in rows[:-1]] == [line["hash"] for line in lines]
    assert json.loads(rows[0]["details"]) == lines[0]["details"]


async def test_a_signed_head_is_no_identity(chain: Auditor) -> None:
    _, head = await chain.export()
    metadata = (("redoma-identity", head.signature),)
    call = chain.site.call_with(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(), metadata)
    assert (await failure_of_call(call)).reason == "CREDENTIAL_INVALID"


async def test_a_whole_chain_is_found_whole(chain: Auditor) -> None:
    verdict = await chain.verify()
    assert (verdict.intact, verdict.broken_sequence, verdict.problem) == (True, 0, "")
    assert verdict.head.sequence == 9
    assert (await chain.verify(known=verdict.head)).intact
    assert (await chain.verify("tenants/nobody")).intact


@pytest.mark.parametrize(
    "assignment",
    [
        "actor = 'tenants/acme/apiKeys/other'",
        "action = '/redoma.tenant.v1.TenantService/GetTenant'",
        "resource = ''",
        "source = '192.0.2.1'",
        "result = 'OK '",
        "request_id = 'x'",
        "details = '{}'",
        "count = 2",
        "time = '2026-01-01 00:00:00.000000+00'",
        "previous_hash = hash",
        "hash = previous_hash",
    ],
)
async def test_an_edit_of_any_field_is_found(chain: Auditor, assignment: str) -> None:
    if "time" in assignment and not chain.site.database_url:
        assignment = assignment.replace("+00", "")
    await Intruder(chain.site).run(f"UPDATE audit_entries SET {assignment} WHERE tenant_id = 'acme' AND sequence = 4")
    verdict = await chain.verify()
    assert (verdict.intact, verdict.broken_sequence) == (False, 4), verdict


async def test_an_entry_that_can_not_be_read_any_more_is_found(site: TenantSite) -> None:
    auditor = Auditor(site)
    await site.add_tenant()
    for _ in range(3):
        await site.list_keys()
    await Intruder(site).run("UPDATE audit_entries SET details = '{' WHERE tenant_id = 'acme' AND sequence = 2")
    verdict = await auditor.verify()
    assert (verdict.intact, verdict.broken_sequence) == (False, 2)
    failure = await failure_of_call(auditor.export())
    assert failure.reason == "CONTENT_UNREADABLE"


async def test_a_deleted_entry_is_found(chain: Auditor) -> None:
    await Intruder(chain.site).run("DELETE FROM audit_entries WHERE tenant_id = 'acme' AND sequence = 5")
    verdict = await chain.verify()
    assert (verdict.intact, verdict.broken_sequence) == (False, 5)
    assert "missing" in verdict.problem


async def test_a_deleted_beginning_is_found(chain: Auditor) -> None:
    await Intruder(chain.site).run("DELETE FROM audit_entries WHERE tenant_id = 'acme' AND sequence <= 3")
    assert (await chain.verify()).broken_sequence == 1


async def test_a_deleted_end_is_found(chain: Auditor) -> None:
    await Intruder(chain.site).run("DELETE FROM audit_entries WHERE tenant_id = 'acme' AND sequence > 6")
    verdict = await chain.verify()
    assert (verdict.intact, verdict.broken_sequence) == (False, 7)
    # Nor do later entries heal it.
    await chain.site.list_keys()
    assert (await chain.verify()).broken_sequence == 7


async def test_swapped_entries_are_found(chain: Auditor) -> None:
    it = "UPDATE audit_entries SET sequence = {} WHERE tenant_id = 'acme' AND sequence = {}"
    await Intruder(chain.site).run(it.format(100, 3), it.format(3, 4), it.format(4, 100))
    assert (await chain.verify()).broken_sequence == 3


async def test_an_entry_put_in_is_found(chain: Auditor) -> None:
    copy = (
        "INSERT INTO audit_entries (tenant_id, sequence, time, actor, action, resource, source, result, request_id,"
        " details, count, previous_hash, hash) SELECT tenant_id, 10, time, actor, action, resource, source, result,"
        " request_id, details, count, previous_hash, hash FROM audit_entries WHERE tenant_id = 'acme' AND sequence = 9"
    )
    await Intruder(chain.site).run(copy)
    assert (await chain.verify()).broken_sequence == 10
    # The service writes on all the same, and says what it found.
    await chain.site.list_keys()
    marker = next(entry for entry in await chain.list() if entry.action == HEAD_REPLACED)
    assert marker.sequence == 11
    assert (await chain.verify()).broken_sequence == 10


async def rewrite(auditor: Auditor, first: int, signature: str | None = None) -> None:
    """Changes an entry and computes all later hashes and the head anew, as one would who knows how."""
    data, _ = await auditor.export()
    lines = [json.loads(line) for line in data.decode().splitlines()]
    statements, previous = [], lines[first - 2]["hash"]
    for fields in lines[first - 1 :]:
        del fields["hash"]
        fields["previous_hash"] = previous
        if fields["sequence"] == first:
            fields["actor"] = "tenants/acme/apiKeys/other"
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        found = hashlib.sha256(text.encode()).hexdigest()
        statements.append(
            f"UPDATE audit_entries SET actor = '{fields['actor']}', previous_hash = '{previous}', hash = '{found}'"
            f" WHERE tenant_id = 'acme' AND sequence = {fields['sequence']}"
        )
        previous = found
    # The export itself is the last entry.
    last = len(lines)
    statements.append(f"DELETE FROM audit_entries WHERE tenant_id = 'acme' AND sequence > {last}")
    signed = "" if signature is None else f", signature = '{signature}'"
    statements.append(f"UPDATE audit_heads SET sequence = {last}, hash = '{previous}'{signed} WHERE tenant_id = 'acme'")
    await Intruder(auditor.site).run(*statements)


async def test_a_chain_written_anew_lacks_the_signature(chain: Auditor) -> None:
    await rewrite(chain, 4)
    verdict = await chain.verify()
    assert (verdict.intact, verdict.broken_sequence) == (False, 9)
    assert "signature" in verdict.problem


async def test_the_service_does_not_sign_over_a_chain_written_anew(chain: Auditor) -> None:
    await rewrite(chain, 4)
    await chain.site.list_keys()
    for _ in range(2):
        verdict = await chain.verify()
        assert (verdict.intact, verdict.broken_sequence) == (False, 10), verdict
    assert "replaced" in chain.site.log_text.getvalue()


async def test_a_chain_signed_by_a_stolen_key_differs_from_a_noted_head(chain: Auditor, pki: TestPki) -> None:
    noted = (await chain.verify()).head
    await rewrite(chain, 4)
    (sequence, digest), *_ = await Intruder(chain.site).read(
        "SELECT sequence, hash FROM audit_heads WHERE tenant_id = 'acme'"
    )
    claims = {"chain": "tenants/acme", "sequence": sequence, "hash": digest}
    headers = {"kid": pki.key_id, "typ": "redoma-audit-head"}
    signature = jwt.encode(claims, pki.signing_key, algorithm="EdDSA", headers=headers)
    await Intruder(chain.site).run(f"UPDATE audit_heads SET signature = '{signature}' WHERE tenant_id = 'acme'")
    assert (await chain.verify()).intact
    verdict = await chain.verify(known=noted)
    assert (verdict.intact, verdict.broken_sequence) == (False, noted.sequence)


async def test_a_chain_put_back_to_an_earlier_state_differs_from_a_noted_head(chain: Auditor) -> None:
    earlier = (await chain.verify()).head
    await chain.site.list_keys()
    noted = (await chain.verify()).head
    assert noted.sequence > earlier.sequence
    await Intruder(chain.site).run(
        f"DELETE FROM audit_entries WHERE tenant_id = 'acme' AND sequence > {earlier.sequence}",
        f"UPDATE audit_heads SET sequence = {earlier.sequence}, hash = '{earlier.hash}',"
        f" signature = '{earlier.signature}' WHERE tenant_id = 'acme'",
    )
    assert (await chain.verify()).intact
    verdict = await chain.verify(known=noted)
    assert not verdict.intact
    assert verdict.broken_sequence > earlier.sequence


async def test_a_chain_without_its_head_is_found_and_not_begun_anew(chain: Auditor) -> None:
    await Intruder(chain.site).run("DELETE FROM audit_heads WHERE tenant_id = 'acme'")
    assert (await chain.verify()).broken_sequence == 1
    await chain.site.list_keys()
    assert not (await chain.verify()).intact
    assert (await chain.list())[0].sequence > 9


async def test_chains_do_not_pass_for_each_other(chain: Auditor) -> None:
    await chain.site.add_tenant("globex")
    await Intruder(chain.site).run(
        "DELETE FROM audit_entries WHERE tenant_id = 'globex'",
        "DELETE FROM audit_heads WHERE tenant_id = 'globex'",
        "UPDATE audit_entries SET tenant_id = 'globex' WHERE tenant_id = 'acme'",
        "UPDATE audit_heads SET tenant_id = 'globex' WHERE tenant_id = 'acme'",
    )
    assert (await chain.verify("tenants/globex")).broken_sequence == 1


async def test_the_database_refuses_changes_of_entries(chain: Auditor) -> None:
    if chain.site.database_url:
        pytest.skip("the guards of PostgreSQL have tests of their own")
    with sqlite3.connect(chain.site.database_file, timeout=10) as connection:
        for statement in ("UPDATE audit_entries SET count = 2", "DELETE FROM audit_entries"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                connection.execute(statement)
    connection.close()


async def test_many_calls_at_once_leave_one_chain(auditor: Auditor) -> None:
    await auditor.site.add_tenant()
    await asyncio.gather(*(auditor.site.list_keys() for _ in range(30)))
    entries = await auditor.list()
    assert [entry.sequence for entry in entries] == list(range(31, 0, -1))
    assert (await auditor.verify()).intact


async def test_replicas_that_write_at_once_leave_one_chain(auditor: Auditor, tmp_path: Path) -> None:
    await auditor.site.add_tenant()
    url = auditor.site.database_url or f"sqlite+aiosqlite:///{auditor.site.database_file}"
    folder = tmp_path / "replica"
    folder.mkdir()
    replica = TenantSite(auditor.site.pki, folder, url)
    await replica.start()
    try:
        await asyncio.gather(*(site.list_keys() for site in (auditor.site, replica) for _ in range(15)))
        assert len(await auditor.list()) == 31
        assert (await auditor.verify()).intact
    finally:
        await replica.stop()


async def test_what_can_not_be_written_is_kept_and_further_administration_refused(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = auditor.site
    await site.add_tenant()
    append, is_back = SqlAuditStore.append, asyncio.Event()

    async def away(*arguments: Any) -> None:
        if not is_back.is_set():
            raise StorageUnavailable()
        await append(*arguments)

    monkeypatch.setattr(SqlAuditStore, "append", away)
    made = await site.add_key(display_name="made")
    assert made.secret
    failure = await failure_of_call(site.list_keys())
    assert failure.reason == "STORAGE_UNAVAILABLE"
    logged = [line for line in site.log_text.getvalue().splitlines() if "not written" in line]
    assert len(logged) == 1
    assert json.loads(logged[0])["entry"]["resource"] == made.api_key.name
    is_back.set()
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await site.server.audit.trail.written()
    assert (await auditor.list())[0].resource == made.api_key.name
    assert (await auditor.verify()).intact


async def test_what_is_noted_is_written_before_the_service_stops(site: TenantSite) -> None:
    await site.check(new_key(), ASK)
    await site.stop()
    rows = await Intruder(site).read("SELECT result, count FROM audit_entries")
    assert ("CREDENTIAL_INVALID", 1) in rows
    await site.start()


async def test_a_cancelled_call_is_an_entry(site: TenantSite, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, recorded = asyncio.Event(), asyncio.Event()
    record = AuditTrail.record

    async def note(*arguments: Any) -> None:
        await record(*arguments)
        recorded.set()

    async def hang(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AuditTrail, "record", note)
    monkeypatch.setattr("redoma_tenant.tenants.Tenants.get", hang)
    call = asyncio.create_task(site.call(f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme")))
    await begun.wait()
    call.cancel()
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await recorded.wait()
    found = await Auditor(site).list("platform", result="CANCELLED")
    assert found[0].resource == "tenants/acme"


async def test_heads_of_an_earlier_key_are_signed_again_at_the_start(
    site: TenantSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, renew = asyncio.Event(), AuditTrail._renew_heads

    async def note(trail: AuditTrail) -> None:
        await renew(trail)
        renewed.set()

    await site.add_tenant()
    auditor = Auditor(site)
    _, old = await auditor.export()
    await site.stop()
    monkeypatch.setattr(AuditTrail, "_renew_heads", note)
    (_, last), *_ = await Intruder(site).read("SELECT sequence, hash FROM audit_heads WHERE tenant_id = 'acme'")
    assert last != old.hash
    fresh = Ed25519PrivateKey.generate()
    key_file, jwks_file = tmp_path / "fresh.pem", tmp_path / "jwks.json"
    key_file.write_bytes(fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    keys = json.loads(site.pki.jwks_file.read_text())["keys"]
    jwks_file.write_text(json.dumps({"keys": [*keys, public_jwk(fresh.public_key())]}))
    await site.start(signing_key_file=key_file, jwks_file=jwks_file)
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await renewed.wait()
    # Tests go on to sign identities with the old key, which is still known.
    verdict = await auditor.verify()
    assert verdict.intact
    assert jwt.get_unverified_header(verdict.head.signature)["kid"] == public_jwk(fresh.public_key())["kid"]
    assert verdict.head.hash == last
