"""The fake driver behaves as every driver does, so that what is tested on it holds of the others."""

import asyncio

import pytest

from redoma_provisioner.network.driver import DesiredListener, DesiredNetwork
from tests.fakes.driver_suite import Case, cases, holds, join
from tests.fakes.network_driver import FakeDriver, FakeNetwork
from tests.unit.provisioner.network.fake_lab import ABILITIES, FakeLab


@pytest.mark.parametrize("case", cases(*ABILITIES), ids=lambda case: case.__name__)
async def test_driver(case: Case) -> None:
    await case(FakeLab())


async def test_matched_may_lag_behind_what_is_reachable() -> None:
    lab = FakeLab()
    ends = await join(lab)
    key = f"{ends.site}.model-0"
    lab.network.let_lag(key, ends.site)
    await lab.cut(ends.site)
    seen = (await ends.seen_here()).listeners[key].conditions
    assert holds(seen, "Matched") is True
    assert holds(seen, "Reachable") is False


async def test_changes_wake_those_who_wait() -> None:
    network = FakeNetwork()
    driver = FakeDriver(network, "public")
    changes = driver.changes()
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    await driver.apply(DesiredNetwork("public", listeners=(DesiredListener("a.model-0", "a"),)))
    await asyncio.wait_for(waiting, 5.0)
    await changes.aclose()
