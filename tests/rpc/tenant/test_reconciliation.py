"""What is booked of calls whose last counts nobody told: the model's journal is asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import grpc
import jwt
import pytest
from sqlalchemy import select

from redoma_kit.database import PLATFORM
from redoma_tenant.store.reservations import SqlDueCallStore
from redoma_tenant.store.schema import LEDGER_TRANSACTIONS, RESERVATIONS
from tests.conftest import TestPki
from tests.fakes.replica_directory import FakeEgress, FakeReplicaDirectory
from tests.fakes.usage_journal import FakeJournal
from tests.rpc.tenant.meter_site import MeterSite, usage
from tests.rpc.tenant.tenant_site import TenantSite

HELD_STILL = 10**6
KEYS = ("private.model-0", "private.model-1")


class Reconciled:
    """A site with a tenant and two model processes; nothing is reconciled but when a test says so."""

    def __init__(self, meter: MeterSite, journals: list[FakeJournal], provisioner: FakeReplicaDirectory) -> None:
        self.meter = meter
        self.journals = journals
        self.provisioner = provisioner

    async def show(self, *keys: str) -> None:
        """Lists the model processes of these keys, and waits until the service has heard of it."""
        await self.provisioner.show(*keys)
        models = self.meter.site.server.models
        assert models is not None
        async with asyncio.timeout(20):
            while models.replicas.known != keys:  # noqa: ASYNC110 (the service tells nobody of it)
                await asyncio.sleep(0.01)

    async def reconcile(self, after_s: float = 0) -> None:
        """Reconciles after some time."""
        self.meter.site.clock.ahead += timedelta(seconds=after_s)
        await self.meter.site.server.metering.reconciler.reconcile()

    async def states(self) -> dict[str, str]:
        """Gives the state of each call."""
        async with self.meter.site.server.database.transaction(PLATFORM) as session:
            rows = (await session.execute(select(RESERVATIONS.c.token_id, RESERVATIONS.c.state))).all()
        return {token_id: state for token_id, state in rows}  # noqa: C416 (rows are no pairs to mypy)

    async def kinds(self) -> list[str]:
        """Gives the kinds of the ledger's transactions."""
        query = select(LEDGER_TRANSACTIONS.c.kind).order_by(LEDGER_TRANSACTIONS.c.revision)
        async with self.meter.site.server.database.transaction(PLATFORM) as session:
            return list(await session.scalars(query))

    async def used(self) -> int:
        """Gives the tokens that are used for good."""
        used, held = (await self.meter.states())["tokens_per_month"]
        assert held == 0
        return used


@pytest.fixture
async def reconciled(
    migrated_url: str, pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Reconciled]:
    """A site with two model processes."""
    monkeypatch.setattr("redoma_tenant.metering.INTERVAL_S", HELD_STILL)
    site = TenantSite(pki, tmp_path, migrated_url)
    journals: list[FakeJournal] = [FakeJournal(), FakeJournal()]  # type: ignore[abstract]
    async with AsyncExitStack() as stack:
        egress = FakeEgress(pki.tls("public", "egress"))
        egress.replicas |= dict(zip(KEYS, journals, strict=True))
        provisioner = FakeReplicaDirectory(pki.tls("public", "provisioner"))
        for server in (egress, provisioner):
            await server.start()
            stack.push_async_callback(server.stop)
        await site.start(egress=egress.upstream, provisioner=provisioner.upstream)
        await site.add_tenant()
        meter = MeterSite(site)
        await meter.limit(tokens_per_month=10_000, concurrent_streams=5)
        made = Reconciled(meter, journals, provisioner)
        await made.show(*KEYS)
        yield made
        await site.stop()


async def test_a_cut_call_is_corrected_by_the_journal(reconciled: Reconciled) -> None:
    meter = reconciled.meter
    await meter.reserve("a", 10, 90)
    await meter.settle("a", usage(10, 5), exact=False)
    reconciled.journals[1].keep("a", usage(10, 9))
    await reconciled.reconcile()
    assert await reconciled.used() == 19
    assert await reconciled.kinds() == ["SETTLEMENT", "CORRECTION"]
    assert await reconciled.states() == {"a": "CLOSED"}


