"""MeterService: what calls hold, what is counted of them, and what is booked."""

import pytest

from tests.rpc.tenant.meter_site import MeterSite, usage
from tests.rpc.tenant.tenant_site import TenantSite, failure_of_call


@pytest.fixture
async def meter(site_on_each: TenantSite) -> MeterSite:
    """A site with one tenant."""
    await site_on_each.add_tenant()
    return MeterSite(site_on_each)


async def test_reserve_holds_and_settle_lets_go(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=1_000, concurrent_streams=2)
    reserved = await meter.reserve("a", 10, 90)
    assert (reserved.granted_output_tokens, reserved.lease.seconds) == (90, 30)
    assert await meter.states() == {"concurrent_streams": (0, 1), "tokens_per_month": (0, 100)}
    assert await meter.settle("a", usage(10, 5))
    assert await meter.states() == {"concurrent_streams": (0, 0), "tokens_per_month": (15, 0)}


async def test_refusal_says_which_limit_and_what_is_left(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=1_000)
    await meter.reserve("a", 10, 890)
    failure = await failure_of_call(meter.reserve("b", 10, 91))
    assert failure.reason == "QUOTA_EXCEEDED"
    print(failure)
