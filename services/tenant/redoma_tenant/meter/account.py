"""A tenant's account: what it may use, how its limits stand, and what its calls hold. It is where use is decided on.

It lives as long as one transaction, which read it and writes what has changed of it. It does no I/O and has one time.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from redoma_tenant.ledger import LedgerTransaction
from redoma_tenant.limits import NO_LIMITS, AtLimit, Limits
from redoma_tenant.meter import bucket
from redoma_tenant.meter.counters import Amount, Counters
from redoma_tenant.meter.counts import NOTHING, TokenCounts
from redoma_tenant.meter.money import Price
from redoma_tenant.meter.prices import PriceList
from redoma_tenant.meter.reservation import LEASE, Caller, Reservation, ReservationState
from redoma_tenant.meter.shortage import LimitScope, Shortage, worst
from redoma_tenant.meter.told import (
    Certainty,
    Checkpoint,
    Ending,
    Grant,
    RateLimit,
    RateLimits,
    Refusal,
    Replayed,
    Start,
    Verdict,
)
from redoma_tenant.meter.warnings import LimitWarning, reached_percents, warnings_between
from redoma_tenant.moments import micros_of, time_of

# Output tokens that are held at a time for a call that named no bound.
SLICE_TOKENS = 1_024
# The key of a tenant's own counters among those of its keys.
WHOLE_TENANT = ""


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key may use. `end` is the reason for which its calls must end, empty while it may call."""

    limits: Limits = NO_LIMITS
    end: str = ""


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """What a tenant may use, by itself and by its plan. `end` is as above."""

    limits: Limits = NO_LIMITS
    end: str = ""
    at_limit: AtLimit = AtLimit.END
    warning_percents: tuple[int, ...] = ()


