"""The meter at the other end of a gRPC channel: MeterService of the tenant service."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import grpc

from redoma.common.v1 import usage_pb2
from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.tenant.v1 import meter_pb2 as pb
from redoma.tenant.v1.meter_pb2_grpc import MeterServiceStub
from redoma_chat.errors import CredentialExpired, CredentialRevoked, QuotaExceeded, QuotaUnavailable, TenantDisabled
from redoma_chat.inference import RateLimit, RateLimits, Usage
from redoma_chat.metering.meter import (
    Progress,
    Reservation,
    Revocation,
    Seen,
    Settlement,
    Verdict,
)
from redoma_chat.outgoing import call_metadata, wait_until_ready
from redoma_kit.channel import raise_if_cancelled_here
from redoma_kit.errors import CredentialInvalid, DomainError, Failure, InvalidField, Violation, failure_from_status
from redoma_kit.identity import current_identity
from redoma_kit.telemetry import Telemetry

ANSWER_WAIT_S = 5.0
T = TypeVar("T")


class GrpcMeter:
    """MeterService; see Meter."""

    def __init__(self, channel: grpc.aio.Channel, telemetry: Telemetry) -> None:
        self._channel = channel
        self._stub = MeterServiceStub(channel)
        self._telemetry = telemetry

    async def reserve(self, model: str, input_tokens: int, max_output_tokens: int, timeout_s: float) -> Reservation:
        """Holds what the call being handled may use."""
        await self._ready()
        request = pb.ReserveRequest(model=model, input_tokens=input_tokens, max_output_tokens=max_output_tokens)
        timeout_s = min(timeout_s, ANSWER_WAIT_S)
        try:
            call = self._stub.Reserve(request, timeout=timeout_s, metadata=call_metadata(self._telemetry))
            response = await _answer(call)
        except grpc.aio.AioRpcError as error:
            raise _refusal(failure_from_status(error), current_identity().tenant) from None
        granted = response.granted_output_tokens if response.HasField("granted_output_tokens") else None
        return Reservation(granted, response.lease.ToNanoseconds() / 1e9, _rate_limits(response.rate_limits))

    async def checkpoint(self, calls: Sequence[Progress]) -> list[Verdict]:
        """Tells of running calls."""
        await self._ready()
        request = pb.CheckpointRequest(calls=map(_running_call, calls))
        try:
            response = await _answer(self._stub.Checkpoint(request, timeout=ANSWER_WAIT_S))
        except grpc.aio.AioRpcError:
            raise QuotaUnavailable() from None
        return [_verdict(verdict, call.key.tenant) for verdict, call in zip(response.verdicts, calls, strict=False)]

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Books calls that ended."""
        await self._ready()
        request = pb.SettleRequest(settlements=map(_settlement, settlements))
        try:
            response = await _answer(self._stub.Settle(request, timeout=ANSWER_WAIT_S))
        except grpc.aio.AioRpcError:
            raise QuotaUnavailable() from None
        return list(response.settled)

    async def revocations(self, after_position: int) -> AsyncGenerator[Seen, None]:
        """Tells of revocations."""
        await self._ready()
        call = self._stub.WatchRevocations(pb.WatchRevocationsRequest(after_position=after_position))
        try:
            async for response in call:
                revocation = _revocation(response.revocation) if response.HasField("revocation") else None
                yield Seen(response.position, revocation)
        except asyncio.CancelledError:
            raise_if_cancelled_here()
            raise QuotaUnavailable() from None
        except grpc.aio.AioRpcError:
            raise QuotaUnavailable() from None
        finally:
            call.cancel()

    async def _ready(self) -> None:
        if not await wait_until_ready(self._channel):
            raise QuotaUnavailable()


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except asyncio.CancelledError:
        raise_if_cancelled_here()
        raise QuotaUnavailable(was_asked=True) from None


