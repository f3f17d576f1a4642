"""MeterService: what calls hold, what is counted of them, and what is booked."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from redoma.common.v1 import error_reason_pb2 as reasons
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.tenant.v1 import meter_pb2, meter_pb2_grpc, quota_pb2
from redoma.tenant.v1.quota_pb2 import AT_LIMIT_FINISH, Limits
from redoma_kit.database import PLATFORM
from redoma_tenant.store.schema import LEDGER_ENTRIES, LEDGER_TRANSACTIONS
from tests.conftest import TestPki
from tests.rpc.tenant.meter_site import MeterSite, usage
from tests.rpc.tenant.tenant_site import CALL_TIMEOUT_S, TenantSite, failure_of_call


@pytest.fixture
async def meter(site_on_each: TenantSite) -> MeterSite:
    """A site with one tenant."""
    await site_on_each.add_tenant()
    return MeterSite(site_on_each)


async def key_of(meter: MeterSite, **limits: int) -> str:
    """Makes a key with limits of its own and gives its name."""
    made = await meter.site.add_key(limits=Limits(**limits))
    return str(made.api_key.name)


async def ledger(meter: MeterSite) -> dict[str, int]:
    """Gives the ledger's sums of the tenant's account, by unit."""
    columns = LEDGER_ENTRIES.c
    async with meter.site.server.database.transaction(PLATFORM) as session:
        rows = (await session.execute(select(columns.account, columns.unit, columns.amount))).all()
    sums: dict[str, int] = {}
    for account, unit, amount in rows:
        if account != "platform/served":
            sums[unit] = sums.get(unit, 0) + amount
    return sums


async def kinds(meter: MeterSite) -> list[tuple[str, int, str]]:
    """Gives kind, revision and model of each transaction."""
    columns = LEDGER_TRANSACTIONS.c
    query = select(columns.kind, columns.revision, columns.model).order_by(columns.token_id, columns.revision)
    async with meter.site.server.database.transaction(PLATFORM) as session:
        return [(kind, revision, model) for kind, revision, model in (await session.execute(query)).all()]


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
    assert failure.metadata == {
        "limit": "tokens_per_month", "scope": "tenant", "limit_value": "1000", "remaining": "100",
    }  # fmt: skip
    assert [violation.subject for violation in failure.violations] == ["tenants/acme"]
    assert "100 left" in failure.violations[0].description
    assert await meter.states() == {"tokens_per_month": (0, 900)}
    await meter.reserve("b", 10, 90)


@pytest.mark.parametrize(
    ("limits", "limit", "most_wait_s"),
    [
        ({"requests_per_minute": 1}, "requests_per_minute", 60),
        ({"tokens_per_minute": 150}, "tokens_per_minute", 60),
        ({"concurrent_streams": 1}, "concurrent_streams", 1),
        ({"tokens_per_day": 150}, "tokens_per_day", 1),
        ({"tokens_per_month": 150}, "tokens_per_month", 1),
        ({"budget_micros_per_month": 150}, "budget_micros_per_month", 1),
    ],
)
async def test_each_limit_refuses_and_says_when_to_come_back(
    site: TenantSite, limits: dict[str, int], limit: str, most_wait_s: float
) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.set_price("*", 1_000_000, 0, 1_000_000)
    await meter.limit(**limits)
    await meter.reserve("a", 10, 90)
    failure = await failure_of_call(meter.reserve("b", 10, 90))
    assert (failure.reason, failure.metadata["limit"]) == ("QUOTA_EXCEEDED", limit)
    assert failure.retry_after_s is not None
    assert 0 < failure.retry_after_s <= most_wait_s


@pytest.mark.parametrize("limit", ["requests_per_minute", "concurrent_streams", "tokens_per_day", "tokens_per_month"])
async def test_a_limit_of_zero_allows_nothing_and_waiting_does_not_help(site: TenantSite, limit: str) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.limit(**{limit: 0})
    failure = await failure_of_call(meter.reserve("a", 1, 1))
    assert (failure.metadata["limit"], failure.metadata["remaining"]) == (limit, "0")
    assert failure.retry_after_s is None


async def test_what_is_used_for_good_is_back_when_the_period_ends(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.limit(tokens_per_day=100)
    await meter.reserve("a", 10, 90)
    await meter.settle("a", usage(10, 90))
    failure = await failure_of_call(meter.reserve("b", 10, 90))
    now = site.clock()
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    assert failure.retry_after_s == pytest.approx((midnight - now).total_seconds(), abs=5)
    site.clock.ahead += timedelta(days=1)
    await meter.reserve("b", 10, 90)


async def test_a_call_counts_in_the_day_it_began_in(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.limit(tokens_per_day=100)
    await meter.reserve("a", 10, 90)
    site.clock.ahead += timedelta(days=1)
    assert await meter.states() == {"tokens_per_day": (0, 0)}
    await meter.reserve("b", 10, 90)
    await meter.settle("a", usage(10, 90))
    assert await meter.states() == {"tokens_per_day": (0, 100)}


async def test_a_second_reserve_holds_nothing_more(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=150)
    first = await meter.reserve("a", 10, 90)
    assert (await meter.reserve("a", 10, 90)).granted_output_tokens == first.granted_output_tokens
    assert await meter.states() == {"tokens_per_month": (0, 100)}


async def test_an_identity_is_good_for_one_call(meter: MeterSite) -> None:
    await meter.reserve("a")
    await meter.settle("a", usage(10, 1))
    assert (await failure_of_call(meter.reserve("a"))).reason == "CREDENTIAL_INVALID"


async def test_a_call_reserved_twice_is_left_to_the_journal(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=1_000)
    await meter.reserve("a", 10, 90)
    await meter.reserve("a", 10, 90)
    await meter.settle("a", usage(10, 5), exact=True)
    # Another chat may have had 90 tokens of it.
    assert await meter.states() == {"tokens_per_month": (15, 85)}


async def test_a_call_without_a_bound_asks_for_more_until_a_limit_ends_it(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=2_500)
    assert (await meter.reserve("a", 100, 0)).granted_output_tokens == 1_024
    assert (await meter.checkpoint("a", usage(100, 1_000), 5_000)).granted_output_tokens == 2_048
    last = await meter.checkpoint("a", usage(100, 2_000), 1_024)
    assert (last.granted_output_tokens, last.end) == (2_400, 0)
    verdict = await meter.checkpoint("a", usage(100, 2_400), 1_024)
    assert (verdict.granted_output_tokens, verdict.end) == (2_400, ErrorReason.ERROR_REASON_QUOTA_EXCEEDED)
    assert (verdict.limit, verdict.limit_value) == ("tokens_per_month", 2_500)
    assert verdict.retry_delay.seconds > 0
    await meter.settle("a", usage(100, 2_400))
    assert await meter.states() == {"tokens_per_month": (2_500, 0)}


async def test_a_grant_never_goes_beyond_the_budget(meter: MeterSite) -> None:
    await meter.set_price("*", 1_000_000, 0, 3_000_000)
    await meter.limit(budget_micros_per_month=1_000)
    assert (await meter.reserve("a", 100, 0)).granted_output_tokens == 300
    await meter.settle("a", usage(100, 300))
    assert await meter.states() == {"budget_micros_per_month": (1_000, 0)}


async def test_an_answer_may_finish_where_the_plan_says_so(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=150)
    quota = quota_pb2.Quota(name="tenants/acme/quota", at_limit=AT_LIMIT_FINISH)
    await meter.operate("UpdateQuota", quota_pb2.UpdateQuotaRequest(quota=quota))
    assert not (await meter.reserve("a", 10, 90)).HasField("granted_output_tokens")
    assert (await meter.checkpoint("a", usage(10, 500), 100)).end == 0
    await meter.settle("a", usage(10, 900))
    assert await meter.states() == {"tokens_per_month": (910, 0)}
    assert (await failure_of_call(meter.reserve("b", 1, 1))).metadata["remaining"] == "0"


async def test_checkpoints_count_while_a_call_runs_and_only_grow(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=1_000)
    await meter.reserve("a", 10, 90)
    await meter.checkpoint("a", usage(10, 50))
    assert await meter.states() == {"tokens_per_month": (60, 40)}
    await meter.checkpoint("a", usage(10, 20))
    assert await meter.states() == {"tokens_per_month": (60, 40)}
    await meter.settle("a", usage(10, 30))
    assert await meter.states() == {"tokens_per_month": (60, 0)}
    assert await ledger(meter) == {"input_tokens": 10, "output_tokens": 50}


async def test_tokens_of_the_minute_flow_back(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.limit(tokens_per_minute=1_000)
    await meter.reserve("a", 10, 890)
    # What may still be said does not flow back; what was said does.
    site.clock.ahead += timedelta(seconds=30)
    assert (await failure_of_call(meter.reserve("b", 100, 100))).metadata["remaining"] == "100"
    await meter.settle("a", usage(10, 590))
    reserved = await meter.reserve("b", 100, 100)
    tokens = reserved.rate_limits.tokens
    assert (tokens.limit, reserved.rate_limits.HasField("requests")) == (1_000, False)
    assert 200 <= tokens.remaining <= 250
    assert 30 < tokens.reset.seconds <= 36


async def test_a_key_has_limits_of_its_own(meter: MeterSite) -> None:
    await meter.limit(tokens_per_month=1_000)
    meter.principal = await key_of(meter, tokens_per_month=150, requests_per_minute=5)
    reserved = await meter.reserve("a", 10, 90)
    assert (reserved.rate_limits.requests.limit, reserved.rate_limits.requests.remaining) == (5, 4)
    failure = await failure_of_call(meter.reserve("b", 10, 90))
    assert (failure.metadata["scope"], failure.metadata["limit_value"]) == ("key", "150")
    assert [violation.subject for violation in failure.violations] == [meter.principal]
    meter.principal = await key_of(meter)
    await meter.reserve("b", 10, 90)
    assert await meter.states() == {"tokens_per_month": (0, 200)}


async def test_a_running_call_ends_when_its_key_is_revoked_or_its_tenant_disabled(meter: MeterSite) -> None:
    meter.principal = await key_of(meter)
    await meter.reserve("a")
    await meter.revoke_key(meter.principal)
    assert (await meter.checkpoint("a", usage(10, 1))).end == reasons.ERROR_REASON_CREDENTIAL_REVOKED
    assert (await failure_of_call(meter.reserve("b"))).reason == "CREDENTIAL_REVOKED"
    await meter.disable_tenant()
    assert (await meter.checkpoint("a", usage(10, 1))).end == reasons.ERROR_REASON_TENANT_DISABLED
    assert (await failure_of_call(meter.reserve("c"))).reason == "TENANT_DISABLED"
    assert await meter.settle("a", usage(10, 2))


async def test_what_nothing_is_held_for_is_told_so(meter: MeterSite) -> None:
    await meter.reserve("known")
    calls = [
        meter_pb2.RunningCall(tenant=tenant, token_id=token_id)
        for tenant, token_id in (("acme", "unknown"), ("globex", "known"), ("acme", "known"))
    ]
    answer = await meter.chat.Checkpoint(meter_pb2.CheckpointRequest(calls=calls), timeout=CALL_TIMEOUT_S)
    missing = reasons.ERROR_REASON_RESOURCE_NOT_FOUND
    assert [verdict.end for verdict in answer.verdicts] == [missing, missing, 0]
    settlements = [meter_pb2.Settlement(tenant=call.tenant, token_id=call.token_id) for call in calls]
    response = await meter.chat.Settle(meter_pb2.SettleRequest(settlements=settlements), timeout=CALL_TIMEOUT_S)
    assert list(response.settled) == [False, False, True]


async def test_a_settlement_is_booked_once(meter: MeterSite) -> None:
    await meter.set_price("m", 2_000_000, 500_000, 5_000_000)
    await meter.reserve("a", 10, 90, "m")
    for _ in range(3):
        assert await meter.settle("a", usage(10, 7, cached=4, reasoning=2))
    cost = (6 * 2_000_000 + 4 * 500_000 + 7 * 5_000_000) // 1_000
    assert await ledger(meter) == {
        "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 7, "reasoning_tokens": 2, "cost_nanos": cost,
    }  # fmt: skip
    assert await kinds(meter) == [("SETTLEMENT", 0, "m")]


async def test_a_call_that_used_nothing_is_booked_without_entries(meter: MeterSite) -> None:
    await meter.reserve("a")
    assert await meter.settle("a", None, model="")
    assert await ledger(meter) == {}
    assert await kinds(meter) == [("SETTLEMENT", 0, "")]


async def test_a_price_is_the_one_of_the_beginning(meter: MeterSite) -> None:
    await meter.set_price("m", 1_000_000, 0, 1_000_000)
    await meter.reserve("a", 10, 90, "m")
    await meter.set_price("m", 9_000_000, 0, 9_000_000)
    await meter.settle("a", usage(10, 10))
    assert (await ledger(meter))["cost_nanos"] == 20_000


async def test_an_alias_is_held_at_the_dearest_price_and_booked_at_its_models(meter: MeterSite) -> None:
    await meter.set_price("m", 1_000_000, 0, 1_000_000)
    await meter.set_price("dear", 5_000_000, 0, 2_000_000)
    await meter.limit(budget_micros_per_month=10_000)
    await meter.reserve("a", 10, 90, "gpt-4o")
    assert await meter.states() == {"budget_micros_per_month": (0, 230)}
    await meter.settle("a", usage(10, 90), model="m")
    assert await meter.states() == {"budget_micros_per_month": (100, 0)}


async def test_a_call_is_known_to_be_settled_after_it_was_forgotten(meter: MeterSite) -> None:
    await meter.reserve("a")
    await meter.settle("a", usage(10, 5))
    meter.site.clock.ahead += timedelta(days=8)
    await meter.site.server.metering.reconciler.prune()
    assert await meter.settle("a", usage(10, 5))
    assert await ledger(meter) == {"input_tokens": 10, "output_tokens": 5}


async def test_calls_at_once_never_pass_a_budget_and_share_transactions(meter: MeterSite) -> None:
    await meter.set_price("*", 1_000_000, 0, 1_000_000)
    await meter.limit(budget_micros_per_month=2_050)
    begun: list[object] = []
    engine = meter.site.server.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: begun.append(given[2]))
    outcomes = await asyncio.gather(*(meter.reserve(f"call-{i}", 10, 90) for i in range(50)), return_exceptions=True)
    assert sum(isinstance(outcome, meter_pb2.ReserveResponse) for outcome in outcomes) == 20
    assert await meter.states() == {"budget_micros_per_month": (0, 2_000)}
    assert len([text for text in begun if "INSERT INTO quota_counters" in str(text)]) < 40


@pytest.mark.parametrize("migrated_url", ["postgresql"], indirect=True)
async def test_two_replicas_never_pass_a_budget_together(migrated_url: str, pki: TestPki, tmp_path: Any) -> None:
    sites = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        sites.append(TenantSite(pki, tmp_path / name, migrated_url))
        await sites[-1].start()
    try:
        await sites[0].add_tenant()
        meters = [MeterSite(site) for site in sites]
        await meters[0].set_price("*", 1_000_000, 0, 1_000_000)
        await meters[0].limit(budget_micros_per_month=2_050)
        calls = (meters[i % 2].reserve(f"call-{i}", 10, 90) for i in range(50))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        held = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, meter_pb2.ReserveResponse)]
        assert len(held) == 20
        # The other replica settles, twice and at once.
        for _ in range(2):
            await asyncio.gather(*(meters[(i + 1) % 2].settle(f"call-{i}", usage(10, 90)) for i in held))
        assert await meters[1].states() == {"budget_micros_per_month": (2_000, 0)}
        assert (await ledger(meters[0]))["cost_nanos"] == 2_000_000
    finally:
        for site in sites:
            await site.stop()


async def test_without_its_store_the_meter_refuses(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.reserve("a")
    site.database_file.rename(site.folder / "away.db")
    for call in (meter.reserve("b"), meter.checkpoint("a"), meter.settle("a")):
        assert (await failure_of_call(call)).reason == "STORAGE_UNAVAILABLE"


async def test_only_chat_may_call_the_meter(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    meter.chat = meter_pb2_grpc.MeterServiceStub(site.channel("edge"))
    for call in (meter.reserve("b"), meter.checkpoint("a"), meter.settle("a")):
        assert (await failure_of_call(call)).reason == "METHOD_DENIED"


async def test_an_operators_call_is_not_metered(site: TenantSite) -> None:
    meter = MeterSite(site)
    assert (await failure_of_call(meter.reserve(tenant="", sub="platform/bootstrap"))).reason == "CREDENTIAL_INVALID"
    assert (await failure_of_call(meter.reserve())).reason == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("input_tokens", {"input_tokens": -1}),
        ("input_tokens", {"input_tokens": 10**9}),
        ("max_output_tokens", {"max_output_tokens": -1}),
        ("model", {"model": "a b"}),
    ],
)
async def test_what_can_not_be_held_is_refused(site: TenantSite, field: str, values: dict[str, Any]) -> None:
    await site.add_tenant()
    failure = await failure_of_call(MeterSite(site).reserve(**values))
    assert (failure.reason, failure.metadata) == ("INVALID_FIELD", {"field": field})


async def test_too_many_calls_at_once_are_refused(site: TenantSite) -> None:
    calls = [meter_pb2.RunningCall(tenant="acme", token_id="a")] * 4_097
    stub = MeterSite(site).chat
    failure = await failure_of_call(stub.Checkpoint(meter_pb2.CheckpointRequest(calls=calls), timeout=CALL_TIMEOUT_S))
    assert failure.metadata == {"field": "calls"}
    settlement = meter_pb2.Settlement(tenant="no tenant", token_id="a")
    failure = await failure_of_call(
        stub.Settle(meter_pb2.SettleRequest(settlements=[settlement]), timeout=CALL_TIMEOUT_S)
    )
    assert failure.metadata == {"field": "settlements[0].tenant"}


async def test_operators_are_warned_once_when_a_limit_runs_low(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    await meter.limit(tokens_per_month=1_000)
    for index, output in enumerate((780, 100, 30)):
        await meter.reserve(str(index), 10, output)
        await meter.settle(str(index), usage(10, output))
    warnings = [
        (line["tenant"], line["limit"], line["reached_percent"])
        for line in map(json.loads, site.log_text.getvalue().splitlines())
        if line["event"] == "a quota runs low"
    ]
    assert warnings == [("acme", "tokens_per_month", 80)]
    await meter.reserve("last", 10, 30)
    await meter.settle("last", usage(10, 30))
    assert '"reached_percent": 95' in site.log_text.getvalue()
    [state] = (await meter.quota()).states
    assert state.warning_percent == 95


async def test_revocations_are_told_and_told_again_to_who_comes_back(site: TenantSite) -> None:
    await site.add_tenant()
    meter = MeterSite(site)
    watching = meter.chat.WatchRevocations(meter_pb2.WatchRevocationsRequest(), timeout=CALL_TIMEOUT_S)
    first = await anext(aiter(watching))
    assert not first.HasField("revocation")
    await meter.disable_tenant()
    async for told in watching:
        if told.HasField("revocation"):
            break
    assert (told.revocation.tenant, told.revocation.principal) == ("acme", "")
    assert told.revocation.reason == reasons.ERROR_REASON_TENANT_DISABLED
    watching.cancel()
    request = meter_pb2.WatchRevocationsRequest(after_position=first.position)
    again = await anext(aiter(meter.chat.WatchRevocations(request, timeout=CALL_TIMEOUT_S)))
    assert again.revocation.reason == reasons.ERROR_REASON_TENANT_DISABLED


async def test_the_watch_ends_when_the_service_stops(site: TenantSite) -> None:
    meter = MeterSite(site)
    watching = meter.chat.WatchRevocations(meter_pb2.WatchRevocationsRequest(), timeout=CALL_TIMEOUT_S)
    await anext(aiter(watching))

    async def read_on() -> None:
        async for _ in watching:
            pass

    _, failure = await asyncio.gather(site.server.grpc.stop(20.0), failure_of_call(read_on()))
    assert failure.reason == "SHUTTING_DOWN"
