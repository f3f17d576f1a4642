"""The meter: reserve, checkpoint, settle."""

from collections.abc import Sequence
from typing import TypeVar

from redoma_kit.errors import CredentialInvalid
from redoma_tenant.errors import CredentialExpired, CredentialRevoked, QuotaExceeded, TenantDisabled
from redoma_tenant.meter.account import Account
from redoma_tenant.meter.queue import AccountQueue, Operation, UnknownTenant
from redoma_tenant.meter.told import Checkpoint, Ending, Grant, Refusal, Replayed, Start, Verdict

T = TypeVar("T")


class Meter:
    """Holds, counts and books what calls use."""

    __slots__ = ("_queue",)

    def __init__(self, queue: AccountQueue) -> None:
        self._queue = queue

    async def reserve(self, tenant: str, start: Start) -> Grant:
        """Holds what a call may use; said twice of a call, it is held once.

        Raises:
            QuotaExceeded: A limit has no room for it.
            CredentialInvalid: There is no such tenant, or a call of that `jti` has ended.
            CredentialRevoked, CredentialExpired, TenantDisabled: The caller may not call any more.
            StorageUnavailable: It is not known whether it is held.
        """
        operation = Operation(lambda account: account.reserve(start), frozenset({start.token_id}), (start.caller,))
        try:
            answer = await self._queue.do(tenant, operation)
        except UnknownTenant:
            raise CredentialInvalid("The tenant of this identity does not exist.") from None
        match answer:
            case Grant():
                return answer
            case Replayed():
                raise CredentialInvalid("A call with this identity has ended; every call needs an identity of its own.")
            case Refusal(end="CREDENTIAL_EXPIRED"):
                raise CredentialExpired()
            case Refusal(end="TENANT_DISABLED"):
                raise TenantDisabled(tenant)
            case Refusal(end=end) if end:
                raise CredentialRevoked()
            case Refusal():
                raise QuotaExceeded(tenant, start.caller.principal, answer.shortages)

    async def checkpoint(self, tenant: str, calls: Sequence[Checkpoint]) -> list[Verdict]:
        """Notes what running calls of a tenant have used, and says of each, in order, whether it may go on.

        Raises:
            StorageUnavailable: The database does not answer.
        """

        def act(account: Account) -> list[Verdict]:
            return [account.checkpoint(call) for call in calls]

        operation = Operation(act, frozenset(call.token_id for call in calls), needs_prices=False)
        try:
            return await self._queue.do(tenant, operation)
        except UnknownTenant:
            return [Verdict(None, "RESOURCE_NOT_FOUND") for _ in calls]

    async def settle(self, tenant: str, endings: Sequence[Ending]) -> list[bool]:
        """Books what calls of a tenant used, and says of each, in order, whether it is known.

        Raises:
            StorageUnavailable: It is not known whether they are booked; say it again.
        """

        def act(account: Account) -> list[bool]:
            return [account.settle(ending) for ending in endings]

        operation = Operation(act, frozenset(ending.token_id for ending in endings), may_have_ended=True)
        try:
            return await self._queue.do(tenant, operation)
        except UnknownTenant:
            return [False for _ in endings]
