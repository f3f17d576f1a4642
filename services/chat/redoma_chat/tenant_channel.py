"""The tenant service as the chat service sees it: what to check of the caller's tenant's prompts and answers."""

from typing import Protocol

import grpc

from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.tenant_pb2_grpc import TenantServiceStub
from redoma_chat.checks.chain import BlockedPattern, ContentChecks
from redoma_chat.errors import ChecksUnavailable
from redoma_chat.model_channel import call_metadata, wait_until_ready
from redoma_kit.telemetry import Telemetry

READY_WAIT_S = 0.8
ANSWER_WAIT_S = 2.0


class TenantChannel(Protocol):
    """Where the content checks of the caller's tenant are kept."""

    async def content_checks(self) -> ContentChecks:
        """Gets the checks of the tenant of the call being handled.

        Raises:
            ChecksUnavailable: They can't be had.
        """
        ...


class GrpcTenantChannel:
    """The tenant service at the other end of a gRPC channel."""

    def __init__(self, channel: grpc.aio.Channel, telemetry: Telemetry) -> None:
        self._channel = channel
        self._stub = TenantServiceStub(channel)
        self._telemetry = telemetry

    async def content_checks(self) -> ContentChecks:
        """Gets the checks; see TenantChannel."""
        if not await wait_until_ready(self._channel, READY_WAIT_S):
            raise ChecksUnavailable()
        try:
            response = await self._stub.GetContentChecks(
                tenant_pb2.GetContentChecksRequest(), timeout=ANSWER_WAIT_S, metadata=call_metadata(self._telemetry)
            )
        except grpc.aio.AioRpcError:
            raise ChecksUnavailable() from None
        checks = response.content_checks
        return ContentChecks(
            checks.max_input_tokens,
            tuple(
                BlockedPattern(pattern.text, pattern.action == tenant_pb2.BlockedPattern.ACTION_MASK)
                for pattern in checks.blocked_patterns
                if pattern.text
            ),
        )
