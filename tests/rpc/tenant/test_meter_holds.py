"""What a call may have used without anybody knowing is nobody else's to use."""

import pytest

from tests.rpc.tenant.meter_site import MeterSite, usage
from tests.rpc.tenant.tenant_site import TenantSite, failure_of_call


@pytest.fixture
async def meter(site_on_each: TenantSite) -> MeterSite:
    """A site with one tenant, without a model's journal to ask."""
    await site_on_each.add_tenant()
    return MeterSite(site_on_each)


async def test_call_whose_last_counts_are_not_known_holds_on_to_the_rest(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=150, concurrent_streams=1)
    await meter.reserve("dropped", 10, 90)
    assert await meter.settle("dropped", usage(10, 5), exact=False)
    # It runs no more, but the model may have said all 90.
    assert await meter.states() == {"concurrent_streams": (0, 0), "tokens_per_month": (15, 85)}
    assert (await failure_of_call(meter.reserve("next", 10, 50))).reason == "QUOTA_EXCEEDED"
    assert await meter.settle("dropped", usage(10, 60), exact=False)
    assert await meter.states() == {"concurrent_streams": (0, 0), "tokens_per_month": (70, 30)}


async def test_call_that_was_settled_for_sure_holds_nothing_whatever_is_said_later(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=150)
    await meter.reserve("whole", 10, 90)
    assert await meter.settle("whole", usage(10, 5))
    assert await meter.settle("whole", usage(10, 5), exact=False)
    assert await meter.states() == {"tokens_per_month": (15, 0)}
