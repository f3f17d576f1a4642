"""What is published is checked and kept first; what is not valid is withheld, and said."""

import asyncio
import io
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from redoma_kit.errors import StorageUnavailable
from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry
from redoma_provisioner.edge.encoding import Encoder, envoy_descriptors
from redoma_provisioner.edge.incremental import Incremental
from redoma_provisioner.edge.metrics import EdgeMetrics
from redoma_provisioner.edge.proxy import Proxy
from redoma_provisioner.edge.publisher import Publisher
from redoma_provisioner.edge.record import MAX_CHANGES, SnapshotRecord, changes_between
from redoma_provisioner.edge.snapshot import CLUSTER, Snapshot
from redoma_provisioner.edge.state import EgressState
from tests.fakes.control_plane import MemorySnapshots
from tests.unit.provisioner.edge.sites import an_egress, busy, skupper

START = datetime(2026, 11, 20, tzinfo=UTC)


class Clock:
    """A clock that is a second later each time it is asked."""

    def __init__(self) -> None:
        self.seconds = 0

    def __call__(self) -> datetime:
        self.seconds += 1
        return START + timedelta(seconds=self.seconds)


class FullStore(MemorySnapshots):
    """Keeps nothing."""

    async def add(self, proxy: str, record: SnapshotRecord, snapshot: Snapshot) -> None:
        """See SnapshotStore."""
        raise StorageUnavailable()


class Site:
    """A publisher and an egress, as one process has them."""

    def __init__(self, store: MemorySnapshots) -> None:
        self.log_text = io.StringIO()
        log = structlog.wrap_logger(structlog.PrintLogger(self.log_text))
        telemetry = Telemetry("provisioner", MetricsSettings(), TracingSettings())
        self.publisher = Publisher(Encoder(envoy_descriptors()), store, Clock(), log)
        self.egress = Proxy("egress", "spiffe://redoma/public/egress", EdgeMetrics(telemetry))

    async def publish(self, state: EgressState, cause: str = "the test") -> None:
        """Has the egress lead there."""
        await self.publisher.publish(self.egress, lambda: an_egress(state), cause)

    @property
    def version(self) -> str:
        """The version that is served."""
        assert self.egress.served is not None
        return self.egress.served.snapshot.version


async def test_invalid_snapshot_is_withheld_until_a_valid_one_comes() -> None:
    site = Site(MemorySnapshots())
    await site.publish(EgressState())
    former = site.version
    await site.publish(EgressState(replicas=(skupper(0), skupper(0))))
    assert "replica/hospital-a.model-0" in site.egress.withheld
    assert site.version == former
    assert site.log_text.getvalue().count("withheld") == 1
    await site.publish(EgressState(replicas=(skupper(0),)))
    assert site.egress.withheld == ""
    assert site.version != former


async def test_going_back_to_what_is_served_withholds_nothing() -> None:
    site = Site(MemorySnapshots())
    await site.publish(EgressState())
    await site.publish(EgressState(replicas=(skupper(0), skupper(0))))
    await site.publish(EgressState())
    assert site.egress.withheld == ""


async def test_same_state_again_changes_nothing_and_wakes_nobody() -> None:
    store = MemorySnapshots()
    site = Site(store)
    await site.publish(busy(), "first")
    with site.egress.watched(Incremental(Clock())) as woken:
        await site.publish(busy(), "second")
        assert not woken.is_set()
        assert store.kept["egress"][0].cause == "first"
        await site.publish(EgressState(), "third")
        assert woken.is_set()


async def test_what_can_not_be_kept_is_not_served() -> None:
    site = Site(FullStore())
    with pytest.raises(StorageUnavailable):
        await site.publish(EgressState())
    assert site.egress.served is None


async def test_another_process_serves_on_what_was_served_last() -> None:
    store = MemorySnapshots()
    first, second = Site(store), Site(store)
    await first.publish(busy())
    await second.publisher.resume(second.egress)
    assert second.version == first.version
    assert second.egress.record == first.egress.record
    await second.publish(busy())
    assert second.egress.record == first.egress.record


async def test_kept_snapshot_that_is_not_valid_any_more_is_not_served() -> None:
    store = MemorySnapshots()
    record = SnapshotRecord("0", START, "long ago", ())
    await store.add("egress", record, Snapshot({CLUSTER: {"c": {"field_of_former_times": 1}}}))
    site = Site(store)
    await site.publisher.resume(site.egress)
    assert site.egress.served is None
    assert "field_of_former_times" in site.log_text.getvalue()


async def test_snapshots_come_one_after_the_other() -> None:
    site = Site(MemorySnapshots())
    states = [EgressState(replicas=tuple(skupper(number) for number in range(count))) for count in range(6)]
    await asyncio.gather(*(site.publish(state) for state in states))
    assert site.version == an_egress(states[-1]).version


def test_changes_are_told_in_words() -> None:
    former = an_egress(EgressState(replicas=(skupper(0),)))
    after = an_egress(EgressState(replicas=(skupper(1),)))
    assert changes_between(former, after) == (
        "cluster replica/hospital-a.model-0 removed",
        "cluster replica/hospital-a.model-1 added",
        "endpoints models changed",
        "endpoints replica/hospital-a.model-0 removed",
        "endpoints replica/hospital-a.model-1 added",
        "routes services changed",
    )
    many = an_egress(EgressState(replicas=tuple(skupper(number) for number in range(100))))
    told = changes_between(former, many)
    assert len(told) == MAX_CHANGES
    assert told[-1].startswith("and ")
