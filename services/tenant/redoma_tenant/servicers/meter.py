"""MeterService on the wire. Only the chat service calls it."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.common.v1.usage_pb2 import Usage
from redoma.tenant.v1 import meter_pb2, meter_pb2_grpc
from redoma_kit.errors import CredentialInvalid, InvalidField, ShuttingDown
from redoma_kit.identity import Identity, current_identity
from redoma_kit.interceptors.drain import Drain
from redoma_tenant.change import Change
from redoma_tenant.meter import told
from redoma_tenant.meter.counts import MAX_TOKENS, TokenCounts
from redoma_tenant.meter.meter import Meter
from redoma_tenant.meter.reservation import LEASE, Caller
from redoma_tenant.names import API_KEY_ID, MODEL_ID, TENANT_ID, USER_ID
from redoma_tenant.servicers.times import duration, timestamp

if TYPE_CHECKING:
    from redoma_kit.interceptors.pipeline import Context

MOST_CALLS = 4_096
MAX_TOKEN_ID_CHARACTERS = 64

I = TypeVar("I", meter_pb2.RunningCall, meter_pb2.Settlement)  # noqa: E741
T = TypeVar("T")


class Changes(Protocol):
    """The feed of changes to what credentials stand for."""

    @property
    def position(self) -> int:
        """What was read of it last."""
        ...

    def follow(self, after_position: int) -> AsyncIterator[Change | None]:
        """Gives those after a position, 0 for from now on, and None each second that there is nothing to tell."""
        ...


class MeterServicer(meter_pb2_grpc.MeterServiceServicer):
    """What calls may use, and have used."""

    def __init__(self, meter: Meter, changes: Changes, drain: Drain) -> None:
        self._meter = meter
        self._changes = changes
        self._drain = drain

    async def Reserve(self, request: meter_pb2.ReserveRequest, context: "Context") -> meter_pb2.ReserveResponse:
        """Holds what a call may use, for the identity that the request carries."""
        identity = current_identity()
        if not identity.tenant:
            raise CredentialInvalid("An operator's call is not metered; call with a tenant's key.")
        if not 0 <= request.input_tokens <= MAX_TOKENS:
            raise InvalidField("input_tokens", f"must be 0 to {MAX_TOKENS}.")
        if request.max_output_tokens < 0:
            raise InvalidField("max_output_tokens", "must not be negative; 0 is no bound.")
        if request.model and not MODEL_ID.fullmatch(request.model):
            raise InvalidField("model", "is no model's id.")
        start = told.Start(
            token_id=identity.token_id[:MAX_TOKEN_ID_CHARACTERS],
            caller=_caller(identity),
            model=request.model,
            input_tokens=request.input_tokens,
            max_output_tokens=min(request.max_output_tokens, MAX_TOKENS),
        )
        grant = await self._meter.reserve(identity.tenant, start)
        return meter_pb2.ReserveResponse(
            granted_output_tokens=grant.granted_output_tokens,
            lease=duration(LEASE),
            rate_limits=meter_pb2.RateLimits(
                requests=_rate_limit(grant.rate_limits.requests), tokens=_rate_limit(grant.rate_limits.tokens)
            ),
        )

    async def Checkpoint(
        self, request: meter_pb2.CheckpointRequest, context: "Context"
    ) -> meter_pb2.CheckpointResponse:
        """Notes what running calls have used, and says whether they may go on."""

        async def note(tenant: str, calls: Sequence[meter_pb2.RunningCall]) -> Sequence[told.Verdict]:
            return await self._meter.checkpoint(
                tenant,
                [told.Checkpoint(call.token_id, _counts(call.usage), call.wanted_output_tokens) for call in calls],
            )

        verdicts = await _by_tenant("calls", request.calls, note)
        return meter_pb2.CheckpointResponse(verdicts=[_verdict(verdict) for verdict in verdicts])

    async def Settle(self, request: meter_pb2.SettleRequest, context: "Context") -> meter_pb2.SettleResponse:
        """Books what calls used in the end."""

        async def book(tenant: str, settlements: Sequence[meter_pb2.Settlement]) -> Sequence[bool]:
            return await self._meter.settle(tenant, [_ending(settlement) for settlement in settlements])

        return meter_pb2.SettleResponse(settled=await _by_tenant("settlements", request.settlements, book))

    async def WatchRevocations(
        self, request: meter_pb2.WatchRevocationsRequest, context: "Context"
    ) -> AsyncIterator[meter_pb2.WatchRevocationsResponse]:
        """Tells whose running calls must be ended. It ends when the service begins to shut down."""
        position = request.after_position
        async for change in self._changes.follow(position):
            if self._drain.draining:
                raise ShuttingDown()
            if change is None:
                # All that was read is told.
                position = max(position, self._changes.position)
                yield meter_pb2.WatchRevocationsResponse(position=position)
                continue
            # Positions may become visible out of order; the greatest is what to come back with.
            position = max(position, change.position)
            if change.reason:
                yield meter_pb2.WatchRevocationsResponse(position=position, revocation=_revocation(change))


async def _by_tenant(
    field: str, items: Sequence[I], handle: Callable[[str, Sequence[I]], Awaitable[Sequence[T]]]
) -> list[T]:
    """Handles the items of each tenant together and gives the answers in the items' order."""
    if len(items) > MOST_CALLS:
        raise InvalidField(field, f"has {len(items)} calls; the most is {MOST_CALLS}.")
    places: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        if not TENANT_ID.fullmatch(item.tenant):
            raise InvalidField(f"{field}[{index}].tenant", "is no tenant's id.")
        places[item.tenant].append(index)
    answers: dict[int, T] = {}
    # One after the other: a batch of many tenants takes no more of the database than one call does.
    for tenant, indexes in places.items():
        found = await handle(tenant, [items[index] for index in indexes])
        answers.update(zip(indexes, found, strict=True))
    return [answers[index] for index in range(len(items))]