@dataclass(slots=True)
class Account:
    """See the module. Everything read is given; `changed` and `transactions` are what is to be written.

    Attributes:
        counters: By the id of the key; WHOLE_TENANT is the tenant's.
        keys: Terms by the id of the key; one that is not there has none.
        users: Reasons for which users' calls must end, by their ids.
        key_users: The user that a key acts for, by the key's id.
        booked: Calls that the ledger has and that are no longer kept.
    """

    tenant: str
    now: datetime
    terms: TenantTerms
    prices: PriceList
    counters: dict[str, Counters]
    keys: Mapping[str, KeyTerms] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    key_users: Mapping[str, str] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    booked: frozenset[str] = frozenset()
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    opened: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    transactions: list[LedgerTransaction] = field(default_factory=list)
    before: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.counters = {key: counters.at(self.now) for key, counters in self.counters.items()}
        self.before = self._counters(WHOLE_TENANT)

    def reserve(self, start: Start) -> Grant | Refusal | Replayed:
        """Holds what a call may use; a second time it gives what is held."""
        existing = self.reservations.get(start.token_id)
        if existing is not None:
            return self._reserve_again(existing)
        end = self._end_reason(start.caller)
        if end:
            return Refusal((), end)
        price = self.prices.at_most(start.model)
        output_tokens = start.max_output_tokens or self._slice(start, price)
        amount = Amount(
            start.input_tokens + output_tokens,
            price.cost_nanos(TokenCounts(input_tokens=start.input_tokens, output_tokens=output_tokens)),
        )
        shortages = self._shortages(start.caller.api_key_id, amount)
        if shortages:
            return Refusal(tuple(shortages))
        return self._opened(start, price, amount, output_tokens)

    def checkpoint(self, call: Checkpoint) -> Verdict:
        """Notes what a running call has used, begins its lease anew, and grants more if it wants more."""
        reservation = self.reservations.get(call.token_id)
        if reservation is None or not reservation.is_open:
            return Verdict(None, "RESOURCE_NOT_FOUND")
        reservation = self._note(reservation, reservation.counted(call.counts).renewed(self.now))
        granted = reservation.granted_output_tokens
        end = self._end_reason(reservation.caller)
        if end or granted is None or call.wanted_output_tokens <= 0:
            return Verdict(granted, end)
        room = self._room(reservation.caller.api_key_id, reservation.price, 0)
        wanted = min(call.wanted_output_tokens, SLICE_TOKENS)
        more = wanted if room is None else min(wanted, room)
        if more <= 0:
            one = Amount(1, reservation.price.cost_nanos(TokenCounts(output_tokens=1)))
            return Verdict(granted, "QUOTA_EXCEEDED", worst(self._amount_shortages(reservation.caller.api_key_id, one)))
        reservation = self._note(reservation, reservation.with_more_granted(more))
        return Verdict(reservation.granted_output_tokens, "")

    def settle(self, ending: Ending) -> bool:
        """Books what a call used, or what is known of it beyond what was booked; says whether the call is known."""
        reservation = self.reservations.get(ending.token_id)
        if reservation is None:
            return ending.token_id in self.booked
        if reservation.is_final or (reservation.is_open and _is_too_late(ending, reservation)):
            return True
        is_exact = ending.certainty is Certainty.JOURNAL or (
            ending.certainty is Certainty.EXACT and reservation.is_open and reservation.is_exact
        )
        is_closed = is_exact or ending.certainty is Certainty.LAST_WORD
        # Who settles what was closed as nobody knew more may have gone on after that: the journal is asked anew.
        state = ReservationState.CLOSED if is_closed else ReservationState.SETTLED
        model = ending.model or reservation.model
        price = self.prices.of_answer(reservation.model, ending.model, reservation.price)
        ended = replace(reservation.ended(ending.counts, price, model, state), is_exact=is_exact)
        self._book(reservation, ended)
        return True

    def warnings(self) -> list[LimitWarning]:
        """Tells which thresholds of the tenant's limits are passed since the account was read."""
        limits, percents = self.terms.limits, self.terms.warning_percents
        return warnings_between(self.before, self._counters(WHOLE_TENANT), limits, percents)

    def reached_percents(self) -> dict[str, int]:
        """Gives the highest threshold that is reached of each limit that has any, by its name; 0 is none."""
        return reached_percents(self._counters(WHOLE_TENANT), self.terms.limits, self.terms.warning_percents)

    def _reserve_again(self, existing: Reservation) -> Grant | Replayed:
        if not existing.is_open:
            return Replayed()
        # It may be made twice. Each chat then counts its own; the model service's journal counts both.
        again = replace(existing, is_exact=False)
        self.reservations[existing.token_id] = again
        self.changed.add(existing.token_id)
        return Grant(again.granted_output_tokens, self._rate_limits(existing.caller.api_key_id))

    def _opened(self, start: Start, price: Price, amount: Amount, output_tokens: int) -> Grant:
        caller = start.caller
        for key, limits in self._scopes(caller.api_key_id):
            self.counters[key] = self._counters(key).with_request(limits, self.now)
        granted = output_tokens if self.terms.at_limit is AtLimit.END else None
        reservation = Reservation(
            token_id=start.token_id,
            caller=replace(caller, user_id=caller.user_id or self.key_users.get(caller.api_key_id, "")),
            model=start.model,
            price=price,
            reserved_input_tokens=start.input_tokens,
            granted_output_tokens=granted,
            held=amount,
            create_time=self.now,
            lapse_time=self.now + LEASE,
            period=self._counters(WHOLE_TENANT).period,
        )
        self._move(reservation, Amount(), amount)
        self.reservations[start.token_id] = reservation
        self.opened.add(start.token_id)
        return Grant(granted, self._rate_limits(caller.api_key_id))

    def _slice(self, start: Start, price: Price) -> int:
        room = self._room(start.caller.api_key_id, price, start.input_tokens)
        return SLICE_TOKENS if room is None else max(1, min(SLICE_TOKENS, room))

    def _room(self, api_key_id: str, price: Price, input_tokens: int) -> int | None:
        """Gives how many output tokens more fit all limits, besides so many input tokens; None is any number."""
        rooms = []
        for key, limits in self._scopes(api_key_id):
            counters = self._counters(key)
            if (tokens := counters.room_tokens(limits, self.now)) is not None:
                rooms.append(tokens - input_tokens)
            if (nanos := counters.room_nanos(limits)) is not None:
                affordable = price.output_tokens_for(nanos, input_tokens)
                rooms += [] if affordable is None else [affordable]
        return min(rooms, default=None)

    def _shortages(self, api_key_id: str, amount: Amount) -> list[Shortage]:
        found = self._amount_shortages(api_key_id, amount)
        for key, limits in self._scopes(api_key_id):
            found += _scoped(key, self._counters(key).request_shortages(limits, self.now))
        return found

    def _amount_shortages(self, api_key_id: str, amount: Amount) -> list[Shortage]:
        found: list[Shortage] = []
        for key, limits in self._scopes(api_key_id):
            found += _scoped(key, self._counters(key).amount_shortages(limits, amount, self.now))
        return found

    def _note(self, former: Reservation, reservation: Reservation) -> Reservation:
        used = Amount(reservation.counts.tokens - former.counts.tokens, reservation.cost_nanos - former.cost_nanos)
        held = Amount(reservation.held.tokens - former.held.tokens, reservation.held.nanos - former.held.nanos)
        self._move(reservation, used, held)
        self.reservations[reservation.token_id] = reservation
        self.changed.add(reservation.token_id)
        return reservation

    def _book(self, former: Reservation, ended: Reservation) -> None:
        is_first = former.is_open
        is_begun = is_first or (former.state, ended.state) == (ReservationState.CLOSED, ReservationState.SETTLED)
        booked, cost = (NOTHING, 0) if is_first else (former.counts, former.cost_nanos)
        counts, cost_nanos = ended.counts.minus(booked), ended.cost_nanos - cost
        is_booked = is_first or counts != NOTHING or cost_nanos != 0
        if is_booked:
            self.transactions.append(
                LedgerTransaction(
                    tenant=self.tenant,
                    id=self.new_id(),
                    token_id=ended.token_id,
                    revision=ended.revision,
                    caller=ended.caller,
                    model=ended.model,
                    book_time=self.now,
                    counts=counts,
                    cost_nanos=cost_nanos,
                )
            )
        if is_first:
            for key, _ in self._scopes(ended.caller.api_key_id):
                self.counters[key] = self._counters(key).without_call()
        self._note(
            former,
            replace(
                ended,
                revision=ended.revision + is_booked,
                settle_time=self.now if is_begun else former.settle_time,
                lapse_time=self.now if is_begun else former.lapse_time,
            ),
        )

    def _move(self, reservation: Reservation, used: Amount, held: Amount) -> None:
        for key, limits in self._scopes(reservation.caller.api_key_id):
            self.counters[key] = self._counters(key).plus(used, held, reservation.period, limits, self.now)
            self.touched.add(key)

    def _scopes(self, api_key_id: str) -> list[tuple[str, Limits]]:
        scopes = [(WHOLE_TENANT, self.terms.limits)]
        if api_key_id in self.keys:
            scopes.append((api_key_id, self.keys[api_key_id].limits))
        return scopes

    def _counters(self, key: str) -> Counters:
        return self.counters.get(key) or Counters().at(self.now)

    def _end_reason(self, caller: Caller) -> str:
        if self.terms.end:
            return self.terms.end
        if caller.api_key_id:
            terms = self.keys.get(caller.api_key_id)
            return "" if terms is None else terms.end
        return self.users.get(caller.user_id, "")

    def _rate_limits(self, api_key_id: str) -> RateLimits:
        requests: list[RateLimit] = []
        tokens: list[RateLimit] = []
        now_us = micros_of(self.now)
        for key, limits in self._scopes(api_key_id):
            counters = self._counters(key)
            if (size := limits.requests_per_minute) is not None:
                left = bucket.left(counters.requests_full_us, size, now_us)
                requests.append(RateLimit(size, left, self._until(counters.requests_full_us)))
            if (size := limits.tokens_per_minute) is not None:
                left = bucket.left(counters.tokens_full_us, size, now_us) - counters.held_tokens
                tokens.append(RateLimit(size, max(0, left), self._until(counters.tokens_full_us)))
        return RateLimits(min(requests, default=None, key=_remaining), min(tokens, default=None, key=_remaining))

    def _until(self, full_us: int) -> float:
        return max(0.0, (time_of(full_us) - self.now).total_seconds())


def _is_too_late(ending: Ending, reservation: Reservation) -> bool:
    """Says whether a call was taken for lapsed and has been heard of since."""
    return ending.certainty in (Certainty.JOURNAL, Certainty.LAST_WORD) and reservation.settle_time is None


def _remaining(limit: RateLimit) -> int:
    return limit.remaining


def _scoped(key: str, shortages: list[Shortage]) -> list[Shortage]:
    scope = LimitScope.KEY if key else LimitScope.TENANT
    return [replace(one, scope=scope) for one in shortages]
