"""Hostile values in every field of every call that the edge lets in."""

import asyncio
import resource
from typing import Any

import grpc
import pytest

from redoma_kit.pages import page_token
from redoma_tenant.errors import ERRORS
from redoma_tenant.issuers import MAX_ISSUER
from tests.fakes.hostile_requests import LONG, Hostile, forged_tokens, hostile_requests, problem_of
from tests.rpc.tenant.every_method import Person, methods, sound_requests
from tests.rpc.tenant.tenant_site import TenantSite

AT_ONCE = 16
MAX_LOGGED = 1_000
MAX_GROWTH_BYTES = 512 << 20
# Lists that only the use of the model fills.
WITHOUT_ROWS = {
    "QueryUsage": page_token(("tenants/acme", "0", "0", "DAY", "model"), (0, 0, 0, "tiny")),
    "ListLedgerTransactions": page_token(("tenants/acme/ledgerTransactions", ""), (0, "x")),
}


async def tokens_for(operator: Person, name: str, fields: dict[str, Any]) -> tuple[str, ...]:
    """Gives page tokens to send: of other lists, and forged ones for this one."""
    request = operator.request(name)
    if "page_token" not in request.DESCRIPTOR.fields_by_name:
        return ()
    elsewhere = await operator.made("ListTenants", page_size=1)
    genuine = WITHOUT_ROWS.get(name) or (await operator.made(name, **fields, page_size=1)).next_page_token
    assert genuine, f"{name} has one page"
    return (elsewhere.next_page_token, *forged_tokens(genuine))


async def test_no_hostile_value_does_more_than_being_refused(
    site_on_each: TenantSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer is one of success or a documented refusal, in bounded memory, and the service lives on."""

    async def knows(_self: object, issuer: str) -> None:
        assert len(issuer) <= MAX_ISSUER

    monkeypatch.setattr("redoma_tenant.oidc.directory.OidcDirectory.check", knows)
    operator = Person(site_on_each)
    fields = await sound_requests(operator)
    assert set(fields) == {method.name for method in methods()}
    turns, found = asyncio.Semaphore(AT_ONCE), []

    async def send(name: str, hostile: Hostile) -> None:
        async with turns:
            try:
                await operator.call(name, hostile.request)
            except grpc.aio.AioRpcError as error:
                if problem := problem_of(error, ERRORS):
                    found.append(f"{name}.{hostile.field} = {hostile.value}: {problem}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, values in fields.items():
        sound = operator.request(name, **values)
        requests = hostile_requests(sound, await tokens_for(operator, name, values))
        async with asyncio.TaskGroup() as group:
            for hostile in requests:
                group.create_task(send(name, hostile))
    grown_bytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert not found, "\n".join(found)
    assert (await operator.made("GetTenant", name="tenants/acme")).tenant.name == "tenants/acme"
    for parent in ("tenants/acme", "platform"):
        assert (await operator.made("VerifyAuditChain", parent=parent)).intact
    assert grown_bytes < MAX_GROWTH_BYTES
    log = site_on_each.log_text.getvalue()
    assert '"level": "error"' not in log, [line for line in log.splitlines() if '"level": "error"' in line][:3]
    assert LONG[:MAX_LOGGED] not in log
