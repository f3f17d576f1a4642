"""The arithmetic of grants and leases, and the sender of settlements, without a service around them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from redoma_chat.errors import CredentialRevoked, QuotaExceeded, QuotaUnavailable
from redoma_chat.inference import FinishReason, RateLimit, RateLimits, Usage
from redoma_chat.metering.grant import Grant
from redoma_chat.metering.meter import CallKey, Progress, Reservation, Revocation, Seen, Settlement, Verdict
from redoma_chat.metering.running_call import EARLY_TOKENS, SLICE_TOKENS, RunningCall, Wanted
from redoma_chat.metering.running_calls import RunningCalls
from redoma_chat.metering.settlements import MOST_AT_ONCE, Settlements
from redoma_chat.rate_limit_headers import duration, rate_limit_headers
from redoma_kit.errors import StorageUnavailable

LOG = structlog.wrap_logger(structlog.ReturnLogger())
KEY = CallKey("acme", "call")


def running_call(granted: int | None, most: int, ask: list[int] | None = None, lease_s: float = 30.0) -> RunningCall:
    asked = [] if ask is None else ask
    reservation = Reservation(granted, lease_s)
    return RunningCall(KEY, "tenants/acme/apiKeys/one", reservation, Wanted(5, most), 100.0, lambda: asked.append(1))


def said(tokens: int) -> Usage:
    return Usage(5, 0, tokens, 0)


def settlement(number: int = 0) -> Settlement:
    return Settlement(CallKey("acme", str(number)), said(number), exact=True)


class TestGrants:
    async def test_more_is_asked_for_once_and_before_it_is_needed(self) -> None:
        asks: list[int] = []
        call = running_call(SLICE_TOKENS, 5_000, asks)
        for tokens in range(1, SLICE_TOKENS):
            call.note(said(tokens))
            assert len(asks) == (tokens >= SLICE_TOKENS - EARLY_TOKENS)
        assert call.progress() == Progress(KEY, said(SLICE_TOKENS - 1), SLICE_TOKENS)

    async def test_call_whose_bound_is_granted_asks_for_nothing(self) -> None:
        asks: list[int] = []
        call = running_call(40, 40, asks)
        call.note(said(40))
        assert not asks
        assert call.growing_grant is None
        assert call.progress().wanted_tokens == 0

    async def test_no_more_is_wanted_than_it_can_say(self) -> None:
        call = running_call(SLICE_TOKENS, SLICE_TOKENS + 10)
        call.note(said(SLICE_TOKENS - 1))
        assert call.progress().wanted_tokens == 10

    @given(grants=st.lists(st.none() | st.integers(1, 9_000), max_size=8), most=st.integers(1, 8_192))
    def test_grant_never_shrinks_and_never_exceeds_what_the_meter_said(
        self, grants: list[int | None], most: int
    ) -> None:
        async def live() -> None:
            call = running_call(SLICE_TOKENS, most)
            allowed = min(SLICE_TOKENS, most)
            for granted in grants:
                call.decide(Verdict(granted), 0.0)
                allowed = max(allowed, most if granted is None else min(granted, most))
                assert (call.growing_grant.tokens if call.growing_grant else most) == allowed

        asyncio.run(live())

    async def test_raises_are_told_in_order_and_the_newest_is_enough(self) -> None:
        grant = Grant(10)
        async with aclosing(grant.raises(10)) as raises:
            first = asyncio.ensure_future(anext(raises))
            await asyncio.sleep(0)
            grant.raise_to(9)
            grant.raise_to(20)
            grant.raise_to(30)
            assert await first == 30
            grant.raise_to(40)
            assert await anext(raises) == 40

    async def test_cut_call_is_told_which_limit_it_was(self) -> None:
        call = running_call(20, 5_000)
        call.done(said(20), FinishReason.LENGTH)
        assert call.was_cut
        call.decide(Verdict(20, QuotaExceeded("x", {"limit": "tokens_per_day"})), 0.0)
        with pytest.raises(QuotaExceeded):
            await call.check_cut(5)

    async def test_call_that_ended_at_its_own_bound_was_not_cut(self) -> None:
        call = running_call(None, 20)
        call.done(said(20), FinishReason.LENGTH)
        assert not call.was_cut

    async def test_grant_that_came_too_late_leaves_an_answer_that_can_be_continued(self) -> None:
        call = running_call(20, 5_000)
        call.done(said(20), FinishReason.LENGTH)
        call.decide(Verdict(1_044), 0.0)
        await call.check_cut(5)

    async def test_cut_call_without_a_word_of_the_meter_says_so(self) -> None:
        call = running_call(20, 5_000)
        call.done(said(20), FinishReason.LENGTH)
        with pytest.raises(QuotaUnavailable):
            await call.check_cut(0.01)


class TestLeases:
    async def test_lease_is_over_here_before_the_meter_takes_it_for_lapsed(self) -> None:
        call = running_call(None, 10, lease_s=30)
        assert not call.lapsed(128.9)
        assert call.lapsed(129.0)
        call.decide(Verdict(None), 120.0)
        assert not call.lapsed(148.9)

    async def test_ended_call_raises_why_wherever_it_waits(self) -> None:
        begun = asyncio.Event()
        calls: list[RunningCall] = []

        async def work() -> None:
            calls.append(running_call(None, 10))
            begun.set()
            with calls[0].endable():
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        calls[0].end(CredentialRevoked())
        calls[0].end(QuotaUnavailable())
        with pytest.raises(CredentialRevoked):
            await task
        assert not task.cancelled()

    async def test_cancellation_by_others_stays_one(self) -> None:
        begun = asyncio.Event()

        async def work() -> None:
            with running_call(None, 10).endable():
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class StubMeter:
    """Takes settlements while it is not away; the rest is not asked of it."""

    def __init__(self) -> None:
        self.is_away = False
        self.settled: list[Settlement] = []
        self.batches: list[int] = []
        self.told = asyncio.Event()
        self.refused = asyncio.Event()

    async def reserve(self, model: str, input_tokens: int, max_output_tokens: int, timeout_s: float) -> Reservation:
        raise NotImplementedError

    async def checkpoint(self, calls: Sequence[Progress]) -> list[Verdict]:
        raise QuotaUnavailable()

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        if self.is_away:
            self.refused.set()
            raise QuotaUnavailable()
        self.settled += settlements
        self.batches.append(len(settlements))
        self.told.set()
        return [True] * len(settlements)

    async def revocations(self, after_position: int) -> AsyncGenerator[Seen, None]:
        raise NotImplementedError
        yield


class StubOutbox:
    """Keeps settlements in memory while it is not away."""

    def __init__(self) -> None:
        self.rows: dict[CallKey, Settlement] = {}
        self.is_away = False

    async def keep(self, settlements: Sequence[Settlement]) -> None:
        if self.is_away:
            raise StorageUnavailable()
        for one in settlements:
            self.rows.setdefault(one.key, one)

    async def claim(self, limit: int) -> list[Settlement]:
        return list(self.rows.values())[:limit]

    async def forget(self, settlements: Sequence[Settlement]) -> None:
        for one in settlements:
            self.rows.pop(one.key, None)


class TestSettlements:
    async def test_what_ends_together_is_sent_together(self) -> None:
        meter = StubMeter()
        sender = Settlements(meter, StubOutbox(), LOG, interval_s=0.01)
        for number in range(MOST_AT_ONCE + 7):
            sender.send(settlement(number))
        sender.start()
        await meter.told.wait()
        await sender.stop()
        assert meter.batches == [MOST_AT_ONCE, 7]

    async def test_nothing_is_lost_while_the_meter_is_away(self) -> None:
        meter, outbox = StubMeter(), StubOutbox()
        meter.is_away = True
        sender = Settlements(meter, outbox, LOG, interval_s=0.01)
        sender.start()
        sender.send(settlement(1))
        await meter.refused.wait()
        await sender.stop()
        assert list(outbox.rows.values()) == [settlement(1)]
        meter.is_away = False
        other = Settlements(meter, outbox, LOG, interval_s=0.01)
        other.start()
        await meter.told.wait()
        await other.stop()
        assert meter.settled == [settlement(1)]
        assert not outbox.rows

    async def test_nothing_is_lost_while_meter_and_database_are_away(self) -> None:
        meter, outbox = StubMeter(), StubOutbox()
        meter.is_away = outbox.is_away = True
        sender = Settlements(meter, outbox, LOG, interval_s=0.01)
        sender.start()
        sender.send(settlement(1))
        await meter.refused.wait()
        meter.is_away = False
        async with asyncio.timeout(20):
            await meter.told.wait()
        await sender.stop()
        assert meter.settled == [settlement(1)]

    async def test_settlement_that_waits_is_sent_when_the_service_stops(self) -> None:
        meter = StubMeter()
        sender = Settlements(meter, StubOutbox(), LOG)
        sender.start()
        sender.send(settlement(1))
        await sender.stop()
        assert meter.settled == [settlement(1)]


async def test_revocation_ends_the_calls_that_are_meant_and_each_with_an_error_of_its_own() -> None:
    calls = RunningCalls(StubMeter(), lambda: 0.0, LOG)
    ended: list[BaseException] = []
    running = asyncio.Semaphore(0)

    async def work(tenant: str, principal: str) -> None:
        reservation = Reservation(None, 30.0)
        call = RunningCall(CallKey(tenant, "t"), principal, reservation, Wanted(1, 1), 0.0, calls.ask)
        calls.add(call)
        running.release()
        try:
            with call.endable():
                await asyncio.Event().wait()
        except CredentialRevoked as error:
            ended.append(error)

    who = [("acme", "one"), ("acme", "one"), ("acme", "two"), ("globex", "one")]
    tasks = [asyncio.create_task(work(*one)) for one in who]
    for _ in who:
        await running.acquire()
    assert calls.revoke(Revocation("acme", "one", CredentialRevoked)) == 2
    await asyncio.gather(*tasks[:2])
    assert len({id(error) for error in ended}) == 2
    assert calls.revoke(Revocation("acme", "", CredentialRevoked)) == 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await calls.stop()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1, "1s"),
        (0.02, "20ms"),
        (7.25, "7.25s"),
        (59.9999, "1m0s"),
        (360, "6m0s"),
        (7_205.5, "2h0m5.5s"),
        (-1, "0s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_overdrawn_limit_has_nothing_left() -> None:
    headers = dict(rate_limit_headers(RateLimits(tokens=RateLimit(10, -3, 1))))
    assert headers == {
        "x-ratelimit-limit-tokens": "10",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1s",
    }