async def test_a_call_whose_chat_died_is_settled_by_the_journal(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    reconciled.journals[0].keep("a", usage(10, 9))
    await reconciled.reconcile(after_s=29)
    assert reconciled.journals[0].asked == []
    await reconciled.reconcile(after_s=2)
    assert await reconciled.used() == 19
    assert await reconciled.kinds() == ["SETTLEMENT"]
    assert (await reconciled.meter.states())["concurrent_streams"] == (0, 0)
    # Chat comes back, and has not heard of it.
    assert await reconciled.meter.settle("a", usage(10, 7))
    assert await reconciled.used() == 19


async def test_a_call_that_the_model_still_runs_is_waited_for(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    reconciled.journals[0].keep("a", usage(10, 4), has_ended=False)
    await reconciled.reconcile(after_s=31)
    await reconciled.reconcile(after_s=60)
    assert await reconciled.states() == {"a": "OPEN"}
    reconciled.journals[0].keep("a", usage(10, 40))
    await reconciled.reconcile(after_s=60)
    assert await reconciled.used() == 50


async def test_the_last_count_stands_where_no_model_knows_the_call(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.checkpoint("a", usage(10, 33))
    await reconciled.reconcile(after_s=31)
    assert await reconciled.states() == {"a": "OPEN"}
    await reconciled.reconcile(after_s=11)
    assert await reconciled.states() == {"a": "CLOSED"}
    assert await reconciled.used() == 43


async def test_a_call_that_never_reached_the_model_is_settled_with_nothing(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.reconcile(after_s=31)
    await reconciled.reconcile(after_s=11)
    assert await reconciled.used() == 0
    assert await reconciled.kinds() == ["SETTLEMENT"]


async def test_a_model_that_is_away_is_waited_for_but_not_for_ever(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", usage(10, 5), exact=False)
    reconciled.journals[1].is_away = True
    for _ in range(20):
        await reconciled.reconcile(after_s=60)
    assert await reconciled.states() == {"a": "SETTLED"}
    # What it holds is nobody else's, since the model may have said it.
    assert (await reconciled.meter.states())["tokens_per_month"] == (15, 85)
    await reconciled.reconcile(after_s=86_400)
    assert await reconciled.states() == {"a": "CLOSED"}
    assert await reconciled.used() == 15
    assert "without its last counts" in reconciled.meter.site.log_text.getvalue()


async def test_a_listed_model_that_has_no_way_to_it_is_waited_for(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.show(*KEYS, "private.model-2")
    await reconciled.reconcile(after_s=31)
    await reconciled.reconcile(after_s=60)
    assert await reconciled.states() == {"a": "OPEN"}
    await reconciled.show(*KEYS)
    await reconciled.reconcile(after_s=60)
    assert await reconciled.states() == {"a": "CLOSED"}


async def test_models_that_nobody_has_listed_yet_are_waited_for(
    migrated_url: str, pki: TestPki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redoma_tenant.metering.INTERVAL_S", HELD_STILL)
    site = TenantSite(pki, tmp_path, migrated_url)
    # Nobody listens at either.
    away = {
        name: {"target": "127.0.0.1:9", "server_name": f"{name}.public.redoma"} for name in ("egress", "provisioner")
    }
    await site.start(**away)
    try:
        await site.add_tenant()
        meter = MeterSite(site)
        await meter.limit(tokens_per_month=10_000, concurrent_streams=5)
        await meter.reserve("a", 10, 90)
        reconciled = Reconciled(meter, [], FakeReplicaDirectory(pki.tls("public", "provisioner")))
        await reconciled.reconcile(after_s=31)
        await reconciled.reconcile(after_s=3_600)
        assert await reconciled.states() == {"a": "OPEN"}
    finally:
        await site.stop()


async def test_what_one_model_knows_is_booked_while_another_is_away(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", usage(10, 5), exact=False)
    reconciled.journals[0].is_away = True
    # As the egress ends a call whose tunnel is cut.
    reconciled.journals[0].fails_as = grpc.StatusCode.CANCELLED
    reconciled.journals[1].keep("a", usage(10, 9))
    await reconciled.reconcile()
    assert await reconciled.used() == 19


async def test_what_two_models_did_of_one_call_is_added_up(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", usage(10, 5))
    reconciled.journals[0].keep("a", usage(10, 5))
    reconciled.journals[1].keep("a", usage(10, 7))
    await reconciled.reconcile()
    assert await reconciled.used() == 32


async def test_another_tenants_call_of_the_same_id_is_not_taken_for_it(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", usage(10, 5), exact=False)
    reconciled.journals[0].keep("a", usage(10, 80), tenant="globex")
    await reconciled.reconcile(after_s=11)
    assert await reconciled.used() == 15


async def test_a_lapsed_call_that_is_heard_of_again_goes_on(reconciled: Reconciled) -> None:
    meter = reconciled.meter
    await meter.reserve("a", 10, 90)
    await reconciled.reconcile(after_s=31)
    await meter.checkpoint("a", usage(10, 20))
    await reconciled.reconcile(after_s=11)
    assert await reconciled.states() == {"a": "OPEN"}
    await meter.settle("a", usage(10, 30))
    assert await reconciled.used() == 40


async def test_a_stuck_chat_that_goes_on_after_all_is_booked_to_the_token(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.reconcile(after_s=31)
    await reconciled.reconcile(after_s=11)
    assert await reconciled.states() == {"a": "CLOSED"}
    await reconciled.meter.settle("a", usage(10, 3), exact=False)
    reconciled.journals[0].keep("a", usage(10, 8))
    await reconciled.reconcile()
    assert await reconciled.used() == 18
    assert await reconciled.kinds() == ["SETTLEMENT", "CORRECTION", "CORRECTION"]


async def test_the_identity_that_asks_is_for_that_alone(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", None, exact=False)
    await reconciled.reconcile()
    claims = jwt.decode(reconciled.journals[0].identities[0], options={"verify_signature": False})
    assert (claims["sub"], claims["tenant"], claims["aud"]) == ("platform/meter", "", ["model"])
    assert claims["scopes"] == ["platform.admin"]
    assert claims["method"] == "/redoma.model.v1.EngineService/ListUsageRecords"


async def test_exact_settlements_ask_nobody(reconciled: Reconciled) -> None:
    await reconciled.meter.reserve("a", 10, 90)
    await reconciled.meter.settle("a", usage(10, 5))
    await reconciled.reconcile(after_s=3_600)
    assert reconciled.journals[0].asked == []


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_replicas_share_what_is_due(reconciled: Reconciled, pki: TestPki, tmp_path: Path) -> None:
    first = reconciled.meter.site
    for index in range(5):
        await reconciled.meter.reserve(str(index), 10, 90)
    (tmp_path / "other").mkdir()
    other = TenantSite(pki, tmp_path / "other", first.database_url, first.clock)
    await other.start()
    try:
        # What they do in the background would claim first.
        for site in (first, other):
            await site.server.metering.stop()
        first.clock.ahead += timedelta(seconds=31)
        stores = [SqlDueCallStore(site.server.database) for site in (first, other)]
        claimed = await asyncio.gather(*(store.claim_due(first.clock(), 100) for store in stores))
        due = [call.token_id for calls in claimed for call in calls]
        assert sorted(due) == [str(index) for index in range(5)]
    finally:
        await other.stop()