def _refusal(failure: Failure | None, tenant: str) -> DomainError:
    """Gives why a call may not begin. What the meter does not explain may have been held nevertheless."""
    reason = "" if failure is None else failure.reason
    match reason:
        case "QUOTA_EXCEEDED" if failure is not None:
            return QuotaExceeded(failure.message, failure.metadata, failure.retry_after_s, failure.violations)
        case "CREDENTIAL_INVALID" if failure is not None:
            return CredentialInvalid(failure.message)
        case "INVALID_FIELD" if failure is not None and failure.metadata.get("field") == "model":
            return InvalidField("model", "is no model's id")
        case "CREDENTIAL_REVOKED" | "CREDENTIAL_EXPIRED" | "TENANT_DISABLED":
            return _ending(ErrorReason.Value(f"ERROR_REASON_{reason}"), tenant)
    return QuotaUnavailable(was_asked=True)


def _rate_limits(limits: pb.RateLimits) -> RateLimits:
    return RateLimits(
        _rate_limit(limits.requests) if limits.HasField("requests") else None,
        _rate_limit(limits.tokens) if limits.HasField("tokens") else None,
    )


def _rate_limit(limit: pb.RateLimit) -> RateLimit:
    return RateLimit(limit.limit, limit.remaining, limit.reset.ToNanoseconds() / 1e9)


def _running_call(call: Progress) -> pb.RunningCall:
    return pb.RunningCall(
        tenant=call.key.tenant,
        token_id=call.key.token_id,
        usage=_usage(call.usage),
        wanted_output_tokens=call.wanted_tokens,
    )


def _verdict(verdict: pb.Verdict, tenant: str) -> Verdict:
    granted = verdict.granted_output_tokens if verdict.HasField("granted_output_tokens") else None
    if verdict.end == ErrorReason.ERROR_REASON_UNSPECIFIED:
        return Verdict(granted)
    if verdict.end == ErrorReason.ERROR_REASON_QUOTA_EXCEEDED:
        return Verdict(granted, _limit_reached(verdict, tenant))
    return Verdict(granted, _ending(verdict.end, tenant), at_once=True)


def _limit_reached(verdict: pb.Verdict, tenant: str) -> QuotaExceeded:
    metadata: Mapping[str, str] = {
        "limit": verdict.limit,
        "scope": verdict.scope,
        "limit_value": str(verdict.limit_value),
        "remaining": "0",
    }
    retry_s = verdict.retry_delay.ToNanoseconds() / 1e9 if verdict.HasField("retry_delay") else None
    message = f"The answer ends here: the limit {verdict.limit} of {verdict.limit_value} is reached."
    return QuotaExceeded(message, metadata, retry_s, (Violation(f"tenants/{tenant}", message),))


def _ending(reason: "ErrorReason.ValueType", tenant: str) -> DomainError:
    """Gives why a call must end at once; what is not known here is that the meter does not hold anything for it."""
    if reason == ErrorReason.ERROR_REASON_CREDENTIAL_REVOKED:
        return CredentialRevoked()
    if reason == ErrorReason.ERROR_REASON_CREDENTIAL_EXPIRED:
        return CredentialExpired()
    if reason == ErrorReason.ERROR_REASON_TENANT_DISABLED:
        return TenantDisabled(tenant)
    return QuotaUnavailable()


def _settlement(settlement: Settlement) -> pb.Settlement:
    reason = "UNSPECIFIED" if settlement.finish_reason is None else settlement.finish_reason.value
    return pb.Settlement(
        tenant=settlement.key.tenant,
        token_id=settlement.key.token_id,
        usage=_usage(settlement.usage),
        exact=settlement.exact,
        finish_reason=usage_pb2.FinishReason.Value(f"FINISH_REASON_{reason}"),
        model=settlement.model,
    )


def _revocation(revocation: pb.Revocation) -> Revocation:
    return Revocation(revocation.tenant, revocation.principal, partial(_ending, revocation.reason, revocation.tenant))


def _usage(usage: Usage) -> usage_pb2.Usage:
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )
