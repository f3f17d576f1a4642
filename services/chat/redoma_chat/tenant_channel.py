"""The tenant service as the chat service sees it: what to check of prompts and answers, and what to keep of them."""

from collections.abc import AsyncIterator
from typing import Protocol

import grpc

from redoma.tenant.v1 import tenant_pb2
from redoma.tenant.v1.tenant_pb2_grpc import TenantServiceStub
from redoma_chat.checks.chain import BlockedPattern, ContentChecks
from redoma_chat.content_storage import ContentPolicy, ContentStorage
from redoma_chat.errors import ChecksUnavailable
from redoma_chat.outgoing import call_metadata, wait_until_ready
from redoma_kit.telemetry import Telemetry

ANSWER_WAIT_S = 2.0
POLICIES_WAIT_S = 10.0
POLICIES_A_PAGE = 1_000
_Storage = tenant_pb2.Tenant


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
        if not await wait_until_ready(self._channel):
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
            _storage(response.content_storage),
        )

    async def content_policies(self) -> AsyncIterator[ContentPolicy]:
        """Gives every tenant's policy; for background work, of no caller.

        Raises:
            ChecksUnavailable: They can't be had.
        """
        token, more = "", True
        while more:
            request = tenant_pb2.ListContentPoliciesRequest(page_size=POLICIES_A_PAGE, page_token=token)
            try:
                response = await self._stub.ListContentPolicies(request, timeout=POLICIES_WAIT_S, wait_for_ready=True)
            except grpc.aio.AioRpcError:
                raise ChecksUnavailable() from None
            for policy in response.content_policies:
                tenant = policy.tenant.removeprefix("tenants/")
                retention_s = policy.retention.ToNanoseconds() / 1e9 if policy.HasField("retention") else None
                yield ContentPolicy(tenant, _storage(policy.content_storage), retention_s)
            token = response.next_page_token
            more = bool(token)


def _storage(value: int) -> ContentStorage:
    """Reads where texts are kept. What this release does not know is nowhere."""
    match value:
        case _Storage.CONTENT_STORAGE_UNSPECIFIED | _Storage.CONTENT_STORAGE_PUBLIC:
            return ContentStorage.PUBLIC
        case _Storage.CONTENT_STORAGE_PRIVATE:
            return ContentStorage.PRIVATE
        case _:
            return ContentStorage.NONE
