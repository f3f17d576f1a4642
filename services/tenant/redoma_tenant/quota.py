"""A tenant's quota: what it may use, and how that stands."""

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from redoma_kit.errors import ResourceNotFound
from redoma_tenant.etags import check_etag
from redoma_tenant.limits import AtLimit, Limits
from redoma_tenant.meter import bucket
from redoma_tenant.meter.account import TenantTerms
from redoma_tenant.meter.counters import Counters
from redoma_tenant.meter.money import micros_up
from redoma_tenant.meter.periods import day_end, month_end
from redoma_tenant.meter.warnings import reached_percents
from redoma_tenant.moments import micros_of, time_of
from redoma_tenant.names import quota_name, tenant_name


@dataclass(frozen=True, slots=True)
class OwnQuota:
    """What a tenant has of its own. `at_limit` None is its plan's. `version` counts the changes."""

    limits: Limits
    at_limit: AtLimit | None
    version: int


@dataclass(frozen=True, slots=True)
class LimitState:
    """How a limit stands, in its own unit.

    Attributes:
        limit: Its name among the fields of Limits.
        limit_value: What it allows.
        used: What is used for good.
        reserved: What running calls hold and may still use.
        reset_time: When all of it, or the next of it, is free again; None of what only running calls hold.
        warning_percent: The highest threshold that is reached; 0 is none.
    """

    limit: str
    limit_value: int
    used: int
    reserved: int
    reset_time: datetime | None
    warning_percent: int = 0


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may use, and has used."""

    tenant: str
    own: OwnQuota
    effective_limits: Limits
    states: tuple[LimitState, ...]


class QuotaStore(Protocol):
    """Where quotas are kept. Every call may raise StorageUnavailable."""

    async def find_quota(self, tenant: str) -> tuple[OwnQuota, TenantTerms, Counters] | None:
        """Gives what a tenant has of its own, what is in force, and its counters; None if there is no such tenant."""

    async def change_quota(self, tenant: str, own: OwnQuota) -> bool:
        """Keeps a tenant's own in place of its version before, and says whether there was that version."""
        ...


class Quotas:
    """Shows and changes quotas."""

    __slots__ = ("_now", "_store")

    def __init__(self, store: QuotaStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    async def get(self, tenant: str) -> Quota:
        """Gives a tenant's quota, or raises ResourceNotFound."""
        found = await self._store.find_quota(tenant)
        if found is None:
            raise ResourceNotFound(tenant_name(tenant))
        own, terms, counters = found
        return Quota(tenant, own, terms.limits, tuple(_states(terms, counters, self._now())))

    async def update(self, tenant: str, wanted: OwnQuota, names: Set[str], etag: str) -> Quota:
        """Takes what `names` names from `wanted`; `limits.x` is one of the limits.

        Raises:
            InvalidField: A limit is out of range.
            ResourceNotFound: There is no such tenant.
            EtagMismatch: `etag` is that of another version.
        """
        while True:
            former = (await self.get(tenant)).own
            check_etag(quota_name(tenant), etag, former.version)
            own = replace(former, limits=former.limits.changed(wanted.limits, names), version=former.version + 1)
            if "at_limit" in names:
                own = replace(own, at_limit=wanted.at_limit)
            own.limits.check("quota.limits")
            if await self._store.change_quota(tenant, own):
                return await self.get(tenant)


def _states(terms: TenantTerms, counters: Counters, now: datetime) -> Iterator[LimitState]:
    counters, limits = counters.at(now), terms.limits
    reached = reached_percents(counters, limits, terms.warning_percents)
    now_us = micros_of(now)
    if (size := limits.requests_per_minute) is not None:
        full_us = counters.requests_full_us
        yield LimitState("requests_per_minute", size, bucket.taken(full_us, size, now_us), 0, _later(full_us, now))
    if (size := limits.tokens_per_minute) is not None:
        full_us = counters.tokens_full_us
        used = bucket.taken(full_us, size, now_us)
        yield LimitState("tokens_per_minute", size, used, counters.held_tokens, _later(full_us, now))
    if (most := limits.concurrent_streams) is not None:
        yield LimitState("concurrent_streams", most, 0, counters.open_calls, None)
    for name, limit, used, held, end in (
        ("tokens_per_day", limits.tokens_per_day, counters.day_used_tokens, counters.day_held_tokens, day_end(now)),
        (
            "tokens_per_month",
            limits.tokens_per_month,
            counters.month_used_tokens,
            counters.month_held_tokens,
            month_end(now),
        ),
        (
            "budget_micros_per_month",
            limits.budget_micros_per_month,
            micros_up(counters.month_used_nanos),
            micros_up(counters.month_held_nanos),
            month_end(now),
        ),
    ):
        if limit is not None:
            yield LimitState(name, limit, used, held, end, reached[name])


def _later(full_us: int, now: datetime) -> datetime:
    return max(time_of(full_us), now)
