"""The tenant service while its PostgreSQL goes away and comes back."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from redoma.tenant.v1 import tenant_pb2
from redoma_tenant.server import MIGRATIONS, SCHEMA
from tests.conftest import TestPki
from tests.fakes.postgres import PostgresServer
from tests.rpc.tenant.tenant_site import CALL_TIMEOUT_S, TENANTS, TenantSite, failure_of_call, failure_or_none

GET = (f"{TENANTS}GetTenant", tenant_pb2.GetTenantRequest(name="tenants/acme"))


@pytest.fixture
async def site(postgres_server: PostgresServer, pki: TestPki, tmp_path: Path) -> AsyncIterator[TenantSite]:
    """A running service on PostgreSQL."""
    name = await asyncio.to_thread(postgres_server.create_migrated, SCHEMA, MIGRATIONS)
    site = TenantSite(pki, tmp_path, postgres_server.url(name))
    await site.start()
    yield site
    await site.stop()
    postgres_server.drop_database(name)


async def test_a_server_that_is_away_is_refused_in_neutral_words_and_found_again(
    site: TenantSite, postgres_server: PostgresServer
) -> None:
    await site.add_tenant()
    postgres_server.stop()
    try:
        failure = await failure_of_call(site.call(*GET))
    finally:
        postgres_server.start()
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
    assert failure.retry_after_s is not None
    assert not {"postgres", "socket", "connect"} & set(failure.message.lower().split())
    async with asyncio.timeout(CALL_TIMEOUT_S):
        while (outcome := await failure_or_none(site.call(*GET))) is not None:  # noqa: ASYNC110 (a retry)
            # As a client is told to. What was refused meanwhile is written to the audit trail first.
            await asyncio.sleep(outcome.retry_after_s or 0.0)


async def test_a_failover_between_two_calls_is_not_noticed(site: TenantSite, postgres_server: PostgresServer) -> None:
    created = await site.add_tenant()
    postgres_server.stop(signal.SIGQUIT)
    postgres_server.start()
    assert (await site.call(*GET)).tenant == created


async def test_what_was_answered_survives_a_crash_and_what_was_refused_left_nothing(
    site: TenantSite, postgres_server: PostgresServer
) -> None:
    """Tenants are made while the server crashes: each is there if its call succeeded; none is there by half."""

    async def make(number: int) -> str | None:
        failure = await failure_or_none(site.add_tenant(f"t{number}"))
        return None if failure is not None else f"t{number}"

    before = [await make(number) for number in range(3)]
    during = [asyncio.create_task(make(number)) for number in range(3, 23)]
    await asyncio.wait(during, return_when=asyncio.FIRST_COMPLETED)
    postgres_server.stop(signal.SIGQUIT)
    postgres_server.start()
    made = {*before, *await asyncio.gather(*during)} - {None}
    response = await site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest(page_size=100))
    assert made <= {tenant.name.removeprefix("tenants/") for tenant in response.tenants}
