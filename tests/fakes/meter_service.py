"""A double of MeterService: grants all by default, remembers all that it is told, and refuses as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from redoma.common.v1.error_reason_pb2 import ErrorReason
from redoma.tenant.v1 import meter_pb2 as pb
from redoma.tenant.v1.meter_pb2_grpc import MeterServiceServicer
from tests.fakes.model_service import Fail, abort

LEASE_S = 30
SLICE_TOKENS = 1_024


@dataclass
class FakeMeter(MeterServiceServicer):
    """Answers as MeterService does.

    Attributes:
        refusal: What Reserve fails with.
        granted: What Reserve grants: None is as many as are asked for, or SLICE_TOKENS; -1 is without end.
        lease_s: How long what is held lasts.
        rate_limits: What Reserve says of limits.
        judge: What Checkpoint says of a call; by default it grants what is wanted.
        is_away: Every call fails as a service that is down does.
        holds: Reserve waits until it is set.
        settled_known: Whether what is settled was held.
        reserved: What Reserve was asked, with its metadata.
        checkpoints: What Checkpoint was told.
        settled: What was settled, by token id; a second settlement does not count.
        settlements: How many were sent, second ones included.
        watched: Positions from which WatchRevocations was asked.
    """

    refusal: Fail | None = None
    granted: int | None = None
    lease_s: float = LEASE_S
    rate_limits: pb.RateLimits = field(default_factory=pb.RateLimits)
    judge: Callable[[pb.RunningCall, int], pb.Verdict] | None = None
    is_away: bool = False
    holds: asyncio.Event | None = None
    settled_known: bool = True
    reserved: list[tuple[pb.ReserveRequest, dict[str, str | bytes]]] = field(default_factory=list)
    checkpoints: list[pb.RunningCall] = field(default_factory=list)
    settled: dict[str, pb.Settlement] = field(default_factory=dict)
    settlements: int = 0
    watched: list[int] = field(default_factory=list)
    told: asyncio.Condition = field(default_factory=asyncio.Condition)
    _grants: dict[str, int] = field(default_factory=dict)
    _revocations: list[pb.WatchRevocationsResponse] = field(default_factory=list)
    _revoked: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        """Grants."""
        self.reserved.append((request, dict(context.invocation_metadata())))
        await self._note()
        if self.holds is not None:
            await self.holds.wait()
        await self._check(context)
        if self.refusal is not None:
            await abort(context, self.refusal)
        response = pb.ReserveResponse(rate_limits=self.rate_limits)
        response.lease.FromNanoseconds(int(self.lease_s * 1e9))
        granted = (request.max_output_tokens or SLICE_TOKENS) if self.granted is None else self.granted
        if granted >= 0:
            response.granted_output_tokens = granted
        return response

    async def Checkpoint(self, request: pb.CheckpointRequest, context: Any) -> pb.CheckpointResponse:
        """Gives verdicts."""
        await self._check(context)
        self.checkpoints += request.calls
        await self._note()
        return pb.CheckpointResponse(verdicts=[self._verdict(call) for call in request.calls])

    def _verdict(self, call: pb.RunningCall) -> pb.Verdict:
        first = (self.reserved[0][0].max_output_tokens or SLICE_TOKENS) if self.granted is None else self.granted
        known = self._grants.get(call.token_id, first)
        verdict = pb.Verdict() if known < 0 else pb.Verdict(granted_output_tokens=known + call.wanted_output_tokens)
        if self.judge is not None:
            verdict = self.judge(call, known)
        self._grants[call.token_id] = verdict.granted_output_tokens
        return verdict

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:
        """Remembers what it is told first."""
        await self._check(context)
        self.settlements += len(request.settlements)
        for settlement in request.settlements:
            self.settled.setdefault(settlement.token_id, settlement)
        await self._note()
        return pb.SettleResponse(settled=[self.settled_known] * len(request.settlements))

    async def WatchRevocations(
        self, request: pb.WatchRevocationsRequest, context: Any
    ) -> AsyncIterator[pb.WatchRevocationsResponse]:
        """Tells of revocations."""
        await self._check(context)
        self.watched.append(request.after_position)
        await self._note()
        position = request.after_position or len(self._revocations) + 1
        yield pb.WatchRevocationsResponse(position=position)
        while True:
            await self._revoked_after(position)
            for revocation in self._revocations:
                if revocation.position > position:
                    position = revocation.position
                    yield revocation
            yield pb.WatchRevocationsResponse(position=position)

    async def _revoked_after(self, position: int) -> None:
        """Waits for a revocation, a second at most."""
        try:
            async with asyncio.timeout(1), self._revoked:
                await self._revoked.wait_for(lambda: any(one.position > position for one in self._revocations))
        except TimeoutError:
            pass

    async def revoke(self, tenant: str, principal: str = "", reason: str = "CREDENTIAL_REVOKED") -> None:
        """Tells all that watch to end calls."""
        async with self._revoked:
            revocation = pb.Revocation(
                tenant=tenant, principal=principal, reason=ErrorReason.Value(f"ERROR_REASON_{reason}")
            )
            position = len(self._revocations) + 2
            self._revocations.append(pb.WatchRevocationsResponse(position=position, revocation=revocation))
            self._revoked.notify_all()

    async def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        """Waits until what it was told fulfils a condition."""
        async with asyncio.timeout(within_s), self.told:
            await self.told.wait_for(condition)

    async def only_settlement(self) -> pb.Settlement:
        """Waits for a settlement, which must be the only one."""
        await self.until(lambda: bool(self.settled))
        (settlement,) = self.settled.values()
        return settlement

    async def _check(self, context: Any) -> None:
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the fake is down")

    async def _note(self) -> None:
        async with self.told:
            self.told.notify_all()