def _caller(identity: Identity) -> Caller:
    collection, _, last = identity.principal.removeprefix(f"tenants/{identity.tenant}/").partition("/")
    return Caller(
        principal=identity.principal,
        api_key_id=last if collection == "apiKeys" and API_KEY_ID.fullmatch(last) else "",
        user_id=last if collection == "users" and USER_ID.fullmatch(last) else "",
        adapter=identity.adapter,
    )


def _counts(usage: Usage) -> TokenCounts:
    return TokenCounts.told(usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)


def _ending(settlement: meter_pb2.Settlement) -> told.Ending:
    certainty = told.Certainty.EXACT if settlement.exact else told.Certainty.SO_FAR
    model = settlement.model if MODEL_ID.fullmatch(settlement.model) else ""
    return told.Ending(settlement.token_id, _counts(settlement.usage), certainty, model)


def _verdict(verdict: told.Verdict) -> meter_pb2.Verdict:
    message = meter_pb2.Verdict(granted_output_tokens=verdict.granted_output_tokens)
    if verdict.end:
        message.end = ErrorReason.Value(f"ERROR_REASON_{verdict.end}")
    if (shortage := verdict.shortage) is not None:
        message.limit, message.limit_value = shortage.limit, shortage.limit_value
        message.scope = shortage.scope.value
        if shortage.retry_after_s is not None:
            message.retry_delay.FromTimedelta(timedelta(seconds=shortage.retry_after_s))
    return message


def _rate_limit(limit: told.RateLimit | None) -> meter_pb2.RateLimit | None:
    if limit is None:
        return None
    return meter_pb2.RateLimit(
        limit=limit.limit, remaining=limit.remaining, reset=duration(timedelta(seconds=limit.reset_s))
    )


def _revocation(change: Change) -> meter_pb2.Revocation:
    return meter_pb2.Revocation(
        tenant=change.tenant,
        principal=change.principal,
        reason=ErrorReason.Value(f"ERROR_REASON_{change.reason}"),
        revoke_time=timestamp(change.time),
    )
