"""Who runs the machine gets back in when every operator's key is lost, and the audit trail tells of it."""

import asyncio

from redoma.tenant.v1 import audit_pb2, audit_pb2_grpc
from redoma_tenant.recovery import ACTION, operator_key
from redoma_tenant.server import SCHEMA
from redoma_tenant.settings import TenantSettings
from tests.rpc.tenant.tenant_site import TENANTS, TenantSite, claims_in

LIST_TENANTS = f"{TENANTS}ListTenants"


async def test_a_key_made_on_the_machine_works_at_once_and_is_on_record(site: TenantSite) -> None:
    settings = TenantSettings(
        tls=site.pki.tls("public", "tenant"),
        jwks_file=site.pki.jwks_file,
        database_url=f"sqlite+aiosqlite:///{site.database_file}",
        signing_key_file=site.pki.authority.signing_key,
    )
    key = (await asyncio.to_thread(operator_key, settings, SCHEMA)).strip()
    claims = claims_in(await site.check(key, LIST_TENANTS))
    assert claims["scopes"] == ["platform.admin"]
    stub = audit_pb2_grpc.AuditServiceStub(site.channel())
    metadata = site.pki.metadata(
        ["tenant"],
        tenant="",
        scopes=("platform.admin",),
        method="/redoma.tenant.v1.AuditService/ListAuditEntries",
    )
    request = audit_pb2.ListAuditEntriesRequest(parent="platform", action=ACTION)
    entries = (await stub.ListAuditEntries(request, metadata=metadata, timeout=30)).audit_entries
    assert [entry.resource for entry in entries] == [claims["sub"]]
